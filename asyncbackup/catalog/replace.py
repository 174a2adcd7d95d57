"""Giving a catalog a new content all at once: what a rebuild ends with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.contents import CONTENTS_KEPT, KEPT, row_of_content
from asyncbackup.catalog.history import begin_chain
from asyncbackup.catalog.rows import COLUMNS, EXTENT_COLUMNS, PLACEHOLDERS, Row, row_of_entry
from asyncbackup.catalog.runs import INSERT_RUN, row_of_run
from asyncbackup.catalog.schema import TRIGGERS, name_of_trigger
from asyncbackup.model import PACKS, Kind, Pack, Pending
from asyncbackup.text import is_utf8

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import aiosqlite

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.catalog.runs import RunRecord
    from asyncbackup.model import Entry

_COUNT = (
    "INSERT OR REPLACE INTO totals (kind, entries, bytes) "
    "SELECT mode & 61440, count(*), sum(size) FROM entries GROUP BY mode & 61440"
)
_TABLES = ("entries", "listings", "contents", "packs", "touched", "runs", "inodes", "links", "part_hashes")

_INSERT = f"INSERT INTO entries ({COLUMNS}) VALUES ({PLACEHOLDERS})"  # noqa: S608 - constants only
# Of several places of one content the first one counts, but one that is stored as the section stores
# today counts before all others.
_ON_CONFLICT = (
    "ON CONFLICT (sha256) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in EXTENT_COLUMNS.split(", "))
    + " WHERE excluded.extent_encrypted = {sealed:d} AND contents.extent_encrypted != {sealed:d}"
)
_INSERT_CONTENT = f"INSERT INTO contents (sha256, size, {EXTENT_COLUMNS}) VALUES (?{', ?' * 10}) "  # noqa: S608
# In the order of the digests, so that each page of the table is written once.
_CONTENTS_OF_ENTRIES = (
    f"INSERT INTO contents (sha256, size, {EXTENT_COLUMNS}) "  # noqa: S608 - constants only
    f"SELECT sha256, size, {EXTENT_COLUMNS} FROM entries "
    "WHERE size > 0 AND sha256 != x'' AND extent_run IS NOT NULL ORDER BY sha256 "
)
_IN_PACK = f"extent_key >= '{PACKS}' AND extent_key < '{PACKS[:-1]}0'"
_DROP_IDLE_PACKS = (
    "DELETE FROM packs WHERE (run, key) NOT IN ("  # noqa: S608 - constants only
    f"SELECT DISTINCT extent_run, extent_key FROM entries WHERE {_IN_PACK} "
    f"UNION SELECT DISTINCT extent_run, extent_key FROM contents WHERE {_IN_PACK})"
)


class Replacement:
    """The new content of a catalog, part by part. It becomes the catalog's when the block ends."""

    __slots__ = ("_connection", "_sealed")

    def __init__(self, connection: aiosqlite.Connection, *, sealed: bool) -> None:
        self._connection = connection
        self._sealed = sealed

    async def add_entries(self, entries: Iterable[Entry]) -> None:
        """Entries of the tree as the last snapshot holds it, each path once."""
        rows = [row_of_entry(storable(entry), Pending.COMMITTED) for entry in entries]
        await self._connection.executemany(_INSERT, rows)

    async def add_contents_of_entries(self) -> None:
        """Note where the contents of all entries lie that were added so far, and that runs need not."""
        await self._connection.execute(_CONTENTS_OF_ENTRIES + self._on_conflict())
        await self.add_meta({CONTENTS_KEPT: KEPT})

    async def add_contents(self, entries: Iterable[Entry]) -> None:
        """Note where the contents of further entries lie: those of an earlier snapshot, which the tree
        need not have any more."""
        with_content = sorted(filter(_has_content, entries), key=lambda entry: entry.sha256)
        if with_content:
            rows = [_content_row(entry) for entry in with_content]
            await self._connection.executemany(_INSERT_CONTENT + self._on_conflict(), rows)

    @asynccontextmanager
    async def taken_back_on(self, *errors: type[Exception]) -> AsyncIterator[None]:
        """What the block adds is taken back if it raises one of ``errors``; what was added before stays.

        Every other error ends the replacement anyway.
        """
        await self._connection.execute("SAVEPOINT part")
        try:
            yield
        except errors:
            await self._connection.execute("ROLLBACK TO part")
            await self._connection.execute("RELEASE part")
            raise
        await self._connection.execute("RELEASE part")

    async def add_packs(self, packs: Iterable[Pack]) -> None:
        """Describe packs; some may come more than once."""
        await self._connection.executemany(
            "INSERT OR IGNORE INTO packs (run, key, size, checksum, encrypted, compression) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [(p.run, p.key, p.size, p.checksum, int(p.encrypted), p.compression) for p in packs],
        )

    async def drop_idle_packs(self) -> None:
        """Forget the packs that no entry and no content lies in: a prune may have deleted them."""
        await self._connection.execute(_DROP_IDLE_PACKS)

    async def add_runs(self, runs: Sequence[RunRecord]) -> None:
        """The snapshots there are, oldest first. The next one may rest on the last of them, so its
        ``depth`` has to be the one in the header of its manifest."""
        await self._connection.executemany(INSERT_RUN, [row_of_run(run) for run in runs])
        await begin_chain(self._connection, runs[-1].run)

    async def add_meta(self, meta: Mapping[str, bytes]) -> None:
        """Values stored beside, in place of those of the same names."""
        await self._connection.executemany(
            "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", list(meta.items())
        )

    def _on_conflict(self) -> str:
        return _ON_CONFLICT.format(sealed=self._sealed)


@asynccontextmanager
async def replacing(catalog: Catalog, *, sealed: bool) -> AsyncIterator[Replacement]:
    """Forget every entry, content, pack and run, and take what the block adds instead.

    One transaction: whatever the block raises, or a crash at any point, leaves
    the catalog as it was. Unfinished uploads stay in their journal. ``sealed``
    says whether the section is encrypted today.
    """
    async with catalog._lock.transaction() as connection:
        # Counting once is cheaper than a trigger for every row.
        for trigger in TRIGGERS:
            await connection.execute(f"DROP TRIGGER {name_of_trigger(trigger)}")
        for table in _TABLES:
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608 - constants only
        await connection.execute("DELETE FROM meta WHERE name = ?", (CONTENTS_KEPT,))
        yield Replacement(connection, sealed=sealed)
        await connection.execute("UPDATE totals SET entries = 0, bytes = 0")
        await connection.execute(_COUNT)
        for trigger in TRIGGERS:
            await connection.execute(trigger)


def _has_content(entry: Entry) -> bool:
    return entry.kind is Kind.FILE and entry.size > 0 and bool(entry.sha256) and entry.extent is not None


def _content_row(entry: Entry) -> Row:
    extent = entry.extent
    assert extent is not None, "only entries with a place are noted"
    return row_of_content(entry.sha256, entry.size, extent)


def storable(entry: Entry) -> Entry:
    """The entry with texts that SQLite takes: bytes of a name that are no UTF-8 become U+FFFD.

    Such names of owners come from other systems and count for nothing there
    but display; what a file is restored with are the numbers.
    """
    if is_utf8(entry.owner + entry.group + entry.hardlink):
        return entry
    return msgspec.structs.replace(
        entry, owner=_text(entry.owner), group=_text(entry.group), hardlink=_text(entry.hardlink)
    )


def _text(value: str) -> str:
    return value.encode(errors="surrogateescape").decode(errors="replace")
