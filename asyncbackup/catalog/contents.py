"""The tables ``contents`` and ``packs``: what the section's snapshots hold, by digest, and in which packs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.catalog.database import WriteLock, translated
from asyncbackup.catalog.rows import EXTENT_COLUMNS, SAVE_AGAIN_NS, Row, row_of_extent
from asyncbackup.model import Extent, Pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import aiosqlite

    from asyncbackup.model import Content

CONTENTS_KEPT = "contents"
"""In the catalog's meta: whether ``contents`` has all that ``entries`` has. A mirror does not keep it up."""
KEPT = b"1"

SIZES_FROM_BYTES = 65_536
"""Sizes of smaller contents are not indexed: those are read before anybody asks."""

_PACK = "run, key, size, checksum, encrypted, compression"
_SAVE_PACK = f"INSERT OR REPLACE INTO packs ({_PACK}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
_SAVE_CONTENT = (
    f"INSERT OR IGNORE INTO contents (sha256, size, {EXTENT_COLUMNS}) "  # noqa: S608 - constants only
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_TAKE_OVER = (
    f"INSERT OR IGNORE INTO contents (sha256, size, {EXTENT_COLUMNS}) SELECT sha256, size, {EXTENT_COLUMNS} "  # noqa: S608
    "FROM entries WHERE mode & 61440 = 32768 AND size > 0 AND sha256 != x'' AND extent_run IS NOT NULL "
    f"AND ctime_ns != {SAVE_AGAIN_NS} ORDER BY sha256"
)


def row_of_content(sha256: bytes, size: int, extent: Extent) -> Row:
    """The row of a content: digest, size, and the columns of its extent."""
    return (sha256, size, *row_of_extent(extent))


class ContentTable:
    """What is held by whom asks for a digest. A content that is stored more than once has one row."""

    __slots__ = ("_connection", "_lock", "_path", "statements")

    def __init__(self, connection: aiosqlite.Connection, lock: WriteLock, path: Path) -> None:
        self._connection = connection
        self._lock = lock
        self._path = path
        self.statements = 0

    async def find(self, digests: Sequence[bytes], *, encrypted: bool) -> dict[bytes, Extent]:
        """Where those of ``digests`` lie (at most some thousand) that are held, sealed or not as asked."""
        if not digests:
            return {}
        marks = ",".join("?" * len(digests))
        self.statements += 1
        with translated(self._path):
            rows = await self._connection.execute_fetchall(
                f"SELECT sha256, {EXTENT_COLUMNS} FROM contents "  # noqa: S608
                f"WHERE sha256 IN ({marks}) AND extent_encrypted = ?",
                (*digests, int(encrypted)),
            )
        return {
            digest: Extent(run, key, length, offset, checksum, part_size, bool(sealed), compression, skip)
            for digest, run, key, offset, length, checksum, part_size, sealed, compression, skip in rows
        }

    async def is_empty(self) -> bool:
        """Whether nothing is held."""
        self.statements += 1
        with translated(self._path):
            rows = await self._connection.execute_fetchall("SELECT 1 FROM contents LIMIT 1")
        return not list(rows)

    async def holds_size(self, size: int) -> bool:
        """Whether a content of ``size`` bytes (at least ``SIZES_FROM_BYTES``) is held."""
        self.statements += 1
        with translated(self._path):
            rows = await self._connection.execute_fetchall(
                "SELECT 1 FROM contents WHERE size = ? AND size >= 65536 LIMIT 1", (size,)
            )
        return bool(list(rows))

    async def save(self, packs: Iterable[Pack], contents: Iterable[Content]) -> None:
        """Note packs and contents, in one transaction."""
        pack_rows = [(p.run, p.key, p.size, p.checksum, int(p.encrypted), p.compression) for p in packs]
        # In the order of the table: neighbouring rows then lie on pages that were just written.
        rows = sorted(row_of_content(each.sha256, each.size, each.extent) for each in contents)
        if not pack_rows and not rows:
            return
        async with self._lock.transaction() as connection:
            if pack_rows:
                self.statements += 1
                await connection.executemany(_SAVE_PACK, pack_rows)
            if rows:
                self.statements += 1
                await connection.executemany(_SAVE_CONTENT, rows)

    async def take_over_entries(self) -> None:
        """Note the contents of the whole tree, unless found damaged: its section was a mirror until now."""
        async with self._lock.transaction() as connection:
            self.statements += 1
            await connection.execute(_TAKE_OVER)
