"""What a prune has to keep, on disk: objects that kept snapshots need, and what is left of a listing.

``run`` and ``key`` are those of extents.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.needed_packs import NeededPacks
from asyncbackup.catalog.scratch import Scratch

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.model import Pack

_TABLES = """
CREATE TABLE needed (run TEXT, key TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID;
CREATE TABLE beside (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE linked (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE hidden (run TEXT, key TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID;
CREATE TABLE page (run TEXT NOT NULL, key TEXT NOT NULL, base TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE doomed (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL, key TEXT NOT NULL, size INTEGER NOT NULL
);
CREATE TABLE lines (path BLOB, node INTEGER, PRIMARY KEY (path, node)) WITHOUT ROWID;
CREATE TABLE parts (
    run TEXT, key TEXT, offset INTEGER, skip INTEGER, length INTEGER NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (run, key, offset, skip)
) WITHOUT ROWID;
CREATE TABLE packs (
    run TEXT, key TEXT, size INTEGER NOT NULL, encrypted INTEGER NOT NULL, compression TEXT NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE TABLE named (node INTEGER, run TEXT, key TEXT, PRIMARY KEY (node, run, key)) WITHOUT ROWID;
CREATE TABLE members (
    run TEXT, key TEXT, offset INTEGER, skip INTEGER, path BLOB, entry BLOB NOT NULL,
    PRIMARY KEY (run, key, offset, skip, path)
) WITHOUT ROWID;
CREATE TABLE moved (
    run TEXT, key TEXT, offset INTEGER, skip INTEGER,
    new_run TEXT NOT NULL, new_key TEXT NOT NULL, new_offset INTEGER NOT NULL, new_length INTEGER NOT NULL,
    new_skip INTEGER NOT NULL, new_encrypted INTEGER NOT NULL,
    PRIMARY KEY (run, key, offset, skip)
) WITHOUT ROWID;
CREATE TEMP TABLE staged (
    number INTEGER NOT NULL, run TEXT NOT NULL, key TEXT NOT NULL, offset INTEGER NOT NULL,
    skip INTEGER NOT NULL
);
CREATE TEMP TABLE asked (path BLOB NOT NULL);
CREATE TEMP TABLE places (place INTEGER NOT NULL, run TEXT NOT NULL, key TEXT NOT NULL);
"""

# A stand-in with a hidden name is sealed, so only its size tells it from a content: 16 KiB at most.
_UNNEEDED = (
    "NOT EXISTS (SELECT 1 FROM needed WHERE needed.run = page.run AND needed.key = page.base) "
    "AND NOT (page.size < 16384 AND EXISTS "
    "(SELECT 1 FROM hidden WHERE hidden.run = page.run AND hidden.key = page.key)) "
    "AND NOT (page.size = 0 AND EXISTS (SELECT 1 FROM beside WHERE beside.key = page.base)) "
    "AND NOT (page.key != page.base AND EXISTS (SELECT 1 FROM beside WHERE beside.key = page.base))"
)


class ListedObject(msgspec.Struct, frozen=True, gc=False):
    """One object below ``data/``. ``base`` is its own key, or that of the object that it stands beside."""

    run: str
    key: str
    base: str
    size: int


class NeededObjects:
    """Memory stays the same, whatever the number of objects."""

    __slots__ = ("_scratch", "packs")

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self.packs = NeededPacks(scratch)

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[NeededObjects]:
        """Empty tables on the disk of ``folder``; they vanish when the block ends."""
        async with Scratch.open(folder, _TABLES) as scratch:
            yield cls(scratch)

    async def need(self, objects: Iterable[tuple[str, str]]) -> None:
        """Note (run, key) pairs that have to stay."""
        await self._scratch.execute_many("INSERT OR IGNORE INTO needed VALUES (?, ?)", objects)

    async def need_beside(self, keys: Iterable[str]) -> None:
        """Note keys of stand-ins that have to stay, in whichever run they were written."""
        rows = [(key,) for key in keys]
        if rows:
            await self._scratch.execute_many("INSERT OR IGNORE INTO beside VALUES (?)", rows)

    async def need_linked(self, paths: Iterable[bytes]) -> None:
        """Note linked names whose stand-ins have hidden names, which differ from run to run."""
        rows = [(path,) for path in paths]
        if rows:
            await self._scratch.execute_many("INSERT OR IGNORE INTO linked VALUES (?)", rows)

    async def linked(self) -> AsyncIterator[list[bytes]]:
        """Those names, in pages."""
        sql = "SELECT path FROM linked WHERE path > ? ORDER BY path LIMIT ?"
        async for rows in self._scratch.keyed_pages(sql, after=b""):
            yield [cast("bytes", row[0]) for row in rows]

    async def need_hidden(self, run: str, keys: Iterable[str]) -> None:
        """Note keys of one run of which those of stand-ins have to stay."""
        await self._scratch.execute_many(
            "INSERT OR IGNORE INTO hidden VALUES (?, ?)", [(run, key) for key in keys]
        )

    async def note_lines(self, node: int, paths: Iterable[bytes]) -> None:
        """Note which paths the manifest with that number has a line for."""
        await self._scratch.execute_many(
            "INSERT OR IGNORE INTO lines VALUES (?, ?)", [(path, node) for path in paths]
        )

    async def nodes_of(self, paths: Sequence[bytes]) -> dict[bytes, frozenset[int]]:
        """The numbers of the manifests that were noted for each path; paths without any are left out."""
        await self._scratch.execute("DELETE FROM asked")
        await self._scratch.execute_many("INSERT INTO asked VALUES (?)", [(path,) for path in paths])
        rows = await self._scratch.all("SELECT path, node FROM asked CROSS JOIN lines USING (path)")
        found: dict[bytes, set[int]] = {}
        for path, node in cast("list[tuple[bytes, int]]", rows):
            found.setdefault(path, set()).add(node)
        return {path: frozenset(nodes) for path, nodes in found.items()}

    async def sort_out(self, objects: Sequence[ListedObject]) -> None:
        """Sort out some of what a listing showed: what nothing needs is doomed."""
        await self._scratch.execute("DELETE FROM page")
        await self._scratch.execute_many(
            "INSERT INTO page VALUES (?, ?, ?, ?)",
            [(found.run, found.key, found.base, found.size) for found in objects],
        )
        await self._scratch.execute(
            f"INSERT INTO doomed (run, key, size) SELECT run, key, size FROM page WHERE {_UNNEEDED}"  # noqa: S608
        )

    async def not_needed(self, places: Sequence[tuple[str, str]]) -> list[int]:
        """Which of the (run, key) pairs nothing needs, by their position."""
        await self._scratch.execute("DELETE FROM places")
        await self._scratch.execute_many(
            "INSERT INTO places VALUES (?, ?, ?)",
            [(position, run, key) for position, (run, key) in enumerate(places)],
        )
        rows = await self._scratch.all(
            "SELECT place FROM places WHERE NOT EXISTS "
            "(SELECT 1 FROM needed WHERE needed.run = places.run AND needed.key = places.key)"
        )
        return [cast("int", row[0]) for row in rows]

    async def totals(self) -> tuple[int, int]:
        """How many objects are doomed, and their bytes."""
        row = (await self._scratch.all("SELECT count(*), coalesce(sum(size), 0) FROM doomed"))[0]
        return cast("tuple[int, int]", row)

    async def replaced(self, pack: Pack, by: Pack) -> None:
        """Note that nothing needs ``pack`` any more, but ``by``."""
        await self.need([(by.run, by.key)])
        place = (pack.run, pack.key)
        await self._scratch.execute("DELETE FROM needed WHERE run = ? AND key = ?", place)
        await self._scratch.execute(
            "INSERT INTO doomed (run, key, size) VALUES (?, ?, ?)", (*place, pack.size)
        )

    async def doomed(self, *, page_rows: int) -> AsyncIterator[list[ListedObject]]:
        """What is doomed, in pages."""
        sql = "SELECT id, run, key, size FROM doomed WHERE id > ? ORDER BY id LIMIT ?"
        async for rows in self._scratch.keyed_pages(sql, after=0, page_rows=page_rows):
            yield [
                ListedObject(run, key, key, size)
                for _, run, key, size in cast("list[tuple[int, str, str, int]]", rows)
            ]
