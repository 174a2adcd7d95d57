"""What one run notes of hard links, on disk, so that a million linked files cost no memory.

``inodes`` remembers which name of an inode was met first; ``links`` keeps the
further names until the first one's content is saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.database import WriteLock, translated
from asyncbackup.catalog.rows import COLUMNS, PENDING, SAVE_AGAIN_NS, Row, entry_of_row
from asyncbackup.model import Entry, Pending, SourceEntry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from pathlib import Path

    import aiosqlite

PAGE_ROWS = 1024

# JSON has integers of any size: a time on tmpfs may be anything that 64-bit seconds hold.
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SourceEntry)


class DeferredLink(msgspec.Struct, frozen=True, kw_only=True):
    """A further name of an inode. ``known`` is its own saved row, unless that is damaged, and
    ``known_pending`` how that differs from the last snapshot, ``first_path`` the name that carries
    the content and ``first`` that name's saved row, ``None`` where saving it failed."""

    entry: SourceEntry
    pending: Pending
    known: Entry | None
    known_pending: Pending
    first_path: bytes
    first: Entry | None


class LinkTable:
    __slots__ = ("_connection", "_lock", "_path")

    def __init__(self, connection: aiosqlite.Connection, lock: WriteLock, path: Path) -> None:
        self._connection = connection
        self._lock = lock
        self._path = path

    async def clear(self) -> None:
        """Forget what an earlier run noted."""
        async with self._lock.transaction() as connection:
            await connection.execute("DELETE FROM inodes")
            await connection.execute("DELETE FROM links")

    async def claim(self, names: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
        """For (inode label, path) pairs, the path of each inode that was met first in this run."""
        async with self._lock.transaction() as connection:
            await connection.executemany("INSERT OR IGNORE INTO inodes (label, path) VALUES (?, ?)", names)
            marks = ",".join("?" * len(names))
            rows = await connection.execute_fetchall(
                f"SELECT label, path FROM inodes WHERE label IN ({marks})",  # noqa: S608
                [label for label, _ in names],
            )
        return {str(label): bytes(path) for label, path in rows}

    async def defer(self, links: Iterable[tuple[SourceEntry, Pending, bytes]]) -> None:
        """Keep further names (entry, pending, path of the first name) for the end of the run."""
        rows = [(entry.path, _encoder.encode(entry), int(pending), first) for entry, pending, first in links]
        async with self._lock.transaction() as connection:
            await connection.executemany(
                "INSERT OR REPLACE INTO links (path, entry, pending, first) VALUES (?, ?, ?, ?)", rows
            )

    async def deferred(self) -> AsyncIterator[list[DeferredLink]]:
        """The kept names in pages, each with the rows that are saved by now.

        If the first name of a file was kept as well, all names of the file come in
        one page, that one before the others, whose ``first`` then is not known yet.
        """
        after: tuple[bytes, bytes] | None = None
        while True:
            rows = await self._page(after)
            if not rows:
                return
            after = (rows[-1][3], rows[-1][0])
            kept = {bytes(path) for path, _, _, first in rows if path == first}
            rows.sort(key=lambda row: (row[3], row[0] != row[3], row[0]))
            wanted = {bytes(row[0]) for row in rows} | {bytes(row[3]) for row in rows}
            saved = await self._saved(sorted(wanted))
            nothing = (None, Pending.COMMITTED)
            page: list[DeferredLink] = []
            for path, entry, pending, first_path in rows:
                known, known_pending = saved.get(bytes(path), nothing)
                if known is not None and known.ctime_ns == SAVE_AGAIN_NS:
                    known = None  # what is stored of it is damaged
                page.append(
                    DeferredLink(
                        entry=_decoder.decode(entry),
                        pending=Pending(pending),
                        known=known,
                        known_pending=known_pending,
                        first_path=bytes(first_path),
                        first=None if first_path in kept else saved.get(bytes(first_path), nothing)[0],
                    )
                )
            yield page

    async def _page(self, after: tuple[bytes, bytes] | None) -> list[tuple[bytes, bytes, int, bytes]]:
        """The next names in the order of (first, path), and all others of the last one's file if its
        first name is among what was kept."""
        select = "SELECT path, entry, pending, first FROM links"
        order = "ORDER BY first, path"
        with translated(self._path):
            if after is None:
                found = await self._connection.execute_fetchall(f"{select} {order} LIMIT ?", (PAGE_ROWS,))
            else:
                found = await self._connection.execute_fetchall(
                    f"{select} WHERE (first, path) > (?, ?) {order} LIMIT ?", (*after, PAGE_ROWS)
                )
            rows = cast("list[tuple[bytes, bytes, int, bytes]]", list(found))
            if len(rows) == PAGE_ROWS:
                rest = await self._connection.execute_fetchall(
                    f"{select} WHERE first = ? AND path > ? "  # noqa: S608 - constants only
                    f"AND EXISTS (SELECT 1 FROM links WHERE path = ? AND first = ?) {order}",
                    (rows[-1][3], rows[-1][0], rows[-1][3], rows[-1][3]),
                )
                rows += cast("list[tuple[bytes, bytes, int, bytes]]", list(rest))
        return rows

    async def _saved(self, paths: Sequence[bytes]) -> dict[bytes, tuple[Entry, Pending]]:
        with translated(self._path):
            await self._connection.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (folder BLOB, name BLOB)")
            await self._connection.execute("DELETE FROM wanted")
            pairs = [path.rpartition(b"/")[::2] for path in paths]
            await self._connection.executemany("INSERT INTO wanted VALUES (?, ?)", pairs)
            rows = await self._connection.execute_fetchall(
                f"SELECT {COLUMNS} FROM wanted JOIN entries USING (folder, name) WHERE pending != 3"  # noqa: S608
            )
        entries = [(entry_of_row(cast("Row", row)), Pending(row[PENDING])) for row in rows]
        return {entry.path: (entry, pending) for entry, pending in entries}
