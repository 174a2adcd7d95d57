"""The table ``listings``: by its digest, what the listing of a folder is that is as its rows say.

Of a folder in which nothing has changed a run then reads 32 bytes in place of
all its rows. A digest is forgotten with any change of the folder's rows, by
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
    from collections.abc import Sequence
    from pathlib import Path

    import aiosqlite

LISTED_AT_ONCE = 4096
"""A folder with more entries is listed in parts, and has no digest."""
NOTED_AT_ONCE = 1024

_FOLDER_OF = itemgetter(0)
_COMMITTED = (int(Pending.COMMITTED),)
_encoder = msgspec.msgpack.Encoder()

_USABLE = "SELECT EXISTS (SELECT 1 FROM listings) AND NOT EXISTS (SELECT 1 FROM entries WHERE pending != 0) "
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
        """The digests of those of ``folders`` (at most some thousand) that have one."""
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
        """Note what the rows say, pending ones among them. Nothing may be saved until they are settled."""
        async with self._lock.transaction() as connection:
            await connection.executemany(_NOTE, listings)


class SavedListings:
    """Notes the digests of all folders whose rows pass by in the order of their keys."""

    __slots__ = ("_digests", "_folder", "_rows", "_table")

    def __init__(self, table: ListingTable) -> None:
        self._table = table
        self._folder: object = None
        self._rows: list[Row] = []
        self._digests: list[tuple[bytes, bytes]] = []

    async def add(self, rows: Sequence[Row]) -> None:
        """The next rows, in the order of ``STAT_COLUMNS``, whatever follows. Raises ``CatalogError``."""
        for folder, its_rows in groupby(rows, _FOLDER_OF):
            if folder != self._folder:
                self._end_folder()
                self._folder = folder
            if len(self._rows) <= LISTED_AT_ONCE:
                self._rows += [row[:PENDING] + _COMMITTED + row[PENDING + 1 : NLINK + 1] for row in its_rows]
        if len(self._digests) >= NOTED_AT_ONCE:
            await self._note()

    async def finish(self) -> None:
        """There are no more."""
        self._end_folder()
        await self._note()

    def _end_folder(self) -> None:
        # The root, which has no name, is listed in two parts.
        if self._folder and len(self._rows) <= LISTED_AT_ONCE and (digest := listing_digest(self._rows)):
            self._digests.append((cast("bytes", self._folder), digest))
        self._rows = []

    async def _note(self) -> None:
        digests, self._digests = self._digests, []
        if digests:
            await self._table.note_saved(digests)
