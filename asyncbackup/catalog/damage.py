"""Who needs what is damaged: the paths and the snapshots that damaged objects carry.

A snapshot may be a chain of manifests. Every manifest is read once, in the
order of their runs; ``lost`` keeps its lines that lie in something damaged, and
``replaced`` its lines for paths that an older manifest lost. What a snapshot has
lost is then a question to those two tables, whatever the number of its entries.

The tables ``objects`` and ``members`` are those of ``catalog/expected.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.scratch import PAGE_ROWS, Scratch
from asyncbackup.model import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from asyncbackup.model import RunId

DAMAGE_TABLES = """
CREATE TABLE lines (
    path BLOB NOT NULL,
    key TEXT,
    is_file INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    compression TEXT NOT NULL,
    skip INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sha256 BLOB NOT NULL
);
CREATE TABLE lost (
    path BLOB,
    run TEXT,
    key TEXT NOT NULL,
    shown INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    PRIMARY KEY (path, run)
) WITHOUT ROWID;
CREATE TABLE replaced (path BLOB, run TEXT, PRIMARY KEY (path, run)) WITHOUT ROWID;
CREATE TABLE chain (run TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE damaged_paths (
    key TEXT, path BLOB, sha256 BLOB NOT NULL, saved INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (key, path)
) WITHOUT ROWID;
CREATE TABLE damaged_snapshots (key TEXT, snapshot TEXT, PRIMARY KEY (key, snapshot)) WITHOUT ROWID;
"""

_DAMAGED = 3
"""``State.DAMAGED`` of catalog/expected.py, which imports this."""

_NOTE_LOST = f"""
INSERT OR IGNORE INTO lost (path, run, key, shown, sha256)
SELECT l.path, ?, l.key, NOT o.pack OR (l.is_file AND l.size > 0), l.sha256
FROM lines l JOIN objects o ON o.key = l.key
WHERE o.state = {_DAMAGED} AND (o.whole OR EXISTS (
    SELECT 1 FROM members m WHERE m.key = l.key AND l.is_file AND m.bad
    AND (m.offset, m.length, m.compression, m.skip, m.size, m.sha256)
      = (l.offset, l.length, l.compression, l.skip, l.size, l.sha256)))
"""  # noqa: S608 - constants only

_HELD = """
FROM lost JOIN chain USING (run) WHERE NOT EXISTS (
    SELECT 1 FROM replaced r JOIN chain c ON c.run = r.run WHERE r.path = lost.path AND r.run > lost.run)
"""


class DamagedObject(msgspec.Struct, frozen=True, kw_only=True):
    """One damaged object with what it carries. ``files`` counts all paths, ``paths`` names the first ones."""

    key: str
    reason: str
    files: int
    paths: tuple[bytes, ...]
    snapshots: tuple[str, ...]


class DamageTable:
    """What damaged objects carry. Memory stays the same, whatever the number of entries and damages."""

    __slots__ = ("_scratch",)

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    async def note_lines(self, run: RunId, lines: Iterable[tuple[bytes, Entry | None]]) -> None:
        """Note what a manifest says of paths, ``None`` that they are deleted.

        Manifests have to come in the order of their runs.
        """
        await self._scratch.execute_many(
            "INSERT INTO lines (path, key, is_file, offset, length, compression, skip, size, sha256) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_line(path, entry) for path, entry in lines],
        )
        await self._scratch.execute(
            "INSERT OR IGNORE INTO replaced SELECT path, ? FROM lines "
            "WHERE path IN (SELECT path FROM lost WHERE run < ?)",
            (run, run),
        )
        await self._scratch.execute(_NOTE_LOST, (run,))
        await self._scratch.execute("DELETE FROM lines")

    async def note_snapshot(self, snapshot: RunId, chain: Sequence[RunId]) -> None:
        """Note what a snapshot has lost, whose manifests are those of the runs in ``chain``."""
        await self._scratch.execute("DELETE FROM chain")
        await self._scratch.execute_many("INSERT INTO chain VALUES (?)", [(run,) for run in chain])
        await self._scratch.execute(
            f"INSERT OR IGNORE INTO damaged_paths (key, path, sha256) "
            f"SELECT key, path, sha256 {_HELD} AND shown"
        )
        await self._scratch.execute(
            f"INSERT OR IGNORE INTO damaged_snapshots SELECT DISTINCT key, ? {_HELD}",
            (snapshot,),
        )

    async def keys(self) -> AsyncIterator[list[tuple[str, str]]]:
        """(run, key below it) of all damaged objects, in pages."""
        sql = f"SELECT key FROM objects WHERE state = {_DAMAGED} AND key > ? ORDER BY key LIMIT ?"  # noqa: S608
        async for rows in self._scratch.keyed_pages(sql, after=""):
            yield [cast("tuple[str, str]", tuple(str(row[0]).split("/", 1))) for row in rows]

    async def unsaved(self) -> AsyncIterator[list[tuple[str, bytes, bytes]]]:
        """(key, path, digest) of what damaged objects carry, in pages; :meth:`note_saved` may be called
        meanwhile."""
        after: tuple[str, bytes] = ("", b"")
        while rows := await self._scratch.all(
            "SELECT key, path, sha256 FROM damaged_paths WHERE (key, path) > (?, ?) AND NOT saved "
            "ORDER BY key, path LIMIT ?",
            (*after, PAGE_ROWS),
        ):
            page = cast("list[tuple[str, bytes, bytes]]", rows)
            yield page
            after = page[-1][:2]

    async def note_saved(self, contents: Iterable[tuple[str, bytes, bytes]]) -> None:
        """Note (key, path, digest) of what was saved anew; what was damaged at this key then lives on."""
        await self._scratch.execute_many(
            "UPDATE damaged_paths SET saved = 1 WHERE key = ? AND path = ? AND sha256 = ?", contents
        )

    async def count_lost(self) -> int:
        """How many paths (of objects, each in its own right) live on nowhere."""
        return await self._scratch.number("SELECT count(*) FROM damaged_paths WHERE NOT saved")

    async def objects(
        self, *, paths_each: int, only_lost: bool = False
    ) -> AsyncIterator[list[DamagedObject]]:
        """Every damaged object by key, with at most ``paths_each`` of the paths it carries, in pages.

        With ``only_lost`` those that carry what lives on nowhere, and the paths of that alone.
        """
        alive = "AND NOT saved" if only_lost else ""
        lost = "AND key IN (SELECT key FROM damaged_paths WHERE NOT saved)" if only_lost else ""
        sql = (
            f"SELECT key, reason FROM objects WHERE state = {_DAMAGED} {lost} "  # noqa: S608
            "AND key > ? ORDER BY key LIMIT ?"
        )
        async for rows in self._scratch.keyed_pages(sql, after="", page_rows=256):
            found = cast("list[tuple[str, str]]", rows)
            span = (found[0][0], found[-1][0])
            files = await self._scratch.all(
                f"SELECT key, count(*) FROM damaged_paths WHERE key BETWEEN ? AND ? {alive} "  # noqa: S608
                "GROUP BY key",
                span,
            )
            counts = dict(cast("list[tuple[str, int]]", files))
            paths: dict[str, list[bytes]] = {}
            for key, path in await self._first_paths(span, paths_each, alive):
                paths.setdefault(key, []).append(path)
            snapshots: dict[str, list[str]] = {}
            carriers = await self._scratch.all(
                "SELECT key, snapshot FROM damaged_snapshots "
                "WHERE key BETWEEN ? AND ? ORDER BY key, snapshot",
                span,
            )
            for key, snapshot in cast("list[tuple[str, str]]", carriers):
                snapshots.setdefault(key, []).append(snapshot)
            yield [
                DamagedObject(
                    key=key,
                    reason=reason,
                    files=counts.get(key, 0),
                    paths=tuple(paths.get(key, ())),
                    snapshots=tuple(snapshots.get(key, ())),
                )
                for key, reason in found
            ]

    async def _first_paths(
        self, span: tuple[str, str], paths_each: int, alive: str
    ) -> list[tuple[str, bytes]]:
        rows = await self._scratch.all(
            "SELECT key, path FROM (SELECT key, path, row_number() OVER (PARTITION BY key ORDER BY path) "  # noqa: S608
            f"AS number FROM damaged_paths WHERE key BETWEEN ? AND ? {alive}) WHERE number <= ?",
            (*span, paths_each),
        )
        return cast("list[tuple[str, bytes]]", rows)


def _line(path: bytes, entry: Entry | None) -> tuple[bytes, str | None, int, int, int, str, int, int, bytes]:
    if entry is None or entry.extent is None:
        return path, None, 0, 0, 0, "", 0, 0, b""
    extent = entry.extent
    return (
        path,
        f"{extent.run}/{extent.key}",
        int(entry.kind is Kind.FILE),
        extent.offset,
        extent.length,
        extent.compression,
        extent.skip,
        entry.size,
        entry.sha256,
    )
