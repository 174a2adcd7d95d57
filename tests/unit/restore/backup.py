"""A backup made by hand: a tree, or any entries, in a ``file://`` repository.

It uses the format's functions and shares nothing with the engine, so that restore is tested against the
format and not against whatever the engine writes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from asyncbackup.config import EncryptionSettings, S3Settings, SectionSettings, Settings
from asyncbackup.format.envelope import Sealer
from asyncbackup.format.keys import content_key, extent_key, run_prefix, snapshot_key
from asyncbackup.format.manifest import ManifestHeader, ManifestTrailer, ManifestWriter
from asyncbackup.format.runid import new_run_id
from asyncbackup.model import Entry, Extent, Kind, Pack, RunId, kind_of_mode, split_path
from asyncbackup.repository.create import create_repository
from asyncbackup.repository.open import Repository, open_repository
from asyncbackup.restore import RestoreSummary, restore_section

SECTION = "home"
FIRST_RUN_NS = 1_790_000_000_000_000_000


class Backup:
    """A repository below ``base``, the section ``home`` in it, and a place to restore to.

    ``source`` is the tree that is backed up, ``target`` where it is restored,
    ``destination`` the folder that holds the repository.
    """

    def __init__(self, base: Path, *, encrypted: bool = False, **settings: Any) -> None:
        self.base = base
        self.source = base / "source"
        self.target = base / "target"
        self.destination = base / "destination"
        self.source.mkdir(exist_ok=True)
        self.destination.mkdir(exist_ok=True)
        encryption = EncryptionSettings()
        if encrypted:
            key_file = base / "key"
            key_file.write_bytes(b"k" * 32)
            key_file.chmod(0o600)
            encryption = EncryptionSettings(enabled=True, key_file=key_file)
        self.section = SectionSettings(
            name=SECTION,
            path=self.source,
            destination=self.destination.as_uri(),
            encryption=encryption,
        )
        self.settings = Settings(
            state_dir=base / "state", concurrency=4, sections={SECTION: self.section}, **settings
        )
        self.last_run: RunId | None = None

    def use(self, destination: str, s3: S3Settings) -> None:
        """Another destination than the folder."""
        self.section = msgspec.structs.replace(self.section, destination=destination)
        self.settings = msgspec.structs.replace(self.settings, s3=s3, sections={SECTION: self.section})

    async def create(self) -> None:
        """Make the repository."""
        await create_repository(self.settings, self.section)

    async def save_tree(self) -> RunId:
        """One snapshot of ``source``."""
        return await self.save(list(read_tree(self.source)), content=self._content)

    async def save(
        self,
        entries: Sequence[Entry],
        *,
        content: Callable[[Entry], bytes] | None = None,
        run: RunId | None = None,
        packs: Sequence[Pack] = (),
    ) -> RunId:
        """One snapshot of these entries; files without an extent get their content from ``content``
        (empty without)."""
        async with self.open() as repository:
            run = run or self.next_run()
            saved: dict[str, Extent] = {}
            stored: list[Entry] = []
            for entry in sorted(entries, key=lambda entry: split_path(entry.path)):
                if entry.kind is Kind.FILE and entry.extent is None:
                    extent = saved.get(entry.hardlink) if entry.hardlink else None
                    body = content(entry) if content else b""
                    if extent is None:
                        extent = await put_content(repository, run, entry.path, body)
                    if entry.hardlink:
                        saved[entry.hardlink] = extent
                    entry = msgspec.structs.replace(
                        entry, extent=extent, size=len(body), sha256=hashlib.sha256(body).digest()
                    )
                stored.append(entry)
            writer = ManifestWriter(_header(repository, run))
            manifest = writer.add(stored) + writer.add_packs(packs)
            manifest += writer.finish(ManifestTrailer(finished_ns=FIRST_RUN_NS))
            await put_manifest(repository, run, manifest)
        return run

    async def save_lines(self, lines: Iterable[dict[str, object]]) -> RunId:
        """A snapshot whose manifest has these lines, whatever they say; counts are made to fit."""
        async with self.open() as repository:
            run = self.next_run()
            rows = list(lines)
            kinds = [row.get("type") for row in rows]
            end = {
                "type": "end",
                "entries": len(rows),
                "deleted": 0,
                "failed": 0,
                "files": kinds.count("file"),
                "folders": kinds.count("folder"),
                "symlinks": kinds.count("symlink"),
                "bytes": sum(int(str(row.get("size", 0))) for row in rows if row.get("type") == "file"),
                "finished": FIRST_RUN_NS,
            }
            text = msgspec.json.Encoder().encode_lines([_header(repository, run), *rows, end])
            compressor = zstandard.ZstdCompressor(write_checksum=True)
            await put_manifest(repository, run, compressor.compress(text))
        return run

    def next_run(self) -> RunId:
        """The id of a further run."""
        self.last_run = new_run_id(FIRST_RUN_NS, after=self.last_run)
        return self.last_run

    async def restore(self, *paths: str, **options: Any) -> RestoreSummary:
        """Restore to ``target``, or as the options say."""
        options.setdefault("target", self.target)
        return await restore_section(
            self.settings, self.section, paths=[os.fsencode(path) for path in paths], **options
        )

    def object_path(self, run: RunId, path: str) -> Path:
        """Where the object of a file lies on disk."""
        return self.destination / run_prefix(SECTION, run) / "files" / path

    def _content(self, entry: Entry) -> bytes:
        return Path(os.fsdecode(os.path.join(os.fsencode(self.source), entry.path))).read_bytes()

    def open(self) -> AbstractAsyncContextManager[Repository]:
        """The repository itself, to put things there that no backup would."""
        return open_repository(self.settings, self.section)


async def put_content(repository: Repository, run: RunId, path: bytes, body: bytes) -> Extent:
    """Store a content as one object of a run."""
    prefix = run_prefix(repository.section, run)
    key = content_key(path, Kind.FILE, prefix_bytes=len(prefix))
    extent = Extent(run=run, key=key, length=len(body), encrypted=repository.key is not None)
    full_key = extent_key(repository.section, extent)
    sealed = seal(repository, full_key, body)
    await repository.store.put(full_key, sealed, sha256=hashlib.sha256(sealed).digest())
    return msgspec.structs.replace(extent, length=len(sealed))


async def put_manifest(repository: Repository, run: RunId, manifest: bytes) -> None:
    """Store a manifest."""
    key = snapshot_key(repository.section, run)
    sealed = seal(repository, key, manifest)
    await repository.store.put(key, sealed, sha256=hashlib.sha256(sealed).digest())


def seal(repository: Repository, key: str, body: bytes, *, size: int | None = None) -> bytes:
    """``body`` as it is stored under ``key``; ``size`` is what the header announces."""
    if repository.key is None:
        return body
    sealer = Sealer(
        repository.key,
        repository=repository.repository_id,
        section=repository.section,
        object_key=key,
        size=len(body) if size is None else size,
    )
    return sealer.start() + bytes(sealer.update(body)) + sealer.finalize()


def read_tree(root: Path) -> Iterable[Entry]:
    """The entries of a tree on disk, without extents."""
    base = os.fsencode(root)
    yield read_entry(base, b"")
    for folder, folders, files in os.walk(base):
        for name in (*folders, *files):
            path = os.path.relpath(os.path.join(folder, name), base)
            if not _is_special(os.path.join(base, path)):
                yield read_entry(base, path)


def read_entry(base: bytes, path: bytes) -> Entry:
    """One entry as it lies on disk."""
    full = os.path.join(base, path) if path else base
    status = os.lstat(full)
    kind = kind_of_mode(status.st_mode)
    names = os.listxattr(full, follow_symlinks=False)
    linked = kind is Kind.FILE and status.st_nlink > 1
    return Entry(
        path=path,
        kind=kind,
        mode=status.st_mode,
        size=status.st_size if kind is Kind.FILE else 0,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        uid=status.st_uid,
        gid=status.st_gid,
        nlink=status.st_nlink,
        target=os.readlink(full) if kind is Kind.SYMLINK else b"",
        hardlink=f"{status.st_dev:x}:{status.st_ino:x}" if linked else "",
        sparse=kind is Kind.FILE and status.st_blocks * 512 < status.st_size,
        xattrs=tuple(
            sorted((os.fsencode(name), os.getxattr(full, name, follow_symlinks=False)) for name in names)
        ),
    )


def snapshot_of(root: Path) -> dict[bytes, tuple[object, ...]]:
    """All that restore promises of a tree: path → metadata and content, hard links by first path."""
    seen: dict[tuple[int, int], bytes] = {}
    found: dict[bytes, tuple[object, ...]] = {}
    base = os.fsencode(root)
    for entry in sorted(read_tree(root), key=lambda entry: split_path(entry.path)):
        full = os.path.join(base, entry.path) if entry.path else base
        status = os.lstat(full)
        content = b""
        if entry.kind is Kind.FILE:
            with open(full, "rb") as file:
                content = file.read()
        first = seen.setdefault((status.st_dev, status.st_ino), entry.path)
        found[entry.path] = (
            entry.kind,
            oct(entry.mode),
            entry.mtime_ns,
            (entry.uid, entry.gid),
            entry.target,
            entry.xattrs,
            first,
            content,
        )
    return found


def file_entry(path: str, **fields: Any) -> Entry:
    """An entry of a regular file with plain metadata."""
    known: dict[str, Any] = {"mode": stat.S_IFREG | 0o644, "mtime_ns": FIRST_RUN_NS}
    return _entry(path, Kind.FILE, known | fields)


def folder_entry(path: str, **fields: Any) -> Entry:
    """An entry of a folder with plain metadata."""
    known: dict[str, Any] = {"mode": stat.S_IFDIR | 0o755, "mtime_ns": FIRST_RUN_NS}
    return _entry(path, Kind.FOLDER, known | fields)


def symlink_entry(path: str, target: str, **fields: Any) -> Entry:
    """An entry of a symlink with plain metadata."""
    known: dict[str, Any] = {
        "mode": stat.S_IFLNK | 0o777,
        "mtime_ns": FIRST_RUN_NS,
        "target": os.fsencode(target),
    }
    return _entry(path, Kind.SYMLINK, known | fields)


def _entry(path: str, kind: Kind, fields: dict[str, Any]) -> Entry:
    known = {"uid": os.geteuid(), "gid": os.getegid(), "nlink": 1}
    return Entry(path=os.fsencode(path), kind=kind, **(known | fields))


def _header(repository: Repository, run: RunId) -> ManifestHeader:
    return ManifestHeader(
        snapshot=run,
        section=repository.section,
        repository=repository.repository_id,
        started_ns=FIRST_RUN_NS,
    )


def _is_special(path: bytes) -> bool:
    mode = os.lstat(path).st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
