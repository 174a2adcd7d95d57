"""The repository's descriptor, ``asyncbackup.json`` (docs/format.md, "Descriptor").

It says what the repository is called and which key slots open it; a
repository without slots is not encrypted. Everything in it is readable by
whoever can read the bucket, and nothing in it is trusted before a slot opened.
"""

from __future__ import annotations

import re
import secrets
from typing import Literal

import msgspec

from asyncbackup.errors import FormatError

FORMAT = 1
MAX_DESCRIPTOR_BYTES = 64 * 1024
MAX_SLOTS = 32
MAX_LABEL_CHARACTERS = 100

SALT_BYTES = 16
NONCE_BYTES = 12
WRAPPED_BYTES = 48
"""A 32-byte master key and AES-GCM's 16-byte tag."""

_REPOSITORY = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SLOT = re.compile(r"[0-9a-f]{16}", re.ASCII)


class Argon2idParameters(msgspec.Struct, frozen=True, kw_only=True, tag="argon2id", tag_field="name"):
    """How a pass phrase becomes a key. Bounds: :data:`FLOOR` and :data:`CEILING`."""

    salt: bytes
    iterations: int
    memory_kib: int
    lanes: int


class HkdfParameters(msgspec.Struct, frozen=True, kw_only=True, tag="hkdf-sha512", tag_field="name"):
    """How the 32 random bytes of a key file become a key."""

    salt: bytes


Kdf = Argon2idParameters | HkdfParameters


class KeySlot(msgspec.Struct, frozen=True, kw_only=True):
    """The master key, wrapped by one secret. ``label`` is the user's and bound to nothing."""

    id: str
    kind: Literal["passphrase", "key-file"]
    kdf: Kdf
    nonce: bytes
    wrapped: bytes
    created_ns: int = msgspec.field(name="created", default=0)
    label: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, tag="repository", tag_field="type"):
    """``repository`` is 32 random hex digits. ``slots`` is empty if and only if nothing is encrypted."""

    format: int = FORMAT
    repository: str
    created_ns: int = msgspec.field(name="created")
    slots: tuple[KeySlot, ...] = ()

    @property
    def encrypted(self) -> bool:
        """Whether contents and manifests are sealed."""
        return bool(self.slots)


class KdfBounds(msgspec.Struct, frozen=True, kw_only=True):
    iterations: int
    memory_kib: int
    lanes: int


FLOOR = KdfBounds(iterations=2, memory_kib=19 * 1024, lanes=1)
"""Weaker parameters are refused: whoever can write the bucket could plant them."""
CEILING = KdfBounds(iterations=16, memory_kib=1024 * 1024, lanes=16)
"""Costlier parameters are refused: opening must not exhaust the machine."""


class _Probe(msgspec.Struct, tag="repository", tag_field="type"):
    """What every version of the descriptor has."""

    format: int


def new_repository_id() -> str:
    """32 random hex digits."""
    return secrets.token_hex(16)


def encode_descriptor(descriptor: Descriptor) -> bytes:
    """The object's bytes: indented JSON and a line feed.

    Raises :class:`FormatError` for a descriptor that a reader would refuse.
    """
    _check(descriptor)
    data = msgspec.json.format(msgspec.json.encode(descriptor), indent=2) + b"\n"
    if len(data) > MAX_DESCRIPTOR_BYTES:
        raise FormatError(f"the descriptor would be longer than {MAX_DESCRIPTOR_BYTES} bytes")
    return data


def decode_descriptor(data: bytes) -> Descriptor:
    """The descriptor in ``data``, bounds of every slot's parameters checked. Raises :class:`FormatError`."""
    if len(data) > MAX_DESCRIPTOR_BYTES:
        raise FormatError(f"the descriptor is longer than {MAX_DESCRIPTOR_BYTES} bytes")
    try:
        found = msgspec.json.decode(data, type=_Probe).format
        if found != FORMAT:
            raise FormatError(
                f"the repository has format {found}, this asyncbackup reads format {FORMAT}; "
                "a newer asyncbackup is needed"
            )
        descriptor = msgspec.json.decode(data, type=Descriptor)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"asyncbackup.json is not a repository's descriptor: {error}") from None
    _check(descriptor)
    return descriptor


def _check(descriptor: Descriptor) -> None:
    if _REPOSITORY.fullmatch(descriptor.repository) is None:
        raise FormatError(f"{descriptor.repository!r} is not a repository id")
    if len(descriptor.slots) > MAX_SLOTS:
        raise FormatError(f"the descriptor has {len(descriptor.slots)} key slots, more than {MAX_SLOTS}")
    if len({slot.id for slot in descriptor.slots}) != len(descriptor.slots):
        raise FormatError("two key slots of the descriptor share an id")
    for slot in descriptor.slots:
        _check_slot(slot)


def _check_slot(slot: KeySlot) -> None:
    if _SLOT.fullmatch(slot.id) is None:
        raise FormatError(f"{slot.id!r} is not the id of a key slot")
    if (slot.kind == "passphrase") != isinstance(slot.kdf, Argon2idParameters):
        raise FormatError(f"key slot {slot.id}: a {slot.kind} does not go with its key derivation")
    if (len(slot.kdf.salt), len(slot.nonce), len(slot.wrapped)) != (SALT_BYTES, NONCE_BYTES, WRAPPED_BYTES):
        raise FormatError(f"key slot {slot.id}: salt, nonce or wrapped key has a wrong length")
    if len(slot.label) > MAX_LABEL_CHARACTERS or not slot.label.isprintable():
        raise FormatError(f"key slot {slot.id}: the label is too long or not printable")
    if isinstance(slot.kdf, Argon2idParameters):
        check_kdf(slot.kdf, slot=slot.id)


def check_kdf(kdf: Argon2idParameters, *, slot: str) -> None:
    """Raises :class:`FormatError` for parameters below :data:`FLOOR` or above :data:`CEILING`."""
    for name in ("iterations", "memory_kib", "lanes"):
        value, low, high = getattr(kdf, name), getattr(FLOOR, name), getattr(CEILING, name)
        if not low <= value <= high:
            raise FormatError(f"key slot {slot}: argon2id {name} {value} is not within {low} and {high}")
