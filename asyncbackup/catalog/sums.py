"""What snapshots that are differences add up to, without merging each of them.

Of the paths that some difference names, ``versions`` keeps what every manifest
says. A snapshot is then the sum of the full manifest it rests on, with the
newest version of those paths in place of that manifest's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.model import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncbackup.catalog.scratch import Scratch
    from asyncbackup.model import RunId

SUM_TABLES = """
CREATE TABLE named (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE versions (
    path BLOB, run TEXT, kind TEXT NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (path, run)
) WITHOUT ROWID;
CREATE TABLE rests (run TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE spoken (path BLOB NOT NULL, kind TEXT NOT NULL, size INTEGER NOT NULL);
"""

_GONE = ""
"""The kind of a version that says that the path is deleted."""

_SUMS = (
    f"coalesce(sum(kind = '{Kind.FILE}'), 0), coalesce(sum(kind = '{Kind.FOLDER}'), 0), "
    f"coalesce(sum(kind = '{Kind.SYMLINK}'), 0), coalesce(sum(size * (kind = '{Kind.FILE}')), 0)"
)


class Sums(msgspec.Struct, frozen=True):
    """What entries add up to; ``bytes`` are the files' sizes."""

    files: int
    folders: int
    symlinks: int
    bytes: int


class SumTable:
    """Memory stays the same, whatever the number of entries and differences."""

    __slots__ = ("_scratch",)

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    async def name(self, paths: Iterable[bytes]) -> None:
        """Note the paths that a difference names; of all of them, before the first :meth:`note`."""
        await self._scratch.execute_many(
            "INSERT OR IGNORE INTO named VALUES (?)", [(path,) for path in paths]
        )

    async def note(self, run: RunId, lines: Iterable[tuple[bytes, Entry | None]]) -> None:
        """Note what a manifest says of paths, ``None`` that they are deleted."""
        await self._scratch.execute_many(
            "INSERT INTO spoken VALUES (?, ?, ?)",
            [
                (path, _GONE, 0) if entry is None else (path, entry.kind.value, entry.size)
                for path, entry in lines
            ],
        )
        await self._scratch.execute(
            "INSERT OR IGNORE INTO versions SELECT path, ?, kind, size FROM spoken "
            "WHERE path IN (SELECT path FROM named)",
            (run,),
        )
        await self._scratch.execute("DELETE FROM spoken")

    async def of(self, chain: Sequence[RunId], full: Sums) -> Sums:
        """What the snapshot of a chain of runs, newest first, adds up to; ``full`` is what its last does."""
        await self._scratch.execute("DELETE FROM rests")
        await self._scratch.execute_many("INSERT INTO rests VALUES (?)", [(run,) for run in chain])
        # With max() SQLite takes the other columns from the row that has the maximum.
        newest = await self._scratch.all(
            f"SELECT {_SUMS} FROM (SELECT kind, size, max(run) FROM versions JOIN rests USING (run) "  # noqa: S608
            "GROUP BY path)"
        )
        replaced = await self._scratch.all(
            f"SELECT {_SUMS} FROM versions WHERE run = ?",  # noqa: S608
            (chain[-1],),
        )
        return Sums(
            *(
                whole + now - then
                for whole, now, then in zip(
                    cast("tuple[int, int, int, int]", msgspec.structs.astuple(full)),
                    cast("tuple[int, int, int, int]", newest[0]),
                    cast("tuple[int, int, int, int]", replaced[0]),
                    strict=True,
                )
            )
        )
