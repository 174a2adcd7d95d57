"""Opening SQLite safely: one connection, exclusive, its errors translated.

The exclusive lock is the section's lock: a second process meets
``SectionBusyError`` at once. One connection alone also keeps clear of the
WAL-reset race of SQLite before 3.51.3, which needs two.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import stat
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import aiosqlite

from asyncbackup.catalog.sqlite_version import check_sqlite
from asyncbackup.errors import CatalogError, CatalogMissingError, SectionBusyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

PAGE_CACHE_KIB = 16 * 1024
CONTEST_SECONDS = 0.5
"""How long a lock is asked for. Of several that ask in the same moment each can stand in the way of
all others; each lets go, and asked again at different moments one of them gets it."""
RETRY_SECONDS = (0.005, 0.05)

_CHECK_STATE = "check state_dir in the configuration, and its permissions"


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
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        # The latter where the error quotes a schema that is damaged, and what it quotes is no text.
        raise CatalogError(
            f"{path} is damaged ({error}); move it away and rebuild it with 'asyncbackup syncdb_remote'"
        ) from error


async def connect(
    path: Path, *, create: bool, begin: Callable[[aiosqlite.Connection], Awaitable[None]] | None = None
) -> aiosqlite.Connection:
    """One exclusive connection in autocommit mode; the file is created 0600.

    ``begin`` is the first to use the database: it makes the tables of a new one,
    or looks at one before anything is written to it, and raises to have it left
    as it is. If it makes a new one in a single transaction, a creation that fails
    or is killed leaves an empty file, which counts as none, or a whole database.

    Raises ``CatalogMissingError`` (or ``CatalogError`` where ``create`` finds a
    file), ``SectionBusyError``, ``CatalogError``.
    """
    check_sqlite()
    if create:
        _create_file(path)
    else:
        _look_for_file(path, empty_counts=begin is None)
    deadline = time.monotonic() + CONTEST_SECONDS
    while True:
        try:
            with translated(path):
                return await _attempt(path, begin)
        except SectionBusyError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(random.uniform(*RETRY_SECONDS))  # noqa: S311 - no secret hangs on it


async def _attempt(
    path: Path, begin: Callable[[aiosqlite.Connection], Awaitable[None]] | None
) -> aiosqlite.Connection:
    # mode=rw: a file that vanishes meanwhile is not made anew, with whatever mode.
    uri = path.absolute().as_uri() + "?mode=rw"  # noqa: ASYNC240 - no system call
    connection = await aiosqlite.connect(uri, uri=True, isolation_level=None, timeout=0)
    try:
        # Before anything else touches the file: WAL then needs no shared memory, and the
        # lock below is kept until the connection closes.
        await connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        if begin is not None:
            await begin(connection)
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = NORMAL")
        await connection.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KIB}")
        await connection.execute("PRAGMA trusted_schema = OFF")
        # The triggers on entries have to see also what an INSERT OR REPLACE replaces.
        await connection.execute("PRAGMA recursive_triggers = ON")
        await connection.execute("BEGIN IMMEDIATE")
        await connection.execute("COMMIT")
    except BaseException:
        await connection.close()
        raise
    return connection


def _look_for_file(path: Path, *, empty_counts: bool) -> None:
    missing = CatalogMissingError(
        f"there is no database {path}; create it with 'asyncbackup initdb', or rebuild a lost one "
        "from the destination with 'asyncbackup syncdb_remote'"
    )
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise missing from None
    except OSError as error:
        raise CatalogError(f"cannot open the database {path}: {error.strerror}; {_CHECK_STATE}") from error
    if not stat.S_ISREG(status.st_mode):
        raise CatalogError(f"{path} is no file, so it is no database; {_CHECK_STATE}")
    if not status.st_size and not empty_counts:
        raise missing
    # Asked, not tried: closing a descriptor would drop the locks of another connection of this process.
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise CatalogError(f"cannot open the database {path}: permission denied; {_CHECK_STATE}")


def _create_file(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        # An empty one was left by a creation that failed; several at once are told apart by the lock.
        if not path.is_file() or path.stat().st_size:
            raise exists_already(path) from None
    except OSError as error:
        raise CatalogError(
            f"cannot create {path}: {error.strerror}; choose a writable state_dir in the configuration"
        ) from error


def exists_already(path: Path) -> CatalogError:
    """What is said of a database that shall be created and is there."""
    return CatalogError(
        f"{path} exists already; a database is never overwritten: move it away first if it shall be new"
    )


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
        """Everything in the block is committed together, or (on any exception) not at all.

        Cancelled at its very end, it may be committed all the same. Either way the next
        transaction begins afresh.
        """
        async with self._lock:
            with translated(self._path):
                try:
                    await self._connection.execute("BEGIN IMMEDIATE")
                    yield self._connection
                    await self._connection.execute("COMMIT")
                except BaseException:
                    # The connection's thread works off what it was given in order, also what nobody
                    # waits for any more: after a cancelled BEGIN this ends a transaction, after a
                    # cancelled COMMIT, or where SQLite gave up by itself, it finds none and does nothing.
                    await self._connection.rollback()
                    raise
