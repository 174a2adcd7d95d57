"""Opening SQLite safely: one connection, exclusive, its errors translated.

The exclusive lock is the section's lock: a second process meets
``SectionBusyError`` at once. One connection alone also keeps clear of the
WAL-reset race of SQLite before 3.51.3, which needs two.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import aiosqlite

from asyncbackup.errors import CatalogError, CatalogMissingError, SectionBusyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PAGE_CACHE_KIB = 16 * 1024


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into the catalog's."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise SectionBusyError(
                f"another run holds {path}; wait for it to end, or look for it with 'fuser {path}'"
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise CatalogError(f"no space left for {path}; free some and run again") from error
        raise CatalogError(f"{path}: {error}; check the folder's permissions and its disk") from error
    except sqlite3.DatabaseError as error:
        raise CatalogError(
            f"{path} is damaged ({error}); move it away and rebuild it with 'asyncbackup syncdb_remote'"
        ) from error


async def connect(path: Path, *, create: bool) -> aiosqlite.Connection:
    """One exclusive connection in autocommit mode; the file is created 0600.

    Raises ``CatalogMissingError`` (or ``CatalogError`` where ``create`` finds a
    file), ``SectionBusyError``, ``CatalogError``.
    """
    if create:
        _create_file(path)
    elif not path.exists():  # noqa: ASYNC240 - one system call
        raise CatalogMissingError(
            f"there is no database {path}; create it with 'asyncbackup initdb', or rebuild a lost one "
            "from the destination with 'asyncbackup syncdb_remote'"
        )
    with translated(path):
        connection = await aiosqlite.connect(path, isolation_level=None, timeout=0)
        try:
            # Before anything else touches the file: WAL then needs no shared memory, and the
            # lock below is kept until the connection closes.
            await connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute("PRAGMA synchronous = NORMAL")
            await connection.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KIB}")
            await connection.execute("PRAGMA trusted_schema = OFF")
            await connection.execute("BEGIN IMMEDIATE")
            await connection.execute("COMMIT")
        except BaseException:
            await connection.close()
            raise
    return connection


def _create_file(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise CatalogError(
            f"{path} exists already; a database is never overwritten: move it away first if it shall be new"
        ) from None
    except OSError as error:
        raise CatalogError(
            f"cannot create {path}: {error.strerror}; choose a writable state_dir in the configuration"
        ) from error


class WriteLock:
    """Transactions of one connection, one at a time.

    aiosqlite queues statements, not transactions: without the lock two tasks'
    BEGINs would meet.
    """

    __slots__ = ("_connection", "_lock", "_path")

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """Everything in the block is committed together, or (on any exception) not at all."""
        async with self._lock:
            with translated(self._path):
                await self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    await self._connection.execute("ROLLBACK")
                    raise
                await self._connection.execute("COMMIT")
