"""What a prune asks of a catalog and changes in it, before it deletes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from asyncbackup.catalog.database import translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.catalog.needed import NeededObjects
    from asyncbackup.model import RunId

PAGE_ROWS = 4096


async def catalog_objects(catalog: Catalog) -> AsyncIterator[list[tuple[str, str]]]:
    """The objects that the next run may refer to or complete, as (run, key), in pages; some come twice.

    Those are the tree's as it was saved, rows of interrupted runs among them,
    and those of journaled uploads. What other contents the catalog knows is
    not among them: :func:`drop_unneeded` makes it forget those.
    """
    sql = "SELECT extent_run, extent_key FROM entries WHERE extent_run IS NOT NULL"
    async for rows in catalog.entries.pages(sql):
        yield cast("list[tuple[str, str]]", rows)
    yield [(upload.run, upload.key) for upload in await catalog.uploads.all()]


async def linked_objects(catalog: Catalog) -> AsyncIterator[list[tuple[bytes, bytes, str]]]:
    """Names of linked files as (folder, name, key of the content), in pages."""
    sql = (
        "SELECT folder, name, extent_key FROM entries "
        "WHERE hardlink != '' AND extent_run IS NOT NULL AND mode & 61440 = 32768"
    )
    async for rows in catalog.entries.pages(sql):
        yield cast("list[tuple[bytes, bytes, str]]", rows)


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
