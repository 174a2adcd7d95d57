"""The ``entries`` table: reading by folder for the detector, in order for the manifest, writing receipts."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, cast

from asyncbackup.catalog.database import WriteLock, translated
from asyncbackup.catalog.rows import (
    COLUMNS,
    DEV,
    INO,
    PLACEHOLDERS,
    STAT_COLUMNS,
    Row,
    entry_of_row,
    row_of_entry,
    signed,
)
from asyncbackup.model import Entry, Pending, split_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from pathlib import Path

    import aiosqlite

# SQLite allows 32,766 parameters; a folder list this long is one hop for many small folders.
MAX_FOLDERS_PER_QUERY = 512
PAGE_ROWS = 4096
FIRST_PAGE_ROWS = 512
PAGE_FOLDER_BYTES = 4 * 1024 * 1024
"""A page has fewer rows where their folders' paths are long: of a tree ten thousand folders deep each has
tens of kilobytes."""
NO_LIMIT = -1
PATHS_PER_QUERY = 4096

ROWS_PER_STATEMENT = 32
"""For the triggers' sake SQLite keeps a journal of every statement, on disk soon: a row a statement takes
twice as long. More rows at once gain nothing."""

_UPSERT = f"INSERT OR REPLACE INTO entries ({COLUMNS}) VALUES ({PLACEHOLDERS})"  # noqa: S608 - constants only
_UPSERT_MANY = _UPSERT + f", ({PLACEHOLDERS})" * (ROWS_PER_STATEMENT - 1)
_DOOMED = (
    "SELECT folder, name FROM buried",
    "SELECT e.folder, e.name FROM buried b CROSS JOIN entries e ON e.folder = b.path",
    "SELECT e.folder, e.name FROM buried b CROSS JOIN entries e "
    "ON e.folder >= b.below AND e.folder < b.beyond",
)
"""The keys of what is buried: the entries themselves, what lies in them, and what lies deeper."""
# The plus signs keep SQLite from reading all pending rows instead of looking the keys up.
_ALIVE = f"(folder, name) IN ({{}}) AND +pending != {Pending.DELETED:d}"
_SELECT = f"SELECT {COLUMNS} FROM entries"  # noqa: S608 - constants only
_SELECT_STAT = f"SELECT {STAT_COLUMNS} FROM entries"  # noqa: S608


def rows_of_next_page(rows: Sequence[Row]) -> int:
    """How many rows to read next, by what the last ones of a page in order, of which there are some, are
    like. The folder's path is the first column."""
    longest = max(len(cast("bytes", row[0])) for row in (rows[0], rows[-1]))
    return max(1, min(PAGE_ROWS, PAGE_FOLDER_BYTES // (longest + 1)))


class EntryTable:
    """Rows of the tree. Reads return tuples in the order of ``rows.COLUMNS`` where speed counts."""

    __slots__ = ("_connection", "_lock", "_path", "statements")

    def __init__(self, connection: aiosqlite.Connection, lock: WriteLock, path: Path) -> None:
        self._connection = connection
        self._lock = lock
        self._path = path
        self.statements = 0

    async def stats_of_folders(self, folders: Sequence[bytes], *, limit: int = NO_LIMIT) -> list[Row]:
        """``STAT_COLUMNS`` of the first ``limit`` rows of up to ``MAX_FOLDERS_PER_QUERY`` folders, in key
        order, tombstones included."""
        marks = ",".join("?" * len(folders))
        return await self._fetch(
            f"{_SELECT_STAT} WHERE folder IN ({marks}) ORDER BY folder, name LIMIT ?", (*folders, limit)
        )

    async def stats_of_range(
        self, folder: bytes, after: bytes | None, upto: bytes | None, *, limit: int = NO_LIMIT
    ) -> list[Row]:
        """``STAT_COLUMNS`` of the first ``limit`` rows of one folder with ``after`` < name ≤ ``upto``, in
        the order of names; ``None`` leaves a side open."""
        conditions: list[str] = ["folder = ?"]
        parameters: list[bytes | int] = [folder]
        if after is not None:
            conditions.append("name > ?")
            parameters.append(after)
        if upto is not None:
            conditions.append("name <= ?")
            parameters.append(upto)
        return await self._fetch(
            f"{_SELECT_STAT} WHERE {' AND '.join(conditions)} ORDER BY folder, name LIMIT ?",
            (*parameters, limit),
        )

    async def rows_of_names(self, names: Sequence[tuple[bytes, bytes]]) -> list[Row]:
        """The rows of (folder, name) pairs, tombstones included, in no particular order."""
        rows: list[Row] = []
        for begin in range(0, len(names), PATHS_PER_QUERY):
            part = names[begin : begin + PATHS_PER_QUERY]
            marks = ",".join(["(?, ?)"] * len(part))
            parameters = tuple(value for pair in part for value in pair)
            rows += await self._fetch(f"{_SELECT} WHERE (folder, name) IN (VALUES {marks})", parameters)
        return rows

    async def rows_of_inodes(self, inodes: Sequence[tuple[int, int]]) -> list[Row]:
        """The rows of (device, inode) pairs, deleted entries too; at most some thousand are asked for."""
        marks = ",".join("?" * len(inodes))
        rows = await self._fetch(
            f"{_SELECT} WHERE ino != 0 AND ino IN ({marks})", tuple(signed(ino) for _, ino in inodes)
        )
        wanted = {(signed(dev), signed(ino)) for dev, ino in inodes}
        return [row for row in rows if (row[DEV], row[INO]) in wanted]

    async def get(self, path: bytes) -> Entry | None:
        """The entry of one path, unless it was deleted."""
        rows = await self._fetch(
            f"{_SELECT} WHERE folder = ? AND name = ? AND pending != ?",
            (*split_path(path), int(Pending.DELETED)),
        )
        return entry_of_row(rows[0]) if rows else None

    async def count_files(self) -> int:
        """Regular files of the tree as saved (a scan of the table)."""
        rows = await self._fetch(
            "SELECT count(*) FROM entries WHERE mode & 61440 = 32768 AND pending != ?",
            (int(Pending.DELETED),),
        )
        return int(cast("int", rows[0][0]))

    async def count_files_below(self, paths: Iterable[tuple[bytes, bool]]) -> int:
        """Regular files that :meth:`bury` would bury."""
        files = 0
        async with self._lock.transaction() as connection:
            passes = await self._note_buried(connection, paths)
            # Each pass leaves out what an earlier one had: nothing is marked in between.
            for number, doomed in enumerate(passes):
                earlier = "".join(f" AND (folder, name) NOT IN ({before})" for before in passes[:number])
                files += await self._count(connection, f"{_ALIVE.format(doomed)}{earlier}")
        return files

    async def is_empty(self) -> bool:
        """Whether no entry was ever saved, the root apart."""
        rows = await self._fetch("SELECT 1 FROM entries WHERE name != x'' LIMIT 1", ())
        return not rows

    async def save(self, entries: Iterable[tuple[Entry, Pending]]) -> None:
        """Insert or replace rows, in one transaction. Of several for one path the last one counts."""
        rows = [row_of_entry(entry, pending) for entry, pending in entries]
        together = len(rows) - len(rows) % ROWS_PER_STATEMENT
        many = [
            tuple(chain.from_iterable(rows[begin : begin + ROWS_PER_STATEMENT]))
            for begin in range(0, together, ROWS_PER_STATEMENT)
        ]
        async with self._lock.transaction() as connection:
            if many:
                self.statements += len(many)
                await connection.executemany(_UPSERT_MANY, many)
            if together < len(rows):
                self.statements += len(rows) - together
                await connection.executemany(_UPSERT, rows[together:])

    async def bury(self, paths: Iterable[tuple[bytes, bool]]) -> int:
        """Mark entries as deleted; with ``True`` a folder and all below it.

        Rows that no snapshot has yet vanish at once. Returns the number of
        regular files among them.
        """
        files = 0
        async with self._lock.transaction() as connection:
            for doomed in await self._note_buried(connection, paths):
                alive = _ALIVE.format(doomed)
                files += await self._count(connection, alive)
                self.statements += 2
                await connection.execute(
                    f"DELETE FROM entries WHERE {alive} AND +pending = {Pending.NEW:d}"  # noqa: S608
                )
                await connection.execute(
                    f"UPDATE entries SET pending = {Pending.DELETED:d} WHERE {alive}"  # noqa: S608
                )
        return files

    async def _note_buried(
        self, connection: aiosqlite.Connection, paths: Iterable[tuple[bytes, bool]]
    ) -> Sequence[str]:
        """Fill the table ``buried``; returns queries for the keys of what has to go, which may overlap."""
        # '/' and '0' are neighbours in ASCII: between them are all folders that begin with "path/".
        rows = [
            (*split_path(path), path, path + b"/", path + b"0") if subtree
            else (*split_path(path), None, None, None)
            for path, subtree in paths
        ]  # fmt: skip
        self.statements += 3
        await connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS buried "
            "(folder BLOB, name BLOB, path BLOB, below BLOB, beyond BLOB)"
        )
        await connection.execute("DELETE FROM buried")
        await connection.executemany("INSERT INTO buried VALUES (?, ?, ?, ?, ?)", rows)
        return _DOOMED if any(row[2] is not None for row in rows) else _DOOMED[:1]

    async def _count(self, connection: aiosqlite.Connection, alive: str) -> int:
        self.statements += 1
        sql = f"SELECT count(*) FROM entries WHERE {alive} AND mode & 61440 = 32768"  # noqa: S608
        async with connection.execute(sql) as cursor:
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def revive(self, paths: Iterable[bytes]) -> None:
        """Undo tombstones of entries that are there again, unchanged.

        They are changed to the next snapshot: what was buried may have been
        saved by a run that never made a snapshot of it.
        """
        async with self._lock.transaction() as connection:
            self.statements += 1
            await connection.executemany(
                f"UPDATE entries SET pending = {Pending.CHANGED:d} "  # noqa: S608
                f"WHERE folder = ? AND name = ? AND pending = {Pending.DELETED:d}",
                [split_path(path) for path in paths],
            )

    def rows_in_order(self) -> AsyncIterator[list[Row]]:
        """The row of every entry that is not deleted, in (folder, name) order, in pages of ``PAGE_ROWS``."""
        sql = f"{_SELECT} WHERE pending != {Pending.DELETED:d} ORDER BY folder, name"
        return self.pages(sql, folder_first=True)

    async def pages(self, sql: str, *, folder_first: bool = False) -> AsyncIterator[list[Row]]:
        """The rows of a query, in pages; smaller ones where the first column is the path of a folder, in
        order, and long."""
        with translated(self._path):
            self.statements += 1
            async with self._connection.execute(sql) as cursor:
                size = FIRST_PAGE_ROWS if folder_first else PAGE_ROWS
                while rows := cast("list[Row]", await cursor.fetchmany(size)):
                    yield rows
                    if folder_first:
                        size = rows_of_next_page(rows)

    async def _fetch(self, sql: str, parameters: tuple[bytes | int, ...]) -> list[Row]:
        with translated(self._path):
            self.statements += 1
            rows = await self._connection.execute_fetchall(sql, parameters)
        return cast("list[Row]", rows)
