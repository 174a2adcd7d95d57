"""What a new snapshot differs in, and from which earlier one (docs/design.md, "History").

The catalog knows exactly one state of the tree and, in ``touched``, which
paths changed since which snapshot; so it knows in what the tree differs from
each committed snapshot since the last full manifest, and from no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.database import WriteLock, translated
from asyncbackup.catalog.part_hashes import FORGET_UNUSED
from asyncbackup.catalog.rows import COLUMNS, PENDING, Row, entry_of_row
from asyncbackup.catalog.schema import PENDING_INDEX, SETTLING_TRIGGERS, name_of_trigger
from asyncbackup.errors import CatalogError
from asyncbackup.format.manifest import Deleted
from asyncbackup.model import Kind, Pack, Pending, RunId, join_path, kind_of_mode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiosqlite

    from asyncbackup.format.manifest import TreeItem

MAX_DEPTH_WRITTEN = 24
"""A snapshot that would need more manifests than this besides its own is written in full. Numbers reach
it after 16 million snapshots; only a chain that was begun by a rebuild can come near."""
FULL_BEYOND_SHARE = 4
"""A full manifest is written once more than this part (one in …) of the entries was touched."""
PAGE_ROWS = 4096

CHAIN = "chain"
"""The name in ``meta`` of the snapshot that all later ones are counted from, its number being 0."""

_ENTRY_COLUMNS = ", ".join(f"e.{name.strip()}" for name in COLUMNS.split(","))
_SELECT_CHANGES = f"""
SELECT t.folder, t.name, {_ENTRY_COLUMNS}
FROM touched t LEFT JOIN entries e ON e.folder = t.folder AND e.name = t.name
WHERE t.number > ? ORDER BY t.folder, t.name
"""  # noqa: S608 - constants only
_IN_PACK = "e.extent_key >= 'packs/' AND e.extent_key < 'packs0' AND e.pending != 3"
_SELECT_PACKS = """
SELECT n.run, n.key, p.size, p.checksum, p.encrypted, p.compression
FROM (SELECT DISTINCT e.extent_run AS run, e.extent_key AS key FROM {source}) n
LEFT JOIN packs p ON p.run = n.run AND p.key = n.key ORDER BY n.run, n.key
"""
_PACKS_OF_ALL = _SELECT_PACKS.format(source=f"entries e WHERE {_IN_PACK}")
_PACKS_OF_CHANGES = _SELECT_PACKS.format(
    # CROSS JOIN keeps the order: SQLite would rather go through all entries.
    source="touched t CROSS JOIN entries e ON e.folder = t.folder AND e.name = t.name "
    f"WHERE t.number > ? AND {_IN_PACK}"
)
# With its condition spelled out SQLite uses the index of what is pending.
_DROP_TOMBSTONES = f"DELETE FROM entries WHERE pending = {Pending.DELETED:d} AND pending != 0"  # noqa: S608
_SETTLE = "UPDATE entries SET pending = 0 WHERE pending != 0"
_COUNT_NEW = (
    "SELECT mode & 61440, count(*), sum(size) FROM entries "  # noqa: S608 - constants only
    f"WHERE pending = {Pending.NEW:d} AND pending != 0 GROUP BY mode & 61440"
)
_ADD_NEW = "UPDATE totals SET entries = entries + ?2, bytes = bytes + ?3 WHERE kind = ?1"  # of three rows
_COUNT_PENDING = "SELECT count(*) FROM entries WHERE pending != 0"
# The plus signs keep SQLite from reading every run of the chain: there may be ten thousand.
_HIGHEST = "SELECT number FROM runs WHERE committed = 1 AND +run >= ? ORDER BY number DESC LIMIT 1"
_OF_NUMBER = "SELECT run, depth FROM runs WHERE number = ? AND committed = 1 AND +run >= ?"
_MARK = """
INSERT OR REPLACE INTO touched (folder, name, number)
SELECT folder, name, ? FROM entries WHERE pending != 0
"""
STATEMENTS_OF_A_DIFFERENCE = (
    _MARK,
    _COUNT_PENDING,
    _SELECT_CHANGES,
    _PACKS_OF_CHANGES,
    _DROP_TOMBSTONES,
    _COUNT_NEW,
    _SETTLE,
    FORGET_UNUSED,
)
"""None of them goes through all entries."""
STATEMENTS_OF_A_BASE = (_HIGHEST, _OF_NUMBER)
"""Neither goes through all runs."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What the entries that are not deleted add up to; ``bytes`` are the files' sizes."""

    files: int
    folders: int
    symlinks: int
    bytes: int

    @property
    def entries(self) -> int:
        return self.files + self.folders + self.symlinks


class SnapshotPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How the next snapshot is written: in full (``base`` is ``None``), or as a difference to ``base``,
    whose number is ``base_number``."""

    number: int = 0
    depth: int = 0
    base: RunId | None = None
    base_number: int = 0


class HistoryTable:
    """The tables ``touched`` and ``totals``, and the numbers of ``runs``."""

    __slots__ = ("_connection", "_lock", "_path")

    def __init__(self, connection: aiosqlite.Connection, lock: WriteLock, path: Path) -> None:
        self._connection = connection
        self._lock = lock
        self._path = path

    async def totals(self) -> Totals:
        """What the tree as saved adds up to, at the cost of what is new since the last snapshot."""
        with translated(self._path):
            rows = list(await self._connection.execute_fetchall("SELECT kind, entries, bytes FROM totals"))
            rows += await self._connection.execute_fetchall(_COUNT_NEW)
        sums = dict.fromkeys(Kind, (0, 0))
        for type_bits, entries, size in rows:
            kind = kind_of_mode(int(type_bits))
            sums[kind] = (sums[kind][0] + int(entries), sums[kind][1] + int(size))
        return Totals(
            files=sums[Kind.FILE][0],
            folders=sums[Kind.FOLDER][0],
            symlinks=sums[Kind.SYMLINK][0],
            bytes=sums[Kind.FILE][1],
        )

    async def plan(self) -> SnapshotPlan:
        """Decide how the next snapshot is written. What is pending counts as touched from now on.

        That is noted before the manifest is written, so it is right whenever
        the process dies: at worst a path is touched that did not change.
        """
        found = await self._base()
        if found is None:
            return SnapshotPlan()
        entries = (await self.totals()).entries
        # Asked first: a tree that changed altogether need not be noted path by path.
        pending = await self._number(_COUNT_PENDING)
        if pending * FULL_BEYOND_SHARE > entries:
            return SnapshotPlan()
        if pending:
            async with self._lock.transaction() as connection:
                await connection.execute(_MARK, (found.number,))
        if await self._number("SELECT count(*) FROM touched") * FULL_BEYOND_SHARE > entries:
            return SnapshotPlan()
        return found

    async def changes(self, plan: SnapshotPlan) -> AsyncIterator[list[TreeItem]]:
        """What the tree has, and has not, other than the plan's base, in (folder, name) order, in pages."""
        async for rows in self._pages(_SELECT_CHANGES, (plan.base_number,)):
            yield [_item(row) for row in rows]

    async def packs(self, plan: SnapshotPlan) -> AsyncIterator[list[Pack]]:
        """The packs that the plan's entries lie in, in (run, key) order, in pages.

        Raises ``CatalogError`` where the description of one is missing.
        """
        pages = (
            self._pages(_PACKS_OF_ALL, ())
            if plan.base is None
            else self._pages(_PACKS_OF_CHANGES, (plan.base_number,))
        )
        async for rows in pages:
            yield [self._pack(row) for row in rows]

    async def commit(self, run: RunId, plan: SnapshotPlan) -> None:
        """The manifest of ``run`` is there: what was pending is what it holds, and it may be a base.
        What is remembered of the parts of objects goes with the last entry that refers to them.

        One transaction, while no other statement is under way; a process that dies before it leaves
        everything pending, and the next snapshot rests on one that was committed here.
        """
        async with self._lock.transaction() as connection:
            await connection.execute(_DROP_TOMBSTONES)
            await connection.executemany(_ADD_NEW, await connection.execute_fetchall(_COUNT_NEW))
            for trigger in SETTLING_TRIGGERS:
                await connection.execute(f"DROP TRIGGER {name_of_trigger(trigger)}")
            if plan.base is None:
                # All entries were read for the manifest; to make an empty index of them costs less than to
                # take them out of it one by one, as they all are in it at first.
                await connection.execute("DROP INDEX entries_pending")
            await connection.execute(_SETTLE)
            if plan.base is None:
                await connection.execute(PENDING_INDEX)
            for trigger in SETTLING_TRIGGERS:
                await connection.execute(trigger)
            await connection.execute(FORGET_UNUSED)
            if plan.base is None:
                await begin_chain(connection, run)
            await connection.execute(
                "UPDATE runs SET committed = 1, number = ?, depth = ? WHERE run = ?",
                (plan.number, plan.depth, run),
            )

    async def _base(self) -> SnapshotPlan | None:
        """The next snapshot as a difference, however large; ``None`` where there is nothing to rest on."""
        with translated(self._path):
            async with self._connection.execute("SELECT value FROM meta WHERE name = ?", (CHAIN,)) as cursor:
                row = await cursor.fetchone()
        if row is None:
            return None
        # What is older than the chain is out of reach: ``touched`` begins with it.
        first = bytes(row[0]).decode()
        with translated(self._path):
            async with self._connection.execute(_HIGHEST, (first,)) as cursor:
                row = await cursor.fetchone()
        if row is None:
            return None
        number = below = int(row[0]) + 1
        while below:
            below &= below - 1
            with translated(self._path):
                async with self._connection.execute(_OF_NUMBER, (below, first)) as cursor:
                    row = await cursor.fetchone()
            # A snapshot that was pruned is committed no more; it is passed over for the next lower one.
            if row is not None:
                depth = int(row[1]) + 1
                if depth > MAX_DEPTH_WRITTEN:
                    return None
                return SnapshotPlan(number=number, depth=depth, base=RunId(row[0]), base_number=below)
        return None

    async def _number(self, sql: str) -> int:
        with translated(self._path):
            async with self._connection.execute(sql) as cursor:
                row = await cursor.fetchone()
        return int(row[0]) if row is not None else 0

    async def _pages(self, sql: str, parameters: tuple[int, ...]) -> AsyncIterator[list[Row]]:
        with translated(self._path):
            async with self._connection.execute(sql, parameters) as cursor:
                while rows := await cursor.fetchmany(PAGE_ROWS):
                    yield cast("list[Row]", rows)

    def _pack(self, row: Row) -> Pack:
        run, key, size, checksum, encrypted, compression = row
        if size is None or isinstance(size, bytes):
            raise CatalogError(
                f"{self._path} does not describe the pack {run!s}/{key!s} that its entries lie in; "
                "move it away and rebuild it with 'asyncbackup syncdb_remote'"
            )
        return Pack(str(run), str(key), int(size), str(checksum), bool(encrypted), str(compression))


async def begin_chain(connection: aiosqlite.Connection, run: str) -> None:
    """Count later snapshots from ``run``, which holds exactly what ``entries`` hold.

    To be called in the transaction that makes it so. A rebuilt catalog begins
    a chain with the snapshot that it was rebuilt from, whatever its depth.
    """
    await connection.execute("DELETE FROM touched")
    await connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (CHAIN, run.encode()))


def _item(row: Row) -> TreeItem:
    key, entry = row[:2], row[2:]
    if entry[0] is None or entry[PENDING] == Pending.DELETED:
        folder, name = cast("tuple[bytes, bytes]", key)
        return Deleted(join_path(folder, name))
    return entry_of_row(entry)
