"""What a database was when it was closed, so that damage to its file is noticed before it is believed.

SQLite checks the form of what it reads, not the values: a bit that flips in a digest or a key is read as
it is, and would go into the next manifest. So a clean end writes the SHA-256 of the closed file beside
it (as ``sha256sum`` would), with a random mark that the database holds as well. The next opening
compares. A file with another mark is another copy, about which the sum says nothing; without a sum,
which is what a kill leaves, nothing is compared.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbackup.errors import CatalogError

if TYPE_CHECKING:
    import aiosqlite

log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024
MARK_BYTES = 16
SUM_LIMIT_BYTES = 4096

_READ_MARK = "SELECT value FROM meta WHERE name = 'closed'"
_WRITE_MARK = "INSERT OR REPLACE INTO meta (name, value) VALUES ('closed', ?)"


def sum_path(database: Path) -> Path:
    """Where the sum of a database lies."""
    return database.with_name(database.name + ".sha256")


class FileSum:
    """The sum of one database that ``connection`` holds exclusively.

    The file is read in the connection's own thread. Its descriptor is closed after the connection, since
    closing any descriptor of a file drops this process's locks on it.
    """

    __slots__ = ("_connection", "_descriptor", "_path", "_unchanged")

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._descriptor = -1
        self._unchanged = b""

    async def check(self) -> None:
        """Compare the file with its sum, and take the sum away, as the file may change from now on.

        Raises ``CatalogError`` for a file that is not as it was closed; the sum stays.
        """
        await self._open()
        found = _read(sum_path(self._path))
        if not found:
            return
        digest, mark = found[:64], found.rpartition(b" ")[2].strip()
        async with self._connection.execute(_READ_MARK) as cursor:
            row = await cursor.fetchone()
        if row is not None and bytes(row[0]) == mark:
            if await self._digest() != digest:
                raise CatalogError(
                    f"{self._path} is damaged (it is not as it was closed); move it away and rebuild it with "
                    "'asyncbackup syncdb_remote'"
                )
            self._unchanged = found
        _remove(sum_path(self._path))

    async def write(self) -> None:
        """Write the sum of what the file is now. What prevents it leaves none, and is no failure."""
        try:
            if self._unchanged and not self._connection.total_changes:
                _write(sum_path(self._path), self._unchanged)
                return
            await self._open()
            mark = secrets.token_hex(MARK_BYTES).encode()
            await self._connection.execute(_WRITE_MARK, (mark,))
            async with self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)") as cursor:
                row = await cursor.fetchone()
            if row is not None and not row[0]:
                name = os.fsencode(self._path.name)
                _write(
                    sum_path(self._path), await self._digest() + b"  " + name + b"\n# closed " + mark + b"\n"
                )
        except (sqlite3.Error, OSError) as error:
            log.debug("%s has no sum: %s", self._path, error)

    def close(self) -> None:
        """To be called after the connection was closed. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def _open(self) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            await self._connection.create_function("file_sha256", 0, self._read_digest)

    async def _digest(self) -> bytes:
        """Hex. Raises ``sqlite3.OperationalError`` where the file cannot be read."""
        async with self._connection.execute("SELECT file_sha256()") as cursor:
            row = await cursor.fetchone()
        return bytes(row[0]) if row is not None else b""

    def _read_digest(self) -> bytes:
        digest = hashlib.sha256()
        # One buffer for all: memory that the processor has at hand, not fresh pages a read.
        buffer = memoryview(bytearray(READ_BYTES))
        with open(self._descriptor, "rb", buffering=0, closefd=False) as file:
            file.seek(0)
            while size := file.readinto(buffer):
                digest.update(buffer[:size])
        return digest.hexdigest().encode()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SUM_LIMIT_BYTES)
    except OSError:
        return b""


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    # Coming back after a power cut it would call the changed file damaged.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
    temporary.replace(path)
