"""The catalog of one section: its identity, its lock, and the tables behind it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.contents import ContentTable
from asyncbackup.catalog.database import WriteLock, connect, exists_already, translated
from asyncbackup.catalog.entries import EntryTable
from asyncbackup.catalog.history import HistoryTable
from asyncbackup.catalog.integrity import FileSum
from asyncbackup.catalog.links import LinkTable
from asyncbackup.catalog.listings import ListingTable
from asyncbackup.catalog.runs import RunTable
from asyncbackup.catalog.schema import (
    APPLICATION_ID,
    LISTINGS,
    LISTINGS_TRIGGERS,
    PENDING_INDEX,
    SCHEMA_VERSION,
    TABLES,
    TRIGGERS,
)
from asyncbackup.catalog.uploads import UploadTable
from asyncbackup.errors import CatalogError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiosqlite

IDENTITY = "identity"
"""Under this name is whose catalog it is."""
DESCRIPTOR = "descriptor"
"""Under this name is a copy of the repository's descriptor, so that a run need not fetch it."""

_WRITE_META = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"


class CatalogIdentity(msgspec.Struct, frozen=True):
    """Whose catalog it is. A database of another section or destination is refused, never used."""

    section: str
    destination: str
    repository: str


class Catalog:
    """An open catalog; the process holds the section until :meth:`aclose`.

    ``entries`` is the tree as saved, ``runs`` the runs and snapshots, ``uploads``
    the journal of unfinished multipart uploads, ``links`` what one run notes
    of hard links, ``contents`` what is stored by digest, and the packs,
    ``history`` what a new snapshot differs in from which earlier one, ``listings``
    what folders look like in which nothing has changed.
    """

    def __init__(
        self, connection: aiosqlite.Connection, path: Path, identity: CatalogIdentity, file_sum: FileSum
    ) -> None:
        lock = WriteLock(connection, path)
        self.path = path
        self.identity = identity
        self.entries = EntryTable(connection, lock, path)
        self.contents = ContentTable(connection, lock, path)
        self.runs = RunTable(connection, lock, path)
        self.uploads = UploadTable(connection, lock, path)
        self.links = LinkTable(connection, lock, path)
        self.history = HistoryTable(connection, lock, path)
        self.listings = ListingTable(connection, lock, path)
        self._connection = connection
        self._lock = lock
        self._sum = file_sum
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def create(cls, path: Path, identity: CatalogIdentity) -> AsyncIterator[Catalog]:
        """A new, empty catalog. Raises ``CatalogError`` where there is one already.

        A creation that fails or is killed leaves none, or one as good as new.
        """

        async def make(connection: aiosqlite.Connection) -> None:
            await connection.execute("BEGIN EXCLUSIVE")
            if await _first(connection, "SELECT 1 FROM sqlite_master LIMIT 1") is not None:
                raise exists_already(path)  # somebody else was quicker
            for statement in (*TABLES.split(";"), PENDING_INDEX, LISTINGS, *TRIGGERS):
                await connection.execute(statement)
            await connection.execute(_WRITE_META, (IDENTITY, msgspec.json.encode(identity)))
            await connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            await connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            await connection.execute("COMMIT")

        connection = await connect(path, create=True, begin=make)
        catalog = cls(connection, path, identity, FileSum(connection, path))
        try:
            yield catalog
        finally:
            await catalog.aclose()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, *, section: str, destination: str) -> AsyncIterator[Catalog]:
        """The catalog of a section.

        Raises ``CatalogMissingError``, ``SectionBusyError``, and ``CatalogError``
        for a damaged database, one of another version, section or destination.
        """

        async def check(connection: aiosqlite.Connection) -> None:
            await _check_version(connection, path)

        connection = await connect(path, create=False, begin=check)
        file_sum = FileSum(connection, path)
        try:
            with translated(path):
                await file_sum.check()
                row = await _first(connection, "SELECT value FROM meta WHERE name = ?", (IDENTITY,))
            try:
                identity = msgspec.json.decode(row[0] if row else b"", type=CatalogIdentity)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise CatalogError(
                    f"{path} is damaged (no identity); move it away and rebuild it with "
                    "'asyncbackup syncdb_remote'"
                ) from error
            _check_identity(identity, path, section=section, destination=destination)
            with translated(path):
                await _add_listings(connection)
        except BaseException:
            await connection.close()
            file_sum.close()
            raise
        catalog = cls(connection, path, identity, file_sum)
        try:
            yield catalog
        finally:
            await catalog.aclose()

    async def read_meta(self, name: str) -> bytes | None:
        """A value stored under a name, e.g. ``DESCRIPTOR``."""
        with translated(self.path):
            row = await _first(self._connection, "SELECT value FROM meta WHERE name = ?", (name,))
        return None if row is None else bytes(row[0])

    async def write_meta(self, name: str, value: bytes) -> None:
        """Store a value under a name, replacing the earlier one."""
        async with self._lock.transaction() as connection:
            await connection.execute(_WRITE_META, (name, value))

    async def damage(self, *, limit: int = 5) -> list[str]:
        """What SQLite finds wrong with the file: nothing, or the first sentences. Reads all of it."""
        with translated(self.path):
            async with self._connection.execute(f"PRAGMA quick_check({limit:d})") as cursor:
                found = [str(row[0]) for row in await cursor.fetchall()]
        return [] if found == ["ok"] else found

    async def aclose(self) -> None:
        """Give the section free. Idempotent."""
        try:
            if not self._closed:
                self._closed = True
                await self._sum.write()
        finally:
            await self._connection.close()
            self._sum.close()


async def _first(
    connection: aiosqlite.Connection, sql: str, parameters: tuple[str, ...] = ()
) -> sqlite3.Row | None:
    async with connection.execute(sql, parameters) as cursor:
        return await cursor.fetchone()


async def _check_version(connection: aiosqlite.Connection, path: Path) -> None:
    application = await _first(connection, "PRAGMA application_id")
    version = await _first(connection, "PRAGMA user_version")
    if application is None or application[0] != APPLICATION_ID:
        raise CatalogError(f"{path} is not a database of asyncbackup; check state_dir in the configuration")
    if version is None or version[0] != SCHEMA_VERSION:
        found = version[0] if version else "none"
        raise CatalogError(
            f"{path} has schema version {found}, this asyncbackup reads {SCHEMA_VERSION}; upgrade "
            "asyncbackup, or move the file away and rebuild it with 'asyncbackup syncdb_remote'"
        )


async def _add_listings(connection: aiosqlite.Connection) -> None:
    """Give the table to a database that was made before there was one."""
    if await _first(connection, "SELECT 1 FROM sqlite_master WHERE name = 'listings'") is None:
        await connection.execute("BEGIN IMMEDIATE")
        for statement in (LISTINGS, *LISTINGS_TRIGGERS):
            await connection.execute(statement)
        await connection.execute("COMMIT")


def _check_identity(identity: CatalogIdentity, path: Path, *, section: str, destination: str) -> None:
    for what, found, wanted in (
        ("section", identity.section, section),
        ("destination", identity.destination, destination),
    ):
        if found != wanted:
            raise CatalogError(
                f"{path} is the database of {what} {found!r}, not {wanted!r}; put the right file back, or "
                "move this one away and rebuild with 'asyncbackup syncdb_remote' (or 'initdb' for a new one)"
            )
