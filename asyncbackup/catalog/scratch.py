"""Temporary tables on disk, for work whose size is that of the tree and not of memory.

The file has no name from the moment it is open, so that nothing is left
behind however the process ends. It keeps no journal: a scratch that fails is
thrown away, never repaired.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import aiosqlite

from asyncbackup.catalog.database import translated
from asyncbackup.catalog.sqlite_version import check_sqlite
from asyncbackup.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncbackup.catalog.rows import Row, SqlValue

PAGE_ROWS = 2048
"""Rows a hop: enough that the hop to SQLite's thread does not count, some MB at most."""

CACHE_KIB = 8 * 1024


class Scratch:
    """One open temporary database. Its statements run one after another, in the order they were awaited;
    several tasks may use it."""

    __slots__ = ("_connection", "_path", "_transaction")

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._transaction = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, tables: str) -> AsyncIterator[Scratch]:
        """An empty scratch on the disk of ``folder`` (made 0700 where missing), with these tables."""
        check_sqlite()
        path = _new_file(folder)
        try:
            with translated(path):
                connection = await aiosqlite.connect(path, isolation_level=None)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        try:
            with translated(path):
                for pragma in (
                    "locking_mode = EXCLUSIVE",
                    "journal_mode = OFF",
                    "synchronous = OFF",
                    f"cache_size = -{CACHE_KIB}",
                    "trusted_schema = OFF",
                ):
                    await connection.execute(f"PRAGMA {pragma}")
                path.unlink()
                await connection.executescript(tables)
            yield cls(connection, path)
        finally:
            path.unlink(missing_ok=True)
            await connection.close()

    async def execute(self, sql: str, parameters: Sequence[SqlValue] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        with translated(self._path):
            async with self._connection.execute(sql, parameters) as cursor:
                return cursor.rowcount

    async def execute_many(self, sql: str, rows: Iterable[Sequence[SqlValue]]) -> int:
        """Run one statement for every row, in one transaction; the number of rows changed in all."""
        async with self._transaction:
            return await self._execute_many(sql, rows)

    async def _execute_many(self, sql: str, rows: Iterable[Sequence[SqlValue]]) -> int:
        with translated(self._path):
            await self._connection.execute("BEGIN")
            async with self._connection.executemany(sql, rows) as cursor:
                changed = cursor.rowcount
            await self._connection.execute("COMMIT")
            return changed

    async def all(self, sql: str, parameters: Sequence[SqlValue] = ()) -> list[Row]:
        """Every row of a query that is known to give few."""
        with translated(self._path):
            return cast("list[Row]", list(await self._connection.execute_fetchall(sql, parameters)))

    async def number(self, sql: str, parameters: Sequence[SqlValue] = ()) -> int:
        """The one number that a query gives; 0 for NULL and for no row."""
        rows = await self.all(sql, parameters)
        value = rows[0][0] if rows else None
        return 0 if value is None else int(value)

    async def pages(self, sql: str, parameters: Sequence[SqlValue] = ()) -> AsyncIterator[list[Row]]:
        """The rows of a query, in pages. The tables it reads must not change while it is read;
        see :meth:`keyed_pages` for those that do."""
        with translated(self._path):
            async with self._connection.execute(sql, parameters) as cursor:
                while rows := await cursor.fetchmany(PAGE_ROWS):
                    yield cast("list[Row]", rows)

    async def keyed_pages(
        self, sql: str, *, after: SqlValue, page_rows: int = PAGE_ROWS
    ) -> AsyncIterator[list[Row]]:
        """Pages of a query whose rows may be changed while it runs.

        ``sql`` takes two parameters, a key and a number of rows, gives the rows
        above that key in its order, and the key as their first column.
        """
        while rows := await self.all(sql, (after, page_rows)):
            yield rows
            after = rows[-1][0]


def _new_file(folder: Path) -> Path:
    with _explained(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="scratch-", suffix=".sqlite3", dir=folder)
        os.close(handle)
    return Path(name)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CatalogError(
            f"cannot create a temporary file in {folder}: {error.strerror}; "
            "choose a writable state_dir in the configuration"
        ) from error
