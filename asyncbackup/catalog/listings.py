"""The table ``listings``: for some folders, the SHA-256 of the listing they have if nothing has changed.

Of a folder in which nothing has changed a run then reads 32 bytes in place of
all its rows. A digest is forgotten with any change of what it covers, by
triggers (``schema.py``), whoever makes it; so one that is there is right.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.database import WriteLock, translated
from asyncbackup.catalog.rows import NLINK, PENDING, Row
from asyncbackup.model import Pending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    import aiosqlite

LISTED_AT_ONCE = 4096
"""A folder with more entries is listed in parts, and has no digest."""
LONGEST_PATH_BYTES = 4096
"""Nor has one whose path is longer: those of a tree ten thousand folders deep are kept often enough."""
NOTED_AT_ONCE = 1024

_FOLDER_OF = itemgetter(0)
_COMMITTED = (int(Pending.COMMITTED),)
_encoder = msgspec.msgpack.Encoder()

_USABLE = "SELECT EXISTS (SELECT 1 FROM listings) AND NOT EXISTS (SELECT 1 FROM entries WHERE pending != 0)"
_NOTE = "INSERT OR REPLACE INTO listings (folder, digest) VALUES (?, ?)"
# With the plus sign SQLite goes through the folder's rows, and not through all that are pending.
_NOTE_UNLESS_PENDING = (
    "INSERT OR REPLACE INTO listings (folder, digest) SELECT ?1, ?2 "
    "WHERE NOT EXISTS (SELECT 1 FROM entries WHERE folder = ?1 AND +pending != 0)"
)


def listing_digest(rows: Sequence[Row]) -> bytes:
    """The SHA-256 of rows in the order of ``STAT_COLUMNS``: all that a folder has, none pending.

    Empty where there are none, or where a number has no place in 64 bits.
    """
    if not rows:
        return b""
    try:
        return sha256(_encoder.encode(rows)).digest()
    except OverflowError:
        return b""


class ListingTable:
    """Digests of listings, by folder. Only folders that are listed whole have one, and only some of these."""

    __slots__ = ("_connection", "_lock", "_path")

    def __init__(self, connection: aiosqlite.Connection, lock: WriteLock, path: Path) -> None:
        self._connection = connection
        self._lock = lock
        self._path = path

    async def usable(self) -> bool:
        """Whether a folder with the digest of its listing need not be looked at: there are some, and no
        run was interrupted, since what that saved is news to the next snapshot, unchanged or not."""
        with translated(self._path):
            rows = list(await self._connection.execute_fetchall(_USABLE))
        return bool(rows[0][0])

    async def find(self, folders: Sequence[bytes]) -> dict[bytes, bytes]:
        """The digests of those of ``folders`` (at most some hundred) that have one."""
        marks = ",".join("?" * len(folders))
        with translated(self._path):
            rows = await self._connection.execute_fetchall(
                f"SELECT folder, digest FROM listings WHERE folder IN ({marks})",  # noqa: S608
                tuple(folders),
            )
        return dict(cast("list[tuple[bytes, bytes]]", rows))

    async def note(self, listings: Sequence[tuple[bytes, bytes]]) -> None:
        """Note what was found to be as the rows say, but for folders of which something is pending by now."""
        async with self._lock.transaction() as connection:
            await connection.executemany(_NOTE_UNLESS_PENDING, listings)

    async def note_saved(self, listings: Sequence[tuple[bytes, bytes]]) -> None:
        """Note what the rows say, pending ones among them. Nothing may be saved between the moment they were
        read and their being settled: its trigger would have run before this."""
        async with self._lock.transaction() as connection:
            await connection.executemany(_NOTE, listings)


class ListingsToNote:
    """Digests that wait until they are worth a transaction of ``note``."""

    __slots__ = ("_listings", "_note")

    def __init__(self, note: Callable[[Sequence[tuple[bytes, bytes]]], Awaitable[None]]) -> None:
        self._note = note
        self._listings: list[tuple[bytes, bytes]] = []

    async def add(self, folder: bytes, digest: bytes) -> None:
        """Have one noted in time, unless there is none. Raises ``CatalogError``."""
        if digest and len(folder) <= LONGEST_PATH_BYTES:
            self._listings.append((folder, digest))
            if len(self._listings) >= NOTED_AT_ONCE:
                await self.finish()

    async def finish(self) -> None:
        """Have those noted that still wait."""
        listings, self._listings = self._listings, []
        if listings:
            await self._note(listings)


class SavedListings:
    """Notes the digests of all folders whose rows pass by in the order of their keys."""

    __slots__ = ("_folder", "_rows", "_to_note")

    def __init__(self, table: ListingTable) -> None:
        self._to_note = ListingsToNote(table.note_saved)
        self._folder: object = None
        self._rows: list[Row] = []

    async def add(self, rows: Sequence[Row]) -> None:
        """The next rows, in the order of ``STAT_COLUMNS``, whatever follows. Raises ``CatalogError``."""
        for folder, its_rows in groupby(rows, _FOLDER_OF):
            if folder != self._folder:
                await self._end_folder()
                self._folder = folder
            if len(self._rows) <= LISTED_AT_ONCE:
                self._rows += [row[:PENDING] + _COMMITTED + row[PENDING + 1 : NLINK + 1] for row in its_rows]

    async def finish(self) -> None:
        """There are no more."""
        await self._end_folder()
        await self._to_note.finish()

    async def _end_folder(self) -> None:
        # The root, which has no name, is listed in two parts.
        if self._folder and len(self._rows) <= LISTED_AT_ONCE:
            await self._to_note.add(cast("bytes", self._folder), listing_digest(self._rows))
        self._rows = []
