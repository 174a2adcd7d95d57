"""What manifests promise, on disk: every object that a verification has to find, and what became of it.

Keys in here are relative to ``SECTION/data/`` and begin with the run.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.scratch import Scratch

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.catalog.rows import Row
    from asyncbackup.model import Entry

_TABLES = """
CREATE TABLE staged (
    key TEXT NOT NULL,
    length INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    part_size INTEGER NOT NULL,
    encrypted INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    size INTEGER NOT NULL
);
CREATE TABLE objects (
    key TEXT PRIMARY KEY,
    length INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    part_size INTEGER NOT NULL,
    encrypted INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    size INTEGER NOT NULL,
    disputed INTEGER NOT NULL DEFAULT 0,
    listed INTEGER,
    state INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE carried (
    key TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    path BLOB NOT NULL
);
CREATE TABLE damaged_paths (key TEXT, path BLOB, PRIMARY KEY (key, path)) WITHOUT ROWID;
CREATE TABLE damaged_snapshots (key TEXT, snapshot TEXT, PRIMARY KEY (key, snapshot)) WITHOUT ROWID;
"""

_FIELDS = "key, length, checksum, part_size, encrypted, sha256, size"

_FOLDER = "substr(key, -1) = '/'"
_NO_FOLDER = "substr(key, -1) != '/'"

# An entry that was rebuilt without its checksum or digest says less of an object, not something else.
_ACCEPT = f"""
INSERT INTO objects ({_FIELDS}) SELECT {_FIELDS} FROM staged WHERE true
ON CONFLICT (key) DO UPDATE SET
    disputed = disputed
        OR length != excluded.length
        OR encrypted != excluded.encrypted
        OR (sha256 != x'' AND excluded.sha256 != x'' AND sha256 != excluded.sha256),
    checksum = CASE WHEN checksum = '' THEN excluded.checksum ELSE checksum END,
    part_size = CASE WHEN part_size = 0 THEN excluded.part_size ELSE part_size END,
    sha256 = CASE WHEN sha256 = x'' THEN excluded.sha256 ELSE sha256 END
WHERE length != excluded.length OR encrypted != excluded.encrypted
    OR sha256 != excluded.sha256 OR checksum != excluded.checksum
"""  # noqa: S608 - constants only


class State(enum.IntEnum):
    """How far the look at one object has come."""

    EXPECTED = 0
    TO_READ = 1
    SOUND = 2
    DAMAGED = 3


class ExpectedObject(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One object as manifests describe it: ``length`` as stored, ``size`` and ``sha256`` of the content."""

    key: str
    length: int
    checksum: str
    part_size: int
    encrypted: bool
    sha256: bytes
    size: int


class Verdict(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a look at one object gave. ``reason`` says what is damaged."""

    key: str
    state: State
    reason: str = ""


class DamagedObject(msgspec.Struct, frozen=True, kw_only=True):
    """One damaged object with what it carries. ``files`` counts all paths, ``paths`` names the first ones."""

    key: str
    reason: str
    files: int
    paths: tuple[bytes, ...]
    snapshots: tuple[str, ...]


class ExpectedObjects:
    """The objects of some snapshots. Memory stays the same, whatever their number."""

    __slots__ = ("_scratch",)

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[ExpectedObjects]:
        """An empty table on the disk of ``folder``; it vanishes when the block ends."""
        async with Scratch.open(folder, _TABLES) as scratch:
            yield cls(scratch)

    async def stage(self, entries: Iterable[Entry]) -> None:
        """Note the objects of a manifest that was not yet read to its end."""
        await self._scratch.execute_many(
            f"INSERT INTO staged ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            [
                (
                    f"{extent.run}/{extent.key}",
                    extent.length,
                    extent.checksum,
                    extent.part_size,
                    int(extent.encrypted),
                    entry.sha256,
                    entry.size,
                )
                for entry in entries
                if (extent := entry.extent) is not None
            ],
        )

    async def accept(self) -> None:
        """Take over what was staged: its manifest is sound."""
        await self._scratch.execute(_ACCEPT)
        await self._scratch.execute("DELETE FROM staged")

    async def discard(self) -> None:
        """Forget what was staged: its manifest is damaged, and so may be what it said."""
        await self._scratch.execute("DELETE FROM staged")

    async def listed(self, objects: Iterable[tuple[str, int]]) -> int:
        """Note (key, size) pairs of the listing; how many of them are expected."""
        return await self._scratch.execute_many(
            "UPDATE objects SET listed = ? WHERE key = ? AND listed IS NULL",
            [(size, key) for key, size in objects if _is_text(key)],
        )

    async def judge_listing(self) -> None:
        """Settle what the listing alone settles: wrong sizes are damage, right empty objects are sound."""
        await self._scratch.execute(
            "UPDATE objects SET state = ?, "
            "reason = 'it has ' || listed || ' bytes where ' || length || ' belong' "
            "WHERE state = 0 AND listed IS NOT NULL AND listed != length",
            (State.DAMAGED,),
        )
        await self._scratch.execute(
            "UPDATE objects SET state = ?, reason = 'manifests disagree about its size or content' "
            "WHERE state = 0 AND disputed",
            (State.DAMAGED,),
        )
        await self._scratch.execute(
            "UPDATE objects SET state = ? WHERE state = 0 AND listed = 0", (State.SOUND,)
        )

    def unlisted(self, *, folders: bool) -> AsyncIterator[list[ExpectedObject]]:
        """What the listing did not show, in pages: the objects of folders, or all others."""
        return self._pages(f"state = 0 AND listed IS NULL AND {_FOLDER if folders else _NO_FOLDER}")

    async def count_listed_folders(self) -> int:
        """How many objects of folders were found."""
        return await self._scratch.number(
            f"SELECT count(*) FROM objects WHERE listed IS NOT NULL AND {_FOLDER}"  # noqa: S608
        )

    async def spare_folders(self) -> int:
        """Call all objects of folders sound that are not damaged; how many those are."""
        return await self._scratch.execute(
            f"UPDATE objects SET state = {State.SOUND:d} WHERE state = 0 AND {_FOLDER}"  # noqa: S608
        )

    def in_state(self, state: State) -> AsyncIterator[list[ExpectedObject]]:
        """Every object in a state, in pages; verdicts may be given meanwhile."""
        return self._pages(f"state = {state:d}")

    async def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Write down what became of objects."""
        await self._scratch.execute_many(
            "UPDATE objects SET state = ?, reason = ? WHERE key = ?",
            [(verdict.state, verdict.reason, verdict.key) for verdict in verdicts],
        )

    async def choose_to_read(self, percent: float) -> int:
        """Choose that part of the undecided objects at random, at least one; the number chosen."""
        undecided = await self._scratch.number("SELECT count(*) FROM objects WHERE state = 0")
        wanted = undecided if percent >= 100 else min(undecided, max(1, round(undecided * percent / 100)))
        if wanted < undecided:
            return await self._scratch.execute(
                "UPDATE objects SET state = ? WHERE key IN "
                "(SELECT key FROM objects WHERE state = 0 ORDER BY random() LIMIT ?)",
                (State.TO_READ, wanted),
            )
        return await self._scratch.execute("UPDATE objects SET state = ? WHERE state = 0", (State.TO_READ,))

    async def totals(self) -> tuple[int, int]:
        """The number of objects and the sum of their stored sizes."""
        row = (await self._scratch.all("SELECT count(*), coalesce(sum(length), 0) FROM objects"))[0]
        return cast("tuple[int, int]", row)

    async def count(self, state: State) -> int:
        """How many objects are in a state."""
        return await self._scratch.number("SELECT count(*) FROM objects WHERE state = ?", (state,))

    async def note_carried(self, snapshot: str, entries: Iterable[Entry]) -> None:
        """Note which of ``entries`` lie in damaged objects."""
        await self._scratch.execute_many(
            "INSERT INTO carried (key, snapshot, path) VALUES (?, ?, ?)",
            [
                (f"{extent.run}/{extent.key}", snapshot, entry.path)
                for entry in entries
                if (extent := entry.extent) is not None
            ],
        )
        damaged = f"FROM carried JOIN objects USING (key) WHERE state = {State.DAMAGED:d}"
        await self._scratch.execute(f"INSERT OR IGNORE INTO damaged_paths SELECT key, path {damaged}")
        await self._scratch.execute(
            f"INSERT OR IGNORE INTO damaged_snapshots SELECT DISTINCT key, snapshot {damaged}"
        )
        await self._scratch.execute("DELETE FROM carried")

    async def damaged(self, *, paths_each: int) -> AsyncIterator[list[DamagedObject]]:
        """Every damaged object by key, with at most ``paths_each`` of the paths it carries, in pages."""
        sql = (
            f"SELECT key, reason FROM objects WHERE state = {State.DAMAGED:d} "  # noqa: S608
            "AND key > ? ORDER BY key LIMIT ?"
        )
        async for rows in self._scratch.keyed_pages(sql, after="", page_rows=256):
            found = cast("list[tuple[str, str]]", rows)
            span = (found[0][0], found[-1][0])
            files = await self._scratch.all(
                "SELECT key, count(*) FROM damaged_paths WHERE key BETWEEN ? AND ? GROUP BY key", span
            )
            counts = dict(cast("list[tuple[str, int]]", files))
            paths: dict[str, list[bytes]] = {}
            for key, path in await self._first_paths(span, paths_each):
                paths.setdefault(key, []).append(path)
            snapshots: dict[str, list[str]] = {}
            carriers = await self._scratch.all(
                "SELECT key, snapshot FROM damaged_snapshots "
                "WHERE key BETWEEN ? AND ? ORDER BY key, snapshot",
                span,
            )
            for key, snapshot in cast("list[tuple[str, str]]", carriers):
                snapshots.setdefault(key, []).append(snapshot)
            yield [
                DamagedObject(
                    key=key,
                    reason=reason,
                    files=counts.get(key, 0),
                    paths=tuple(paths.get(key, ())),
                    snapshots=tuple(snapshots.get(key, ())),
                )
                for key, reason in found
            ]

    async def _first_paths(self, span: tuple[str, str], paths_each: int) -> list[tuple[str, bytes]]:
        rows = await self._scratch.all(
            "SELECT key, path FROM (SELECT key, path, row_number() OVER (PARTITION BY key ORDER BY path) "
            "AS number FROM damaged_paths WHERE key BETWEEN ? AND ?) WHERE number <= ?",
            (*span, paths_each),
        )
        return cast("list[tuple[str, bytes]]", rows)

    async def _pages(self, where: str) -> AsyncIterator[list[ExpectedObject]]:
        sql = f"SELECT {_FIELDS} FROM objects WHERE key > ? AND {where} ORDER BY key LIMIT ?"  # noqa: S608
        async for rows in self._scratch.keyed_pages(sql, after=""):
            yield [_expected(row) for row in rows]


def _is_text(key: str) -> bool:
    """Whether a listed key can be one of ours; a foreign file's name at a folder may be no valid text."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expected(row: Row) -> ExpectedObject:
    key, length, checksum, part_size, encrypted, sha256, size = cast(
        "tuple[str, int, str, int, int, bytes, int]", row
    )
    return ExpectedObject(
        key=key,
        length=length,
        checksum=checksum,
        part_size=part_size,
        encrypted=bool(encrypted),
        sha256=sha256,
        size=size,
    )
