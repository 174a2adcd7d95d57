"""Entries that told all of themselves when the section's objects were looked through, collected on disk.

Most are members of packs. Hard links and references have no content of their
own: where it lies is found once all packs were read, in a few statements over
the whole table.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.replace import storable
from asyncbackup.catalog.rows import COLUMNS, PLACEHOLDERS, Row, entry_of_row, row_of_entry
from asyncbackup.model import PACKS, Entry, Kind, Pack, Pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from asyncbackup.catalog.scratch import Scratch

_NAMES = COLUMNS.split(", ")
_COLUMNS_OF_M = ", ".join(f"m.{name}" for name in _NAMES)
_PACK_COLUMNS = "run, key, size, checksum, encrypted, compression"

# Untyped columns keep what is put in, as in the table of entries.
MEMBER_TABLES = f"""
CREATE TABLE packs (
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    size INTEGER NOT NULL,
    checksum TEXT NOT NULL DEFAULT '',
    encrypted INTEGER NOT NULL DEFAULT 0,
    compression TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE TABLE members (
    path BLOB NOT NULL,
    run TEXT NOT NULL,
    source TEXT NOT NULL,
    first BLOB NOT NULL,
    copy INTEGER NOT NULL,
    reference INTEGER NOT NULL,
    {", ".join(_NAMES)},
    PRIMARY KEY (path, run)
) WITHOUT ROWID;
"""

# Of two members of one path and run the one in the later pack counts, whichever was read first.
_PUT = (
    f"INSERT INTO members (path, run, source, first, copy, reference, {COLUMNS}) "  # noqa: S608
    f"VALUES (?, ?, ?, ?, ?, ?, {PLACEHOLDERS}) ON CONFLICT (path, run) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in ("source", "first", "copy", "reference", *_NAMES))
    + " WHERE excluded.source >= members.source"
)
_CONTENT = ["size", "sha256", *(name for name in _NAMES if name.startswith("extent_"))]
_OF_INODE = [name for name in _NAMES if name not in ("folder", "name", "pending", *_CONTENT)]
_FIRST_OF = "f.path = m.first AND f.source = m.source AND f.first = x'' AND NOT f.reference"
_SHARE = (
    "UPDATE members AS m SET first = x'', "  # noqa: S608 - constants only
    + ", ".join(f"{name} = f.{name}" for name in _CONTENT)
    + ", "
    + ", ".join(f"{name} = CASE WHEN m.copy THEN m.{name} ELSE f.{name} END" for name in _OF_INODE)
    + f" FROM members AS f WHERE m.first != x'' AND {_FIRST_OF}"
)
_LABEL = (
    "UPDATE members AS f SET hardlink = f.source || '@' || f.extent_offset || '+' || f.extent_skip "
    "WHERE f.first = x'' AND (f.path, f.source) IN "
    "(SELECT first, source FROM members WHERE first != x'' AND NOT copy)"
)
_PLACE = "extent_run, extent_key, extent_offset, extent_length, extent_skip"
_SAME_PLACE = " AND ".join(f"f.{name} = m.{name}" for name in (*_PLACE.split(", "), "extent_encrypted"))
_IN_PACK = f"m.extent_key >= '{PACKS}' AND m.extent_key < '{PACKS[:-1]}0'"
_SETTLE_IN_PACKS = (
    f"UPDATE members AS m SET reference = 0 WHERE m.reference AND {_IN_PACK} AND EXISTS "  # noqa: S608
    f"(SELECT 1 FROM members f WHERE {_SAME_PLACE} AND f.extent_compression = m.extent_compression "
    "AND NOT f.reference AND f.size = m.size AND (m.sha256 = x'' OR f.sha256 = m.sha256))"
)
_SETTLE_IN_OBJECTS = (
    f"UPDATE members AS m SET reference = 0 WHERE m.reference AND NOT ({_IN_PACK}) AND EXISTS "  # noqa: S608
    "(SELECT 1 FROM (SELECT run, key, size FROM objects UNION ALL SELECT run, key, size FROM long) o "
    "WHERE o.run = m.extent_run AND o.key = m.extent_key AND o.size = m.extent_length)"
)
# A prune may have moved what a reference names to another pack; its digest finds it there.
_SETTLE_BY_CONTENT = (
    "UPDATE members AS m SET reference = 0, "  # noqa: S608 - constants only
    + ", ".join(f"{name} = f.{name}" for name in _CONTENT)
    + " FROM members AS f WHERE m.reference AND m.sha256 != x'' AND f.sha256 = m.sha256 "
    "AND f.size = m.size AND f.first = x'' AND NOT f.reference"
)
_CHOSEN = "FROM members m JOIN chosen c ON m.path = c.path AND m.run = c.run"


class FoundMember(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One entry as found. ``source`` is the object that tells of it, below the section's data; ``first``
    the path of the member of the same pack whose content a hard link or ``copy`` shares. Where the content
    of a ``reference`` lies is anybody's word."""

    entry: Entry
    run: str
    source: str
    first: bytes = b""
    copy: bool = False
    reference: bool = False


class FoundMembers:
    """The tables of packs and of what was found in them. Memory stays the same, whatever their number."""

    __slots__ = ("_lock", "_scratch")

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        # Packs are read side by side, and a scratch has one transaction at a time.
        self._lock = asyncio.Lock()

    async def add_packs(self, packs: Iterable[tuple[str, str, int]]) -> None:
        """Note (run, key, size) of listed packs."""
        await self._scratch.execute_many(
            "INSERT OR IGNORE INTO packs (run, key, size) VALUES (?, ?, ?)", packs
        )

    async def packs(self) -> AsyncIterator[list[Pack]]:
        """The listed packs, in pages; they may be described meanwhile."""
        after = ("", "")
        while rows := await self._scratch.all(
            f"SELECT {_PACK_COLUMNS} FROM packs "  # noqa: S608
            "WHERE (run, key) > (?, ?) ORDER BY run, key LIMIT 1000",
            after,
        ):
            page = [_pack(row) for row in rows]
            after = (page[-1].run, page[-1].key)
            yield page

    async def describe_pack(self, pack: Pack) -> None:
        """Note how a listed pack is stored."""
        async with self._lock:
            await self._scratch.execute(
                f"INSERT OR REPLACE INTO packs ({_PACK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                (pack.run, pack.key, pack.size, pack.checksum, int(pack.encrypted), pack.compression),
            )

    async def add(self, members: Sequence[FoundMember]) -> None:
        """Note entries that were found, each as a version of its path."""
        rows = [
            (
                member.entry.path,
                member.run,
                member.source,
                member.first,
                int(member.copy),
                int(member.reference),
                *row_of_entry(storable(member.entry), Pending.COMMITTED),
            )
            for member in members
        ]
        versions = [(m.entry.path, m.run, int(m.entry.kind is Kind.FOLDER)) for m in members]
        async with self._lock:
            await self._scratch.execute_many(_PUT, rows)
            await self._scratch.execute_many(
                "INSERT OR IGNORE INTO objects (path, run, key, size, modified_ns, is_folder) "
                "VALUES (?, ?, '', 0, 0, ?)",
                versions,
            )

    async def settle(self) -> None:
        """Give hard links and copies the contents of their first names, and check where references lead.

        What has ``first`` or ``reference`` still after that leads nowhere.
        """
        await self._scratch.execute(_LABEL)
        await self._scratch.execute(_SHARE)
        if await self._scratch.all("SELECT 1 FROM members WHERE reference LIMIT 1"):
            await self._scratch.execute(f"CREATE INDEX members_place ON members ({_PLACE})")
            await self._scratch.execute("CREATE INDEX objects_key ON objects (run, key)")
            await self._scratch.execute(_SETTLE_IN_PACKS)
            await self._scratch.execute(_SETTLE_IN_OBJECTS)
        if await self._scratch.all("SELECT 1 FROM members WHERE reference LIMIT 1"):
            await self._scratch.execute("CREATE INDEX members_content ON members (sha256)")
            await self._scratch.execute(_SETTLE_BY_CONTENT)

    async def take_chosen(self) -> None:
        """Make entries of the chosen versions that are members and lead somewhere."""
        await self._scratch.execute(
            f"INSERT OR REPLACE INTO entries ({COLUMNS}) SELECT {_COLUMNS_OF_M} {_CHOSEN} "
            "WHERE m.first = x'' AND NOT m.reference"
        )

    async def dangling(self) -> AsyncIterator[list[FoundMember]]:
        """The chosen versions that lead nowhere, in pages."""
        sql = (
            f"SELECT m.path, m.run, m.source, m.first, m.copy, m.reference, {_COLUMNS_OF_M} {_CHOSEN} "
            "WHERE (m.first != x'' OR m.reference) AND m.path > ? ORDER BY m.path LIMIT ?"
        )
        async for rows in self._scratch.keyed_pages(sql, after=b"", page_rows=1024):
            yield [_member(row) for row in rows]

    async def get(self, path: bytes, run: str) -> FoundMember | None:
        """The member that is one version of a path, if it is one."""
        rows = await self._scratch.all(
            f"SELECT path, run, source, first, copy, reference, {_COLUMNS_OF_M} FROM members m "  # noqa: S608
            "WHERE path = ? AND run = ?",
            (path, run),
        )
        return _member(rows[0]) if rows else None

    async def packs_of_entries(self) -> AsyncIterator[list[Pack]]:
        """The packs that entries lie in, in the order of (run, key), in pages."""
        sql = (
            f"SELECT {_PACK_COLUMNS} FROM packs WHERE (run, key) IN "  # noqa: S608
            "(SELECT extent_run, extent_key FROM entries) ORDER BY run, key"
        )
        async for rows in self._scratch.pages(sql):
            yield [_pack(row) for row in rows]


def _pack(row: Row) -> Pack:
    run, key, size, checksum, encrypted, compression = cast("tuple[str, str, int, str, int, str]", row)
    return Pack(run, key, size, checksum, bool(encrypted), compression)


def _member(row: Row) -> FoundMember:
    path, run, source, first, copy, reference = cast("tuple[bytes, str, str, bytes, int, int]", row[:6])
    entry = entry_of_row(row[6:])
    assert entry.path == path, "both are put from one entry"
    return FoundMember(
        entry=entry, run=run, source=source, first=first, copy=bool(copy), reference=bool(reference)
    )
