"""Key slots: the repository's master key, wrapped by a pass phrase or a key file.

See docs/format.md, "Key slots". The master key is 32 random bytes and never
changes; adding or removing a secret rewrites the descriptor alone.
"""

from __future__ import annotations

import secrets
import struct
import threading
from typing import TYPE_CHECKING, NoReturn

from asyncbackup.errors import KeyUnlockError
from asyncbackup.format.descriptor import (
    NONCE_BYTES,
    SALT_BYTES,
    Argon2idParameters,
    Descriptor,
    HkdfParameters,
    Kdf,
    KdfBounds,
    KeySlot,
    check_kdf,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
KEY_FILE_BYTES = 32

DEFAULT_COST = KdfBounds(iterations=3, memory_kib=64 * 1024, lanes=4)
"""RFC 9106's second recommendation: about 0.1 s and 64 MiB on an ordinary machine."""

_WRAP_LABEL = b"asyncbackup key slot v1"
_KEY_FILE_INFO = b"asyncbackup key file v1"


class RepositoryKey:
    """The master key of an encrypted repository. Shows itself nowhere: not in repr, pickles or copies."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a repository key has {KEY_BYTES} bytes")
        self._secret = secret

    def reveal(self) -> bytes:
        """The 32 bytes, for the modules that encrypt and for tests; never to be logged or stored."""
        return self._secret

    def __repr__(self) -> str:
        return "RepositoryKey(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a repository key is not to be pickled or copied")


def new_master_key() -> RepositoryKey:
    """A fresh random key, for a new repository."""
    return RepositoryKey(secrets.token_bytes(KEY_BYTES))


def passphrase_slot(
    key: RepositoryKey,
    passphrase: bytes,
    *,
    repository: str,
    created_ns: int,
    label: str = "",
    cost: KdfBounds = DEFAULT_COST,
) -> KeySlot:
    """A slot that opens with ``passphrase``, taken byte for byte.

    Costs what Argon2id is told to cost, so not to be called on the event loop.
    Raises ``ValueError`` for an empty pass phrase, ``FormatError`` for a cost
    out of bounds.
    """
    if not passphrase:
        raise ValueError("the pass phrase is empty")
    kdf = Argon2idParameters(
        salt=secrets.token_bytes(SALT_BYTES),
        iterations=cost.iterations,
        memory_kib=cost.memory_kib,
        lanes=cost.lanes,
    )
    slot_id = secrets.token_hex(8)
    check_kdf(kdf, slot=slot_id)
    nonce = secrets.token_bytes(NONCE_BYTES)
    binding = slot_binding(repository, slot_id, kdf)
    wrapped = _cipher(kdf, passphrase).encrypt(nonce, key.reveal(), binding)
    return KeySlot(
        id=slot_id,
        kind="passphrase",
        kdf=kdf,
        nonce=nonce,
        wrapped=wrapped,
        created_ns=created_ns,
        label=label,
    )


def key_file_slot(
    key: RepositoryKey, key_file: bytes, *, repository: str, created_ns: int, label: str = ""
) -> KeySlot:
    """A slot that opens with a key file. Raises ``ValueError`` unless ``key_file`` has 32 bytes."""
    _check_key_file(key_file)
    kdf = HkdfParameters(salt=secrets.token_bytes(SALT_BYTES))
    slot_id = secrets.token_hex(8)
    nonce = secrets.token_bytes(NONCE_BYTES)
    binding = slot_binding(repository, slot_id, kdf)
    wrapped = _cipher(kdf, key_file).encrypt(nonce, key.reveal(), binding)
    return KeySlot(
        id=slot_id,
        kind="key-file",
        kdf=kdf,
        nonce=nonce,
        wrapped=wrapped,
        created_ns=created_ns,
        label=label,
    )


def unlock(
    descriptor: Descriptor, *, passphrase: bytes | None = None, key_file: bytes | None = None
) -> RepositoryKey:
    """The master key, from the first slot that opens with one of the secrets.

    Tries every slot of the secret's kind, at the cost of its parameters, so
    not to be called on the event loop. Raises :class:`KeyUnlockError`, which
    tells neither secret.
    """
    for slot in descriptor.slots:
        key = open_slot(descriptor.repository, slot, passphrase=passphrase, key_file=key_file)
        if key is not None:
            return key
    raise _nothing_opened(descriptor, passphrase, key_file)


def open_slots(
    descriptor: Descriptor, *, passphrase: bytes | None = None, key_file: bytes | None = None
) -> tuple[RepositoryKey, frozenset[str]]:
    """The master key, and the ids of *all* slots that open with one of the secrets.

    Costs more than :func:`unlock`, which stops at the first; raises as that does.
    """
    opened: list[tuple[str, RepositoryKey]] = []
    for slot in descriptor.slots:
        key = open_slot(descriptor.repository, slot, passphrase=passphrase, key_file=key_file)
        if key is not None:
            opened.append((slot.id, key))
    if not opened:
        raise _nothing_opened(descriptor, passphrase, key_file)
    key = opened[0][1]
    return key, frozenset(slot_id for slot_id, other in opened if other.reveal() == key.reveal())


def open_slot(
    repository: str, slot: KeySlot, *, passphrase: bytes | None = None, key_file: bytes | None = None
) -> RepositoryKey | None:
    """The master key in ``slot``, ``None`` if the secret of its kind is missing or does not open it.

    Raises :class:`KeyUnlockError` for a key file of another length than 32 bytes.
    """
    if key_file is not None:
        try:
            _check_key_file(key_file)
        except ValueError as error:
            raise KeyUnlockError(str(error)) from None
    secret = passphrase if slot.kind == "passphrase" else key_file
    if not secret:
        return None
    from cryptography.exceptions import InvalidTag

    binding = slot_binding(repository, slot.id, slot.kdf)
    try:
        opened = _cipher(slot.kdf, secret).decrypt(slot.nonce, slot.wrapped, binding)
    except InvalidTag:
        return None
    return RepositoryKey(opened)


def _nothing_opened(
    descriptor: Descriptor, passphrase: bytes | None, key_file: bytes | None
) -> KeyUnlockError:
    given = [name for name, secret in (("pass phrase", passphrase), ("key file", key_file)) if secret]
    if not given:
        return KeyUnlockError("the repository is encrypted: a pass phrase or a key file is needed")
    count = len(descriptor.slots)
    return KeyUnlockError(f"the given {' or '.join(given)} opens none of the repository's {count} key slots")


def slot_binding(repository: str, slot_id: str, kdf: Kdf) -> bytes:
    """What a wrapped key is bound to, as AES-GCM's associated data.

    Repository, slot and all parameters: a slot copied elsewhere or weakened
    does not open. Every field has its length before it.
    """
    fields = [_WRAP_LABEL, repository.encode(), slot_id.encode()]
    if isinstance(kdf, Argon2idParameters):
        cost = struct.pack(">III", kdf.iterations, kdf.memory_kib, kdf.lanes)
        fields += [b"argon2id", kdf.salt, cost]
    else:
        fields += [b"hkdf-sha512", kdf.salt]
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def _cipher(kdf: Kdf, secret: bytes) -> AESGCM:
    # The library is loaded when a key is opened: sections without one do without it.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_wrapping_key(kdf, secret))


_deriving = threading.Lock()
"""Two threads that derive with several lanes at once never end (OpenSSL 4.0.3, seen with cryptography 50)."""


def _wrapping_key(kdf: Kdf, secret: bytes) -> bytes:
    if isinstance(kdf, Argon2idParameters):
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        with _deriving:
            return Argon2id(
                salt=kdf.salt,
                length=KEY_BYTES,
                iterations=kdf.iterations,
                lanes=kdf.lanes,
                memory_cost=kdf.memory_kib,
            ).derive(secret)
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA512(), KEY_BYTES, kdf.salt, _KEY_FILE_INFO).derive(secret)


def _check_key_file(key_file: bytes) -> None:
    if len(key_file) != KEY_FILE_BYTES:
        raise ValueError(f"a key file has exactly {KEY_FILE_BYTES} bytes, this one has {len(key_file)}")
