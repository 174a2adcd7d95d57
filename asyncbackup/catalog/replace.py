"""Giving a catalog a new content all at once: what a rebuild ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.history import begin_chain
from asyncbackup.catalog.rows import COLUMNS, PLACEHOLDERS, row_of_entry
from asyncbackup.catalog.runs import INSERT_RUN, row_of_run
from asyncbackup.model import Pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.catalog.runs import RunRecord
    from asyncbackup.model import Entry

_INSERT = f"INSERT INTO entries ({COLUMNS}) VALUES ({PLACEHOLDERS})"  # noqa: S608 - constants only


async def replace_contents(
    catalog: Catalog,
    batches: AsyncIterator[list[Entry]],
    *,
    runs: Sequence[RunRecord],
    meta: Mapping[str, bytes],
) -> None:
    """Forget every entry and run, and take these instead, as what the last of ``runs`` committed.

    The next snapshot may rest on that last one, so its ``depth`` has to be the
    one in the header of its manifest.

    One transaction: whatever ``batches`` raises, or a crash at any point,
    leaves the catalog as it was. ``meta`` is stored beside, replacing values
    of the same names. Unfinished uploads stay in their journal.
    """
    async with catalog._lock.transaction() as connection:
        for table in ("entries", "runs", "inodes", "links", "part_hashes"):
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608 - constants only
        async for batch in batches:
            rows = [row_of_entry(storable(entry), Pending.COMMITTED) for entry in batch]
            await connection.executemany(_INSERT, rows)
        await connection.executemany(INSERT_RUN, [row_of_run(run) for run in runs])
        if runs:
            await begin_chain(connection, runs[-1].run)
        await connection.executemany(
            "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", list(meta.items())
        )


def storable(entry: Entry) -> Entry:
    """The entry with texts that SQLite takes: bytes of a name that are no UTF-8 become U+FFFD.

    Such names of owners come from other systems and count for nothing there
    but display; what a file is restored with are the numbers.
    """
    if _is_text(entry.owner) and _is_text(entry.group) and _is_text(entry.hardlink):
        return entry
    return msgspec.structs.replace(
        entry, owner=_text(entry.owner), group=_text(entry.group), hardlink=_text(entry.hardlink)
    )


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: str) -> str:
    return value.encode(errors="surrogateescape").decode(errors="replace")
