"""What a prune asks of a catalog and changes in it, before it deletes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from asyncbackup.catalog.database import translated
from asyncbackup.catalog.rows import COLUMNS, entry_of_row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.catalog.needed import NeededObjects
    from asyncbackup.model import Entry, Pack, RunId

PAGE_ROWS = 4096


_IN_PACK = "extent_key >= 'packs/' AND extent_key < 'packs0'"
_PLACE = "extent_run, extent_key, extent_offset, extent_skip"
_SET = (
    "SET extent_run = ?, extent_key = ?, extent_offset = ?, extent_length = ?, extent_skip = ?, "
    "extent_encrypted = ?"
)
_MOVES = (
    (
        f"SELECT {_PLACE}, folder, name FROM entries WHERE (folder, name) > (?, ?) AND {_IN_PACK} "  # noqa: S608
        "ORDER BY folder, name LIMIT ?",
        f"UPDATE entries {_SET} WHERE folder = ? AND name = ?",
    ),
    (
        f"SELECT {_PLACE}, sha256 FROM contents WHERE sha256 > ? AND {_IN_PACK} "  # noqa: S608
        "ORDER BY sha256 LIMIT ?",
        f"UPDATE contents {_SET} WHERE sha256 = ?",
    ),
)
"""Pages of what lies in packs, and how one row is changed: by the columns behind the place."""


async def catalog_entries(catalog: Catalog) -> AsyncIterator[list[Entry]]:
    """Entries with the objects that the next run may refer to, in pages: the tree's as it was saved, rows
    of interrupted runs among them.

    What other contents the catalog knows is not among them: :func:`drop_unneeded`
    makes it forget those.
    """
    sql = f"SELECT {COLUMNS} FROM entries WHERE extent_run IS NOT NULL"  # noqa: S608 - constants only
    async for rows in catalog.entries.pages(sql, folder_first=True):
        yield [entry_of_row(row) for row in rows]


async def drop_unneeded(catalog: Catalog, needed: NeededObjects, *, removed: Sequence[RunId]) -> None:
    """Make the catalog forget contents and packs that nothing needs, and snapshots that are ``removed``.

    Afterwards it refers to nothing that the prune is about to delete.
    """
    connection, lock = catalog._connection, catalog._lock
    async with lock.transaction() as writing:
        await writing.executemany("UPDATE runs SET committed = 0 WHERE run = ?", [(run,) for run in removed])
    after = b""
    while True:
        with translated(catalog.path):
            rows = cast(
                "list[tuple[bytes, str, str]]",
                list(
                    await connection.execute_fetchall(
                        "SELECT sha256, extent_run, extent_key FROM contents WHERE sha256 > ? "
                        "ORDER BY sha256 LIMIT ?",
                        (after, PAGE_ROWS),
                    )
                ),
            )
        if not rows:
            break
        after = rows[-1][0]
        gone = await needed.not_needed([(run, key) for _, run, key in rows])
        async with lock.transaction() as writing:
            await writing.executemany(
                "DELETE FROM contents WHERE sha256 = ?", [(rows[position][0],) for position in gone]
            )
    place = ("", "")
    while True:
        with translated(catalog.path):
            packs = cast(
                "list[tuple[str, str]]",
                list(
                    await connection.execute_fetchall(
                        "SELECT run, key FROM packs WHERE (run, key) > (?, ?) ORDER BY run, key LIMIT ?",
                        (*place, PAGE_ROWS),
                    )
                ),
            )
        if not packs:
            return
        place = packs[-1]
        gone = await needed.not_needed(packs)
        async with lock.transaction() as writing:
            await writing.executemany(
                "DELETE FROM packs WHERE run = ? AND key = ?", [packs[position] for position in gone]
            )


async def move_contents(catalog: Catalog, needed: NeededObjects, new_packs: Sequence[Pack]) -> None:
    """Make the catalog say where contents lie that were packed anew; both places hold them meanwhile."""
    connection, lock = catalog._connection, catalog._lock
    async with lock.transaction() as writing:
        await writing.executemany(
            "INSERT OR REPLACE INTO packs (run, key, size, checksum, encrypted, compression) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [(p.run, p.key, p.size, p.checksum, int(p.encrypted), p.compression) for p in new_packs],
        )
    for select, update in _MOVES:
        after: tuple[bytes, ...] = (b"",) * (select.count("?") - 1)
        # The first key may be empty: the root's.
        sql = select.replace(" > ", " >= ", 1)
        while True:
            with translated(catalog.path):
                rows = cast(
                    "list[tuple[str | int | bytes, ...]]",
                    list(await connection.execute_fetchall(sql, (*after, PAGE_ROWS))),
                )
            if not rows:
                break
            sql = select
            after = cast("tuple[bytes, ...]", rows[-1][4:])
            places = cast("list[tuple[str, str, int, int]]", [row[:4] for row in rows])
            moved = await needed.packs.moved(places)
            async with lock.transaction() as writing:
                await writing.executemany(
                    update, [(*place, *rows[position][4:]) for position, place in moved.items()]
                )
