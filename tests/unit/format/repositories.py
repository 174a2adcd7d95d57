"""A small repository with three snapshots, as the objects that lie at a destination."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import msgspec

from asyncbackup.format.descriptor import FLOOR, Descriptor, encode_descriptor
from asyncbackup.format.envelope import UNKNOWN_SIZE, Sealer
from asyncbackup.format.keys import content_key, long_path_key, run_prefix, snapshot_key
from asyncbackup.format.keyslots import RepositoryKey, key_file_slot, passphrase_slot
from asyncbackup.format.manifest import ManifestHeader, ManifestTrailer, ManifestWriter
from asyncbackup.format.metadata import encode_metadata, long_path_fits
from asyncbackup.format.readme import restore_readme
from asyncbackup.model import Entry, Extent, Kind
from tests.unit.format.vectors import content

REPOSITORY = "8f14e45fceea167a5a36dedd4bea2543"
SECTION = "home"
RUNS = ["20261120T100000Z-0001", "20261121T100000Z-0002", "20261122T100000Z-0003"]
PASSPHRASE = "pass phräse".encode()
KEY_FILE = bytes(range(32))
KEY = RepositoryKey(hashlib.sha256(b"master").digest())
MTIME = 1_732_304_200_123_456_789

Objects = dict[str, tuple[bytes, dict[str, str]]]
"""Key → body and metadata."""

LONG = b"/".join([b"quite a long name of a folder"] * 40)
_TYPES = {Kind.FILE: 0o100000, Kind.FOLDER: 0o040000, Kind.SYMLINK: 0o120000}


def entry_of(path: bytes, kind: Kind, *, body: bytes = b"", mode: int = 0o755, **fields: object) -> Entry:
    number = sum(path)
    entry = Entry(
        path=path,
        kind=kind,
        mode=_TYPES[kind] | mode,
        size=len(body),
        mtime_ns=MTIME + number * 10**9,
        uid=1000,
        gid=1000,
        owner="me",
        group="me",
        sha256=hashlib.sha256(body).digest() if kind is Kind.FILE else b"",
    )
    return msgspec.structs.replace(entry, **fields)


class Repository:
    """Makes the objects of runs as the writer of docs/format.md would."""

    def __init__(self, *, encrypted: bool) -> None:
        self.encrypted = encrypted
        self.objects: Objects = {}
        slots = (
            passphrase_slot(KEY, PASSPHRASE, repository=REPOSITORY, created_ns=0, cost=FLOOR),
            key_file_slot(KEY, KEY_FILE, repository=REPOSITORY, created_ns=0),
        )
        descriptor = Descriptor(repository=REPOSITORY, created_ns=0, slots=slots if encrypted else ())
        self.objects["asyncbackup.json"] = (encode_descriptor(descriptor), {})

    def add_readme(self, destination: str) -> None:
        text = restore_readme(destination=destination, sections=[SECTION], encrypted=self.encrypted)
        self.objects["RESTORE.md"] = (text, {})

    def upload(self, run: str, entry: Entry, body: bytes = b"") -> Entry:
        """Adds the object of ``entry``; returns the entry that says where it lies."""
        prefix = run_prefix(SECTION, run)
        key = content_key(entry.path, entry.kind, prefix_bytes=len(prefix) + 40)
        sealed = self.encrypted and entry.kind is Kind.FILE
        metadata = encode_metadata(
            entry, original_size=entry.size if sealed else None, long_path=key.startswith("long/")
        )
        if key.startswith("long/") and not long_path_fits(entry):
            self.objects[prefix + long_path_key(entry.path)] = (entry.path, {})
        stored = self.seal(prefix + key, body) if sealed else body
        self.objects[prefix + key] = (stored, metadata)
        checksum = base64.b64encode(hashlib.sha256(stored).digest()).decode() if sealed else ""
        extent = Extent(run, key, len(stored), checksum=checksum, encrypted=sealed)
        return msgspec.structs.replace(entry, extent=extent)

    def seal(self, key: str, body: bytes, *, size: int | None = None) -> bytes:
        sealer = Sealer(
            KEY,
            repository=REPOSITORY,
            section=SECTION,
            object_key=key,
            size=len(body) if size is None else size,
        )
        return sealer.start() + sealer.update(body) + sealer.finalize()

    def commit(
        self, run: str, entries: list[Entry], *, base: str = "", deleted: tuple[bytes, ...] = ()
    ) -> None:
        header = ManifestHeader(
            snapshot=run,
            section=SECTION,
            repository=REPOSITORY,
            started_ns=1,
            base=base or None,
            depth=1 if base else 0,
        )
        writer = ManifestWriter(header)
        plain = b""
        items: dict[bytes, Entry | None] = {entry.path: entry for entry in entries}
        items |= dict.fromkeys(deleted)
        for path in sorted(items, key=lambda path: path.rpartition(b"/")[::2]):
            entry = items[path]
            plain += writer.add_deleted([path]) if entry is None else writer.add([entry])
        plain += writer.finish(ManifestTrailer(finished_ns=2))
        key = snapshot_key(SECTION, run)
        self.objects[key] = (self.seal(key, plain, size=UNKNOWN_SIZE) if self.encrypted else plain, {})

    def write_to(self, folder: Path) -> None:
        """The objects as files, as a plain copy of the destination has them."""
        for key, (body, _) in self.objects.items():
            if not key.endswith("/"):
                path = folder / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)


Tree = dict[bytes, tuple[Entry, bytes]]
"""Path → what has to be there after a restore, and its content."""


def example(*, encrypted: bool) -> tuple[Repository, list[Tree]]:
    """Three runs: all; one file changed, one added, one deleted; and a difference to that."""
    repository = Repository(encrypted=encrypted)
    trees: list[Tree] = []
    first: Tree = {}
    for path, kind, body, mode in [
        (b"", Kind.FOLDER, b"", 0o755),
        (b"docs", Kind.FOLDER, b"", 0o750),
        (b"empty", Kind.FOLDER, b"", 0o700),
        (b"docs/report.pdf", Kind.FILE, content(40_000), 0o640),
        (b"docs/old.txt", Kind.FILE, b"old", 0o644),
        ("ümläut 100% +&.txt".encode(), Kind.FILE, b"u", 0o600),
        (b"bad\xff\n\\%41.txt", Kind.FILE, content(16_384), 0o644),
        (b"nothing", Kind.FILE, b"", 0o644),
        *((LONG[: 30 * n - 1], Kind.FOLDER, b"", 0o755) for n in range(1, 41)),
        (LONG + b"/file", Kind.FILE, b"deep", 0o644),
    ]:
        entry = entry_of(path, kind, body=body, mode=mode)
        first[path] = (repository.upload(RUNS[0], entry, body), body)
    link = entry_of(b"link", Kind.SYMLINK, mode=0o777, target=b"docs/rep\xff", size=8)
    first[b"link"] = (repository.upload(RUNS[0], link), b"")
    one = entry_of(b"docs/one", Kind.FILE, body=b"shared", mode=0o644, hardlink="1", nlink=2)
    one = repository.upload(RUNS[0], one, b"shared")
    other = msgspec.structs.replace(one, path=b"other")
    first[one.path], first[other.path] = (one, b"shared"), (other, b"shared")
    trees.append(first)
    repository.commit(RUNS[0], [entry for entry, _ in first.values()])

    second = dict(first)
    del second[b"docs/old.txt"]
    for path, body in [(b"docs/report.pdf", b"changed"), (b"docs/new", content(33_000))]:
        entry = entry_of(path, Kind.FILE, body=body, mode=0o644)
        second[path] = (repository.upload(RUNS[1], entry, body), body)
    trees.append(second)
    repository.commit(RUNS[1], [entry for entry, _ in second.values()])

    third = dict(second)
    del third[b"nothing"]
    entry = entry_of(b"docs/report.pdf", Kind.FILE, body=b"changed", mode=0o600)
    third[entry.path] = (msgspec.structs.replace(entry, extent=second[entry.path][0].extent), b"changed")
    trees.append(third)
    repository.commit(RUNS[2], [third[entry.path][0]], base=RUNS[1], deleted=(b"nothing",))
    return repository, trees
