"""What the objects of a section tell when its manifests are gone, collected on disk.

``objects`` is every version of every path that was listed, ``chosen`` the
newest of each, ``entries`` what becomes of those once they were asked about.
What tells all of its entry when its path is asked for (members of packs,
objects with hidden names) is in ``objects`` as well, its entry in ``members``
(see :mod:`asyncbackup.catalog.found_members`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.found_members import MEMBER_TABLES, FoundMembers
from asyncbackup.catalog.replace import storable
from asyncbackup.catalog.rows import COLUMNS, PLACEHOLDERS, Row, entry_of_row, row_of_entry
from asyncbackup.catalog.scratch import Scratch
from asyncbackup.model import Entry, Pending, split_path

if TYPE_CHECKING:
    from pathlib import Path

_COLUMN_NAMES = [name.strip() for name in COLUMNS.split(",")]

# Untyped columns keep what is put in: blobs as blobs, and times beyond 64 bits as text.
_TABLES = f"""
CREATE TABLE objects (
    path BLOB NOT NULL,
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    is_folder INTEGER NOT NULL,
    PRIMARY KEY (path, run)
) WITHOUT ROWID;
CREATE TABLE long (
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE TABLE chosen (
    path BLOB PRIMARY KEY,
    folder BLOB NOT NULL,
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    is_folder INTEGER NOT NULL
) WITHOUT ROWID;
{MEMBER_TABLES}
CREATE TABLE entries ({", ".join(_COLUMN_NAMES)}, PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE stand_ins (path BLOB PRIMARY KEY, run TEXT NOT NULL, first BLOB NOT NULL) WITHOUT ROWID;
"""

_INSERT_ENTRY = f"INSERT OR REPLACE INTO entries ({COLUMNS}) VALUES ({PLACEHOLDERS})"  # noqa: S608


class FoundObject(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One listed object. ``key`` is relative to the run's folder; ``""`` for a folder that has no
    object and must have been there, since something lies in it."""

    path: bytes
    run: str
    key: str
    size: int
    modified_ns: int
    is_folder: bool


class StandIn(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An entry whose content lies under another name: ``first``, as it was at the time of ``run``."""

    entry: Entry
    run: str
    first: bytes


class FoundObjects:
    """The tables of one rebuild. Memory stays the same, whatever the number of objects."""

    __slots__ = ("_scratch", "members")

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self.members = FoundMembers(scratch)

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[FoundObjects]:
        """Empty tables on the disk of ``folder``; they vanish when the block ends."""
        async with Scratch.open(folder, _TABLES) as scratch:
            yield cls(scratch)

    async def add(self, objects: Iterable[FoundObject]) -> None:
        """Note listed objects whose paths are known."""
        await self._scratch.execute_many(
            "INSERT OR IGNORE INTO objects (path, run, key, size, modified_ns, is_folder) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [(o.path, o.run, o.key, o.size, o.modified_ns, int(o.is_folder)) for o in objects],
        )

    async def add_long(self, objects: Iterable[tuple[str, str, int, int]]) -> None:
        """Note (run, key, size, modified_ns) of objects whose key does not tell their path."""
        await self._scratch.execute_many(
            "INSERT OR IGNORE INTO long (run, key, size, modified_ns) VALUES (?, ?, ?, ?)", objects
        )

    async def long_objects(self) -> AsyncIterator[list[tuple[str, str, int, int]]]:
        """Those objects, in pages."""
        after = ("", "")
        while rows := await self._scratch.all(
            "SELECT run, key, size, modified_ns FROM long "
            "WHERE (run, key) > (?, ?) ORDER BY run, key LIMIT 1000",
            after,
        ):
            page = cast("list[tuple[str, str, int, int]]", rows)
            after = page[-1][:2]
            yield page

    async def newest_run(self) -> str:
        """The newest run that has an object, ``""`` if there is none."""
        rows = await self._scratch.all(
            "SELECT max(run) FROM (SELECT max(run) AS run FROM objects UNION ALL SELECT max(run) FROM long "
            "UNION ALL SELECT max(run) FROM packs)"
        )
        return cast("str | None", rows[0][0]) or ""

    async def choose(self) -> None:
        """Choose the newest version of every path, and put folders where there must have been some.

        A file that lies where a newer object needs a folder gives way to it;
        what lies below a newer file is from before it and is left out.
        """
        # With max(), SQLite takes the other columns from the row that has the maximum.
        await self._scratch.execute(
            "INSERT INTO chosen (path, folder, run, key, size, modified_ns, is_folder) "
            "SELECT path, x'', max(run), key, size, modified_ns, is_folder FROM objects GROUP BY path"
        )
        async for rows in self._scratch.keyed_pages(
            "SELECT path FROM chosen WHERE path > ? ORDER BY path LIMIT ?", after=b""
        ):
            await self._scratch.execute_many(
                "UPDATE chosen SET folder = ? WHERE path = ?",
                [(split_path(path)[0], path) for (path,) in cast("list[tuple[bytes]]", rows)],
            )
        await self._scratch.execute("CREATE INDEX chosen_folder ON chosen (folder)")
        if not await self._scratch.all("SELECT 1 FROM chosen WHERE path = x''"):
            await self._put_folder(b"")
        while folders := await self._scratch.all(
            "SELECT DISTINCT c.folder FROM chosen c LEFT JOIN chosen p ON p.path = c.folder "
            "WHERE c.path != x'' AND (p.path IS NULL OR NOT p.is_folder) ORDER BY c.folder LIMIT 1000"
        ):
            for (folder,) in cast("list[tuple[bytes]]", folders):
                await self._make_room(folder)

    async def _make_room(self, folder: bytes) -> None:
        below = (folder + b"/", folder + b"0")
        rows = await self._scratch.all("SELECT run FROM chosen WHERE path = ? AND NOT is_folder", (folder,))
        if rows:
            run = rows[0][0]
            await self._scratch.execute(
                "DELETE FROM chosen WHERE path > ? AND path < ? AND run <= ?", (*below, run)
            )
            newer = await self._scratch.all("SELECT 1 FROM chosen WHERE path > ? AND path < ? LIMIT 1", below)
            if not newer:
                return
        await self._put_folder(folder)

    async def _put_folder(self, path: bytes) -> None:
        await self._scratch.execute(
            "INSERT OR REPLACE INTO chosen (path, folder, run, key, size, modified_ns, is_folder) "
            "VALUES (?, ?, '', '', 0, 0, 1)",
            (path, split_path(path)[0]),
        )

    async def chosen(self) -> AsyncIterator[list[FoundObject]]:
        """The newest version of every path that is no member, in pages; entries may be put meanwhile."""
        fields = "path, run, key, size, modified_ns, is_folder"
        to_ask = (
            f"SELECT {fields} FROM chosen c WHERE NOT EXISTS "  # noqa: S608
            "(SELECT 1 FROM members m WHERE m.path = c.path AND m.run = c.run)"
        )
        sql = f"{to_ask} AND path > ? ORDER BY path LIMIT ?"
        root = await self._scratch.all(f"{to_ask} AND path = x''")
        yield [_found(row) for row in root]
        async for rows in self._scratch.keyed_pages(sql, after=b"", page_rows=1024):
            yield [_found(row) for row in rows]

    async def version(self, path: bytes, *, not_after: str) -> FoundObject | None:
        """The version of a path that was the newest at the time of a run."""
        rows = await self._scratch.all(
            "SELECT path, run, key, size, modified_ns, is_folder FROM objects "
            "WHERE path = ? AND run <= ? ORDER BY run DESC LIMIT 1",
            (path, not_after),
        )
        return _found(rows[0]) if rows else None

    async def put(self, entries: Iterable[Entry]) -> None:
        """Write down what became of chosen objects."""
        await self._scratch.execute_many(
            _INSERT_ENTRY, [row_of_entry(storable(entry), Pending.COMMITTED) for entry in entries]
        )

    async def put_stand_ins(self, stand_ins: Sequence[StandIn]) -> None:
        """Write down entries whose content is still to be found under another name."""
        await self.put(stand_in.entry for stand_in in stand_ins)
        await self._scratch.execute_many(
            "INSERT OR REPLACE INTO stand_ins (path, run, first) VALUES (?, ?, ?)",
            [(each.entry.path, each.run, each.first) for each in stand_ins],
        )

    async def stand_ins(self) -> AsyncIterator[list[StandIn]]:
        """Those entries, in pages; they may be put anew or dropped meanwhile."""
        sql = "SELECT path, run, first FROM stand_ins WHERE path > ? ORDER BY path LIMIT ?"
        async for rows in self._scratch.keyed_pages(sql, after=b"", page_rows=1024):
            page = []
            for path, run, first in cast("list[tuple[bytes, str, bytes]]", rows):
                entry = await self.get(path)
                assert entry is not None, "stand-ins are put together with their entries"
                page.append(StandIn(entry=entry, run=run, first=first))
            yield page

    async def get(self, path: bytes) -> Entry | None:
        """The entry of one path, if it was put."""
        rows = await self._scratch.all(
            f"SELECT {COLUMNS} FROM entries WHERE folder = ? AND name = ?",  # noqa: S608
            split_path(path),
        )
        return entry_of_row(rows[0]) if rows else None

    async def drop(self, paths: Iterable[bytes]) -> None:
        """Leave entries out after all."""
        await self._scratch.execute_many(
            "DELETE FROM entries WHERE folder = ? AND name = ?", [split_path(path) for path in paths]
        )

    async def settle_links(self) -> None:
        """Part the groups of hard links whose contents are known to differ: their inode's number
        was used again for another file."""
        await self._scratch.execute(
            "UPDATE entries SET hardlink = '' WHERE hardlink != '' AND hardlink IN ("
            "SELECT hardlink FROM entries WHERE hardlink != '' AND sha256 != x'' "
            "GROUP BY hardlink HAVING count(DISTINCT sha256) > 1)"
        )

    async def entries(self) -> AsyncGenerator[list[Entry], None]:
        """Every entry in the order of (folder, name), in pages."""
        sql = f"SELECT {COLUMNS} FROM entries ORDER BY folder, name"  # noqa: S608
        async for rows in self._scratch.pages(sql):
            yield [entry_of_row(row) for row in rows]


def _found(row: Row) -> FoundObject:
    path, run, key, size, modified_ns, is_folder = cast("tuple[bytes, str, str, int, int, int]", row)
    return FoundObject(
        path=path, run=run, key=key, size=size, modified_ns=modified_ns, is_folder=bool(is_folder)
    )
