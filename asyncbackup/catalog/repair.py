"""Marking what was found damaged, so that the next run saves it again and nothing refers to it any more.

A marked row keeps all it says: should its file not be readable, its earlier
version stays in the snapshots, damaged as it is. The mark is a ctime that no
file has (``SAVE_AGAIN_NS``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.database import translated
from asyncbackup.catalog.rows import SAVE_AGAIN_NS
from asyncbackup.model import Pending, join_path, split_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.model import RunId

_IN_DAMAGED = "(extent_run, extent_key) IN (SELECT run, key FROM damaged_objects)"
_MARKED = f"{_IN_DAMAGED} AND pending != {Pending.DELETED:d}"
_FILES = "mode & 61440 = 32768"


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """How much the next run has to save again, and how many contents are forgotten for good."""

    files: int
    others: int
    contents: int


async def mark_damaged(
    catalog: Catalog, objects: AsyncIterator[list[tuple[str, str]]], *, broken: Sequence[RunId]
) -> Marked:
    """Mark every entry that lies in one of ``objects`` ((run, key), in pages), and forget their contents.

    Of a damaged pack that is everything in it, so that the next snapshot needs
    it no more. The snapshots ``broken`` are no base of later ones. Devices and
    inodes of marked rows are forgotten too: a moved file is not taken for a
    damaged content. One transaction.
    """
    async with catalog._lock.transaction() as connection:
        await connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS damaged_objects "
            "(run TEXT, key TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID"
        )
        await connection.execute("DELETE FROM damaged_objects")
        async for page in objects:
            await connection.executemany("INSERT OR IGNORE INTO damaged_objects VALUES (?, ?)", page)
        async with connection.execute(
            f"SELECT count(*) FROM entries WHERE {_MARKED} AND {_FILES}"  # noqa: S608 - constants only
        ) as cursor:
            row = await cursor.fetchone()
        files = int(row[0]) if row else 0
        async with connection.execute(
            f"UPDATE entries SET ctime_ns = ?, dev = 0, ino = 0 WHERE {_MARKED}",  # noqa: S608
            (SAVE_AGAIN_NS,),
        ) as cursor:
            marked = cursor.rowcount
        async with connection.execute(f"DELETE FROM contents WHERE {_IN_DAMAGED}") as cursor:  # noqa: S608
            contents = cursor.rowcount
        await connection.executemany(
            "UPDATE runs SET committed = 0, finished_ns = coalesce(finished_ns, started_ns) WHERE run = ?",
            [(run,) for run in broken],
        )
        await connection.execute("DELETE FROM damaged_objects")
    return Marked(files=files, others=marked - files, contents=contents)


async def saved_again(
    catalog: Catalog, contents: Sequence[tuple[str, bytes, bytes]]
) -> list[tuple[str, bytes, bytes]]:
    """Those of ``contents`` ((``RUN/KEY`` of a damaged object, path, digest)) that lie elsewhere by now,
    unchanged, under the same path."""
    async with catalog._lock.transaction() as connection:
        await connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS doubted (place TEXT, folder BLOB, name BLOB, sha256 BLOB)"
        )
        await connection.execute("DELETE FROM doubted")
        await connection.executemany(
            "INSERT INTO doubted VALUES (?, ?, ?, ?)",
            [(place, *split_path(path), digest) for place, path, digest in contents],
        )
    with translated(catalog.path):
        rows = await catalog._connection.execute_fetchall(
            "SELECT d.place, d.folder, d.name, d.sha256 FROM doubted d CROSS JOIN entries e "
            "ON e.folder = d.folder AND e.name = d.name WHERE e.sha256 = d.sha256 AND e.pending != ? "
            "AND e.ctime_ns != ? AND e.extent_run || '/' || e.extent_key != d.place",
            (int(Pending.DELETED), SAVE_AGAIN_NS),
        )
    return [(str(place), join_path(folder, name), bytes(digest)) for place, folder, name, digest in rows]
