"""Repositories for tests, written object by object as docs/format.md says, without the pipeline."""

from __future__ import annotations

import base64
import hashlib
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from asyncbackup.config import EncryptionSettings, S3Settings, SectionSettings, Settings
from asyncbackup.format.descriptor import FLOOR
from asyncbackup.format.envelope import Sealer
from asyncbackup.format.keys import content_key, extent_key, long_path_key, run_prefix
from asyncbackup.format.manifest import ManifestHeader, ManifestTrailer
from asyncbackup.format.metadata import encode_metadata, long_path_fits
from asyncbackup.model import Entry, Extent, Kind, RunId, split_path
from asyncbackup.repository.create import create_repository
from asyncbackup.repository.manifest_upload import ManifestUpload
from asyncbackup.repository.open import open_repository

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from asyncbackup.repository.open import Repository

PASSPHRASE = "correct horse battery staple"
FIRST = RunId("20261101T080000Z-aaaa")
SECOND = RunId("20261102T080000Z-bbbb")
THIRD = RunId("20261103T080000Z-cccc")
MTIME_NS = 1_700_000_000_123_456_789
EMPTY_SHA256 = hashlib.sha256().digest()


class Link(msgspec.Struct, frozen=True):
    """A symlink of a test tree."""

    target: bytes


class HardLink(msgspec.Struct, frozen=True):
    """A further name of ``first``, stored as an empty stand-in."""

    first: bytes


Node: TypeAlias = bytes | Link | HardLink | None
"""A file's content, ``None`` for a folder, a symlink, a further name of a file."""


def settings_for(
    folder: Path,
    destination: str,
    *,
    s3: S3Settings | None = None,
    encrypted: bool = False,
    concurrency: int = 4,
    name: str = "home",
) -> tuple[Settings, SectionSettings]:
    """Settings with one section; ``folder`` takes state and pass phrase."""
    encryption = EncryptionSettings()
    if encrypted:
        passphrase = folder / "passphrase"
        passphrase.write_text(PASSPHRASE)
        passphrase.chmod(0o600)
        encryption = EncryptionSettings(enabled=True, passphrase_file=passphrase)
    section = SectionSettings(name=name, path=Path("/src"), destination=destination, encryption=encryption)
    settings = Settings(
        state_dir=folder / "state",
        concurrency=concurrency,
        s3=s3 or S3Settings(),
        sections={name: section},
    )
    return settings, section


@asynccontextmanager
async def repository_at(settings: Settings, section: SectionSettings) -> AsyncIterator[Repository]:
    """An open repository, made where there is none, with the cheapest key derivation that is allowed."""
    await create_repository(settings, section, cost=FLOOR)
    async with open_repository(settings, section) as repository:
        yield repository


async def save(
    repository: Repository,
    run: RunId,
    tree: Mapping[bytes, Node],
    *,
    unchanged: Iterable[Entry] = (),
    part_bytes: int = 0,
    manifest: bool = True,
) -> dict[bytes, Entry]:
    """One snapshot: an object for every node of ``tree``, and a manifest of those and ``unchanged``.

    Missing parents are added. Contents over ``part_bytes`` (if any) go up in parts.
    """
    nodes: dict[bytes, Node] = {b"": None, **tree}
    for path in tree:
        folder = split_path(path)[0]
        while folder:
            nodes.setdefault(folder, None)
            folder = split_path(folder)[0]
    entries = {entry.path: entry for entry in unchanged}
    firsts = {node.first: f"7:{node.first.hex()}" for node in nodes.values() if isinstance(node, HardLink)}
    for path in sorted(nodes, key=lambda path: (isinstance(nodes[path], HardLink), split_path(path))):
        label = firsts.get(path, "")
        entries[path] = await _save_node(repository, run, path, nodes[path], entries, label, part_bytes)
    if manifest:
        await write_manifest(repository, run, entries.values())
    return entries


async def write_manifest(
    repository: Repository,
    run: RunId,
    entries: Iterable[Entry],
    *,
    header: ManifestHeader | None = None,
) -> None:
    """The manifest of a snapshot with these entries, in whatever order they come."""
    header = header or header_of(repository, run)
    async with ManifestUpload(repository, header) as upload:
        await upload.add(sorted(entries, key=lambda entry: split_path(entry.path)))
        await upload.commit(ManifestTrailer(finished_ns=header.started_ns + 1))


