"""The digests of the parts of large plain objects, so that a changed file sends only the parts that differ.

Rows belong to objects, which are written once: what a row says stays true as
long as the object exists. Committing a snapshot removes the rows of objects
that no entry of the tree refers to any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.catalog.database import translated
from asyncbackup.resume import PartHashes

if TYPE_CHECKING:
    from pathlib import Path

    import aiosqlite

FORGET_UNUSED = (
    "DELETE FROM part_hashes WHERE NOT EXISTS (SELECT 1 FROM entries WHERE extent_part_size > 0 "
    "AND extent_run = part_hashes.run AND extent_key = part_hashes.key)"
)
"""What a commit does: the condition is that of the index ``entries_parts``."""


async def insert_part_hashes(connection: aiosqlite.Connection, parts: PartHashes) -> None:
    """Remember the parts of an object that was made, inside the caller's transaction."""
    await connection.execute(
        "INSERT OR REPLACE INTO part_hashes (run, key, part_size, hashes) VALUES (?, ?, ?, ?)",
        (parts.run, parts.key, parts.part_size, parts.hashes),
    )


async def find_part_hashes(
    connection: aiosqlite.Connection, path: Path, run: str, key: str
) -> PartHashes | None:
    """What is remembered of the parts of an object. ``path`` is the database's, for errors."""
    with translated(path):
        rows = list(
            await connection.execute_fetchall(
                "SELECT part_size, hashes FROM part_hashes WHERE run = ? AND key = ?", (run, key)
            )
        )
    if not rows:
        return None
    part_size, hashes = rows[0]
    return PartHashes(run=run, key=key, part_size=part_size, hashes=hashes)
