"""Finding entries in the whole history of a section, each manifest read once.

A snapshot that is a difference is never put together: what matches is noted
line by line on disk, and which version a snapshot has follows from the lines
of the manifests that it rests on.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.scratch import Scratch
from asyncbackup.format.manifest import Deleted
from asyncbackup.model import Kind, RunId, join_path, split_path
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.repository.parallel import in_parallel
from asyncbackup.repository.snapshots import list_manifests

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from pathlib import Path

    from asyncbackup.format.manifest import TreeItem
    from asyncbackup.repository.open import Repository

_TABLES = """
CREATE TABLE lines (
    folder BLOB NOT NULL,
    name BLOB NOT NULL,
    run TEXT NOT NULL,
    version BLOB NOT NULL,
    PRIMARY KEY (folder, name, run)
) WITHOUT ROWID;
"""
_NOTE = "INSERT INTO lines (folder, name, run, version) VALUES (?, ?, ?, ?)"
_IN_ORDER = "SELECT folder, name, run, version FROM lines ORDER BY folder, name, run"
_GONE = b""

_MANIFESTS_AT_ONCE = 4
"""Each holds some MiB while it is read."""
_KNOWN_PATTERNS = 4096
FOUND_AT_ONCE = 1000


class Version(msgspec.Struct, frozen=True, array_like=True):
    """What tells one state of a path from another. Of a folder times are left out: they change with
    whatever is put in."""

    kind: Kind
    mode: int
    size: int = 0
    mtime: str = "0"
    """Nanoseconds, as text: a time may lie outside 64 bits."""
    sha256: bytes = b""
    target: bytes = b""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a path that matched: the first and the last of the ``snapshots`` that hold it.
    It may have been away in between."""

    path: bytes
    version: Version
    first: RunId
    last: RunId
    snapshots: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Version)


async def find_versions(
    repository: Repository,
    snapshots: Sequence[RunId],
    matches: Callable[[bytes], bool],
    *,
    scratch_folder: Path,
    concurrency: int,
) -> AsyncGenerator[list[Found], None]:
    """Every version of every matching path that one of ``snapshots`` (oldest first) holds.

    In the order of (folder, name), the versions of a path by their first
    snapshot. Each manifest that the snapshots rest on is read once; what
    matches is kept on the disk of ``scratch_folder``.

    Raises as ``read_manifest`` does, and ``CatalogError`` where the scratch cannot be written.
    """
    async with Scratch.open(scratch_folder, _TABLES) as scratch:
        reading = _Reading(repository, scratch, matches, concurrency=concurrency)
        holders = _Holders(await reading.run(snapshots), snapshots)
        ready: list[Found] = []
        async with aclosing(_paths(scratch)) as paths:
            async for path, lines in paths:
                ready += _versions(path, lines, holders)
                if len(ready) >= FOUND_AT_ONCE:
                    yield ready
                    ready = []
        if ready:
            yield ready


class _Reading:
    """Reads manifests and notes what matches."""

    def __init__(
        self, repository: Repository, scratch: Scratch, matches: Callable[[bytes], bool], *, concurrency: int
    ) -> None:
        self._repository = repository
        self._scratch = scratch
        self._matches = matches
        self._limit = max(1, min(_MANIFESTS_AT_ONCE, concurrency))
        self._writing = asyncio.Lock()
        self._bases: dict[RunId, RunId | None] = {}
        self._revisions: dict[RunId, int] = {}

    async def run(self, snapshots: Sequence[RunId]) -> dict[RunId, RunId | None]:
        """Read the manifests of ``snapshots`` and all that those rest on; the base of each."""
        self._revisions = {info.id: info.revision for info in await list_manifests(self._repository)}
        wanted = list(dict.fromkeys(snapshots))
        while wanted:
            await in_parallel(wanted, self._read, limit=self._limit)
            bases = (self._bases[run] for run in wanted)
            wanted = [base for base in dict.fromkeys(bases) if base is not None and base not in self._bases]
        return self._bases

    async def _read(self, run: RunId) -> None:
        revision = self._revisions.get(run)
        async with (
            ManifestStream(self._repository, run, revision=revision) as stream,
            aclosing(stream.items()) as batches,
        ):
            base = stream.header.base
            self._bases[run] = None if base is None else RunId(base)
            async for batch in batches:
                rows = [
                    (*split_path(item.path), run, _version_of(item))
                    for item in batch
                    if self._matches(item.path)
                ]
                if rows:
                    # Statements of one connection are not held apart by themselves.
                    async with self._writing:
                        await self._scratch.execute_many(_NOTE, rows)


class _Holders:
    """Which snapshots take their state of a path from which manifest's line."""

    def __init__(self, bases: Mapping[RunId, RunId | None], snapshots: Sequence[RunId]) -> None:
        self._bases = sorted(bases.items())
        self._snapshots = frozenset(snapshots)
        self._known: dict[tuple[str, ...], dict[str, tuple[RunId, RunId, int]]] = {}

    def of(self, lines: tuple[str, ...]) -> dict[str, tuple[RunId, RunId, int]]:
        """For a path with a line in each of these manifests: by manifest, the first and the last of the
        snapshots that have what its line says, and how many have."""
        if (known := self._known.get(lines)) is not None:
            return known
        named = frozenset(lines)
        source: dict[RunId, str | None] = {}
        held: dict[str, tuple[RunId, RunId, int]] = {}
        # A base is older than what rests on it, so it comes first.
        for run, base in self._bases:
            line = run if run in named else None if base is None else source[base]
            source[run] = line
            if line is not None and run in self._snapshots:
                first, _, count = held.get(line, (run, run, 0))
                held[line] = (first, run, count + 1)
        # Most paths have their line in the full manifests alone, so few patterns serve for all.
        if len(self._known) >= _KNOWN_PATTERNS:
            self._known.clear()
        self._known[lines] = held
        return held


def _versions(path: bytes, lines: Sequence[tuple[str, bytes]], holders: _Holders) -> list[Found]:
    """The versions of one path, from its lines in the order of their manifests."""
    merged: dict[bytes, tuple[RunId, RunId, int]] = {}
    holding = holders.of(tuple(run for run, _ in lines))
    for run, version in lines:
        if version == _GONE or run not in holding:
            continue
        first, last, count = holding[run]
        if version in merged:  # a change is written again in later differences
            earlier = merged[version]
            first, last, count = min(earlier[0], first), max(earlier[1], last), earlier[2] + count
        merged[version] = (first, last, count)
    return [
        Found(path=path, version=_decoder.decode(version), first=first, last=last, snapshots=count)
        for version, (first, last, count) in sorted(merged.items(), key=lambda item: item[1])
    ]


async def _paths(scratch: Scratch) -> AsyncGenerator[tuple[bytes, list[tuple[str, bytes]]], None]:
    """Every path that was noted, with its lines."""
    path: bytes | None = None
    lines: list[tuple[str, bytes]] = []
    async for page in scratch.pages(_IN_ORDER):
        for folder, name, run, version in cast("list[tuple[bytes, bytes, str, bytes]]", page):
            here = join_path(folder, name)
            if here != path:
                if path is not None:
                    yield path, lines
                path, lines = here, []
            lines.append((run, version))
    if path is not None:
        yield path, lines


def _version_of(item: TreeItem) -> bytes:
    if isinstance(item, Deleted):
        return _GONE
    if item.kind is Kind.FOLDER:
        return _encoder.encode(Version(item.kind, item.mode))
    return _encoder.encode(
        Version(item.kind, item.mode, item.size, str(item.mtime_ns), item.sha256, item.target)
    )