def header_of(repository: Repository, run: RunId) -> ManifestHeader:
    return ManifestHeader(
        snapshot=run,
        section=repository.section,
        repository=repository.repository_id,
        started_ns=1_700_000_000_000_000_000,
        host="host",
        source="/src",
    )


async def _save_node(
    repository: Repository,
    run: RunId,
    path: bytes,
    node: Node,
    saved: Mapping[bytes, Entry],
    label: str,
    part_bytes: int,
) -> Entry:
    prefix_bytes = len(run_prefix(repository.section, run))
    if isinstance(node, HardLink):
        first = saved[node.first]
        entry = msgspec.structs.replace(first, path=path)
        key = content_key(path, Kind.FILE, prefix_bytes=prefix_bytes)
        metadata = encode_metadata(
            entry, original_size=None, long_path=key.startswith("long/"), first_path=node.first
        )
        await repository.store.put(
            run_prefix(repository.section, run) + key, b"", sha256=EMPTY_SHA256, metadata=metadata
        )
        return entry
    entry = _described(path, node)
    if label:
        entry = msgspec.structs.replace(entry, hardlink=label, nlink=2)
    key = content_key(path, entry.kind, prefix_bytes=prefix_bytes)
    content = node if isinstance(node, bytes) else b""
    sealed = repository.key is not None and entry.kind is Kind.FILE
    extent = Extent(run=run, key=key, length=len(content), encrypted=sealed)
    full_key = extent_key(repository.section, extent)
    body = _seal(repository, full_key, content) if sealed else content
    metadata = encode_metadata(
        entry, original_size=len(content) if sealed else None, long_path=key.startswith("long/")
    )
    if part_bytes and len(body) > part_bytes:
        checksum = await _put_in_parts(repository, full_key, body, metadata, part_bytes)
        extent = msgspec.structs.replace(extent, checksum=checksum, part_size=part_bytes)
    else:
        digest = hashlib.sha256(body).digest()
        await repository.store.put(full_key, body, sha256=digest, metadata=metadata)
        if sealed:
            extent = msgspec.structs.replace(extent, checksum=base64.b64encode(digest).decode())
    if key.startswith("long/") and not long_path_fits(entry):
        path_key = run_prefix(repository.section, run) + long_path_key(path)
        await repository.store.put(path_key, path, sha256=hashlib.sha256(path).digest())
    return msgspec.structs.replace(entry, extent=msgspec.structs.replace(extent, length=len(body)))


def _described(path: bytes, node: Node) -> Entry:
    entry = Entry(
        path=path,
        kind=Kind.FOLDER,
        mode=0o040750,
        mtime_ns=MTIME_NS + len(path),
        ctime_ns=MTIME_NS + 1,
        uid=1000,
        gid=100,
        owner="müller",
        group="users",
    )
    if isinstance(node, bytes):
        digest = hashlib.sha256(node).digest()
        return msgspec.structs.replace(
            entry, kind=Kind.FILE, mode=0o100640, nlink=1, size=len(node), sha256=digest
        )
    if isinstance(node, Link):
        return msgspec.structs.replace(
            entry, kind=Kind.SYMLINK, mode=0o120777, nlink=1, size=len(node.target), target=node.target
        )
    return entry


def _seal(repository: Repository, key: str, content: bytes) -> bytes:
    assert repository.key is not None
    sealer = Sealer(
        repository.key,
        repository=repository.repository_id,
        section=repository.section,
        object_key=key,
        size=len(content),
    )
    return sealer.start() + bytes(sealer.update(content)) + sealer.finalize()


async def _put_in_parts(
    repository: Repository, key: str, body: bytes, metadata: Mapping[str, str], part_bytes: int
) -> str:
    store = repository.store
    upload = await store.create_upload(key, metadata=metadata)
    receipts = []
    for number, start in enumerate(range(0, len(body), part_bytes), 1):
        part = body[start : start + part_bytes]
        digest = hashlib.sha256(part).digest()
        receipt = await store.upload_part(key, upload, number, part, sha256=digest)
        receipts.append(msgspec.structs.replace(receipt, sha256=digest))
    await store.complete_upload(key, upload, receipts)
    digests = hashlib.sha256(b"".join(receipt.sha256 for receipt in receipts)).digest()
    return f"{base64.b64encode(digests).decode()}-{len(receipts)}"
