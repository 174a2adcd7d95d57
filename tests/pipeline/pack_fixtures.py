"""Packs for tests, built with tarfile and zstandard as docs/format.md says, and manifests that need them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import TYPE_CHECKING

import msgspec
import zstandard

from asyncbackup.format.envelope import Sealer
from asyncbackup.format.keys import data_prefix, pack_key, snapshot_key
from asyncbackup.format.manifest import Deleted, ManifestTrailer, ManifestWriter
from asyncbackup.model import ZSTD, Entry, Extent, Kind, Pack, RunId, split_path
from asyncbackup.store.checksums import single_checksum
from tests.pipeline.repository_fixtures import MTIME_NS, header_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from asyncbackup.format.manifest import TreeItem
    from asyncbackup.repository.open import Repository

ROOT = Entry(path=b"", kind=Kind.FOLDER, mode=0o040750, mtime_ns=MTIME_NS)


class Packed(msgspec.Struct, frozen=True):
    """A pack that was put to the store, and the entries of what is in it."""

    pack: Pack
    entries: dict[bytes, Entry]

    @property
    def key(self) -> str:
        """The pack's whole key in section ``home``."""
        return f"{data_prefix('home')}{self.pack.run}/{self.pack.key}"


async def put_pack(
    repository: Repository,
    run: RunId,
    files: Mapping[bytes, bytes | None],
    *,
    number: int = 1,
    compressed: bool = False,
    files_a_frame: int = 3,
) -> Packed:
    """A pack of ``files`` (``None``: a folder), sealed where the section is."""
    key = pack_key(number, compressed=compressed)
    body, places = _tar(files)
    if compressed:
        body, extents = _frames(run, key, body, places, files_a_frame)
    else:
        extents = {
            path: Extent(run=run, key=key, offset=offset, length=len(files[path] or b""))
            for path, (_, offset) in places.items()
        }
    full_key = f"{data_prefix(repository.section)}{run}/{key}"
    encrypted = repository.key is not None
    stored = seal(repository, full_key, body) if encrypted else body
    digest = hashlib.sha256(stored).digest()
    await repository.store.put(full_key, stored, sha256=digest)
    pack = Pack(run, key, len(stored), single_checksum(digest), encrypted, ZSTD if compressed else "")
    entries = {
        path: _entry(path, content, msgspec.structs.replace(extents[path], encrypted=encrypted))
        for path, content in files.items()
    }
    return Packed(pack, entries)


def seal(repository: Repository, key: str, content: bytes) -> bytes:
    """``content`` as the sealed object at ``key``."""
    assert repository.key is not None
    sealer = Sealer(
        repository.key,
        repository=repository.repository_id,
        section=repository.section,
        object_key=key,
        size=len(content),
    )
    return sealer.start() + bytes(sealer.update(content)) + sealer.finalize()


async def put_manifest(
    repository: Repository,
    run: RunId,
    entries: Iterable[Entry],
    *,
    packs: Sequence[Pack] = (),
    deleted: Iterable[bytes] = (),
    base: RunId | None = None,
    depth: int = 0,
    revision: int = 0,
    totals: Iterable[Entry] | None = None,
) -> None:
    """A manifest with these lines. ``totals`` are the entries of its whole snapshot, if those are others."""
    header = msgspec.structs.replace(header_of(repository, run), base=base, depth=depth, revision=revision)
    items: list[TreeItem] = [*entries, *(Deleted(path) for path in deleted)]
    writer = ManifestWriter(header)
    text = b""
    for item in sorted(items, key=lambda item: split_path(item.path)):
        text += writer.add_deleted([item.path]) if isinstance(item, Deleted) else writer.add([item])
    text += writer.add_packs(sorted(packs, key=lambda pack: (pack.run, pack.key)))
    whole = list(totals if totals is not None else (item for item in items if isinstance(item, Entry)))
    text += writer.finish(
        ManifestTrailer(
            finished_ns=header.started_ns + 1,
            files=sum(entry.kind is Kind.FILE for entry in whole),
            folders=sum(entry.kind is Kind.FOLDER for entry in whole),
            symlinks=sum(entry.kind is Kind.SYMLINK for entry in whole),
            bytes=sum(entry.size for entry in whole if entry.kind is Kind.FILE),
        )
    )
    key = snapshot_key(repository.section, run, revision)
    stored = text if repository.key is None else seal(repository, key, text)
    await repository.store.put(key, stored, sha256=hashlib.sha256(stored).digest())


def _tar(files: Mapping[bytes, bytes | None]) -> tuple[bytes, dict[bytes, tuple[int, int]]]:
    """The archive, and where each member's header and content begin."""
    target = io.BytesIO()
    places: dict[bytes, tuple[int, int]] = {}
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path.decode())
            member.mtime = MTIME_NS // 1_000_000_000
            start = target.tell()
            if content is None:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            padded = -(-len(content or b"") // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[path] = (start, target.tell() - padded)
    return target.getvalue(), places


def _frames(
    run: str, key: str, tar: bytes, places: Mapping[bytes, tuple[int, int]], files_a_frame: int
) -> tuple[bytes, dict[bytes, Extent]]:
    """The archive as zstd frames of some whole members each."""
    stored = b""
    extents: dict[bytes, Extent] = {}
    paths = list(places)
    for first in range(0, len(paths), files_a_frame):
        held = paths[first : first + files_a_frame]
        rest = paths[first + files_a_frame :]
        start = places[held[0]][0]
        end = places[rest[0]][0] if rest else len(tar)
        frame = zstandard.ZstdCompressor(write_checksum=True).compress(tar[start:end])
        for path in held:
            extents[path] = Extent(
                run=run,
                key=key,
                offset=len(stored),
                length=len(frame),
                compression=ZSTD,
                skip=places[path][1] - start,
            )
        stored += frame
    return stored, extents


def _entry(path: bytes, content: bytes | None, extent: Extent) -> Entry:
    if content is None:
        return Entry(path=path, kind=Kind.FOLDER, mode=0o040750, mtime_ns=MTIME_NS, extent=extent)
    return Entry(
        path=path,
        kind=Kind.FILE,
        mode=0o100640,
        size=len(content),
        mtime_ns=MTIME_NS,
        nlink=1,
        sha256=hashlib.sha256(content).digest(),
        extent=extent,
    )
