"""Asking one object what entry it is: one HEAD, and more only where its metadata is not enough."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import FormatError, KeyUnlockError, ObjectMissingError
from asyncbackup.format.envelope import HEADER_SIZE, MAGIC, UNKNOWN_SIZE, read_header, sealed_size
from asyncbackup.format.hidden import HIDDEN
from asyncbackup.format.keys import LONG, LONG_PATH_SUFFIX, run_prefix
from asyncbackup.format.manifest_entries import entry_fits
from asyncbackup.format.metadata import describe_object
from asyncbackup.model import Entry, Extent, Kind
from asyncbackup.rebuild.hidden import describe_hidden, read_hidden_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncbackup.repository.open import Repository
    from asyncbackup.store.base import ObjectInfo

LONG_PATH_LIMIT_BYTES = 1024 * 1024
NOT_SEALED = (
    "it is not encrypted, but the section is: it is older than that, or somebody else put it there; with "
    "encryption disabled in the configuration it is taken"
)
_MAX_ID = 2**32 - 1
_MAX_COUNT = 2**63 - 1


class Described(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What one object tells. ``first`` is the path whose content a stand-in shares, ``b""`` for every
    other object. ``guessed`` says that it carries no metadata, so that all but its content and path are
    guesses; ``omitted`` names what its metadata had no room for."""

    entry: Entry
    first: bytes = b""
    guessed: bool = False
    omitted: tuple[str, ...] = ()


def labelled(entry: Entry) -> Entry:
    """The entry with a label for one inode at one time: inode numbers are used again, and objects of runs
    long past stand beside today's. Names that share an inode share size and mtime."""
    if not entry.hardlink:
        return entry
    label = f"{entry.hardlink}:{entry.size:x}:{entry.mtime_ns:x}"
    return msgspec.structs.replace(entry, hardlink=label)


async def describe(repository: Repository, run: str, key: str) -> Described:
    """The entry that the object at ``key`` of ``run`` is, with its extent.

    Raises ``FormatError`` for metadata that cannot be, ``ObjectMissingError``,
    ``StoreError``, and ``KeyUnlockError`` for an encrypted object of a section
    that is not encrypted.
    """
    prefix = run_prefix(repository.section, run)
    info = await repository.store.head(prefix + key)
    if key.startswith(HIDDEN):
        return await _describe_hidden(repository, run, key, info)
    path = None
    if key.startswith(LONG) and "asyncbackup-path" not in info.metadata:
        path = await _path_beside(repository, prefix + key + LONG_PATH_SUFFIX)
    described = describe_object(info.metadata, key=key, stored_size=info.size, path=path)
    entry = described.entry
    _check_numbers(entry)
    told = Described(
        entry=entry,
        first=described.first_path,
        guessed=not described.described,
        # A path that had no room was found, or there would be no entry.
        omitted=tuple(name for name in described.omitted if name != "path"),
    )
    if told.first:
        return told
    if entry.kind is not Kind.FILE:
        extent = Extent(run=run, key=key, length=0)
        return msgspec.structs.replace(told, entry=msgspec.structs.replace(entry, extent=extent))
    encrypted = described.encrypted
    if not encrypted and repository.seals:
        entry = await _sealed_entry(repository, prefix + key, entry, info.metadata)
        encrypted = True
    if encrypted and repository.key is None:
        raise locked(repository, prefix + key)
    multipart = "-" in info.checksum
    extent = Extent(
        run=run,
        key=key,
        length=info.size,
        checksum=info.checksum if encrypted or described.compression or multipart else "",
        encrypted=encrypted,
        compression=described.compression,
    )
    if not entry.sha256 and not encrypted and not described.compression:
        entry = msgspec.structs.replace(entry, sha256=_content_digest(info))
    return msgspec.structs.replace(told, entry=msgspec.structs.replace(entry, extent=extent))


async def _describe_hidden(repository: Repository, run: str, key: str, info: ObjectInfo) -> Described:
    """The entry of an object with a hidden name, which says all that there is to say."""
    full_key = run_prefix(repository.section, run) + key
    if repository.key is None:
        raise locked(repository, full_key)
    head = await read_hidden_head(repository, full_key, info.size)
    described = describe_hidden(head, key)
    _check_numbers(described.entry)
    if described.first_path:
        return Described(entry=described.entry, first=described.first_path)
    extent = Extent(
        run=run,
        key=key,
        length=info.size,
        checksum=info.checksum,
        encrypted=True,
        compression=head.compression,
        skip=head.skip,
    )
    return Described(entry=msgspec.structs.replace(described.entry, extent=extent))


def locked(repository: Repository, key: str) -> KeyUnlockError:
    """What is said of something sealed in a section that is not encrypted."""
    section = repository.section
    return KeyUnlockError(
        f"{key} is encrypted, but section {section!r} names no secret; "
        f"name the pass phrase of this destination in sections.{section}.encryption"
    )


async def _path_beside(repository: Repository, key: str) -> bytes | None:
    """The path that had no room in the metadata; ``None`` if its object is gone."""
    try:
        return await repository.store.get(key, limit=LONG_PATH_LIMIT_BYTES)
    except ObjectMissingError:
        return None


async def _sealed_entry(repository: Repository, key: str, entry: Entry, metadata: Mapping[str, str]) -> Entry:
    """The entry of an object of an encrypted section that does not say that it is sealed.

    Where the endpoint lost its metadata the object's own header tells; one
    with metadata that leaves this out is none of ours.
    """
    unsealed = FormatError(NOT_SEALED)
    if metadata or entry.size < HEADER_SIZE:
        raise unsealed
    async with repository.store.open(key, offset=0, length=HEADER_SIZE) as source:
        header = b"".join([chunk async for chunk in source])
    if not header.startswith(MAGIC):
        raise unsealed
    size = read_header(header, key)
    if size == UNKNOWN_SIZE or sealed_size(size) != entry.size:
        raise FormatError(f"{entry.size} bytes cannot be the sealed form of {size} bytes")
    return msgspec.structs.replace(entry, size=size)


def _content_digest(info: ObjectInfo) -> bytes:
    """The SHA-256 of a plain object from its checksum, ``b""`` where that is a composite or missing."""
    try:
        digest = base64.b64decode(info.checksum, validate=True)
    except binascii.Error:
        return b""
    return digest if len(digest) == 32 else b""


def _check_numbers(entry: Entry) -> None:
    if entry.uid > _MAX_ID or entry.gid > _MAX_ID or entry.nlink > _MAX_COUNT or entry.size > _MAX_COUNT:
        raise FormatError("its metadata has a number that no file system has")
    if not entry_fits(entry):
        raise FormatError("its path and extended attributes are more than a snapshot has room for")
    if entry.kind is Kind.SYMLINK and not entry.target:
        raise FormatError("it is a symlink and does not say to where")
