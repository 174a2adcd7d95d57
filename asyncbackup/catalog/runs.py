"""The ``runs`` table: every run begun, and the snapshots among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.database import WriteLock, translated
from asyncbackup.model import RunId, RunSummary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import aiosqlite


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One run. ``summary`` is missing for snapshots that were read back from a destination.

    ``number`` counts snapshots from the one that later ones rest on, ``depth``
    is how many manifests its own rests on.
    """

    run: RunId
    started_ns: int
    finished_ns: int | None
    committed: bool
    number: int = 0
    depth: int = 0
    summary: RunSummary | None = None


INSERT_RUN = (
    "INSERT INTO runs (run, started_ns, finished_ns, committed, number, depth) VALUES (?, ?, ?, ?, ?, ?)"
)


def row_of_run(record: RunRecord) -> tuple[str | int | None, ...]:
    """What ``INSERT_RUN`` takes."""
    return (
        record.run,
        record.started_ns,
        record.finished_ns,
        int(record.committed),
        record.number,
        record.depth,
    )


class RunTable:
    """Runs in the order of their ids, which is the order of their starts."""

    __slots__ = ("_connection", "_lock", "_path")

    def __init__(self, connection: aiosqlite.Connection, lock: WriteLock, path: Path) -> None:
        self._connection = connection
        self._lock = lock
        self._path = path

    async def begin(self, run: RunId, *, started_ns: int) -> None:
        """Note a run before its first request."""
        async with self._lock.transaction() as connection:
            await connection.execute("INSERT INTO runs (run, started_ns) VALUES (?, ?)", (run, started_ns))

    async def discard(self, run: RunId) -> None:
        """Forget a run that was not begun after all: another machine has its id."""
        async with self._lock.transaction() as connection:
            await connection.execute("DELETE FROM runs WHERE run = ?", (run,))

    async def finish(
        self, run: RunId, *, finished_ns: int, committed: bool, summary: RunSummary | None
    ) -> None:
        """Note a run's clean end; ``committed`` means that its snapshot is at the destination."""
        encoded = None if summary is None else msgspec.json.encode(summary)
        async with self._lock.transaction() as connection:
            await connection.execute(
                "UPDATE runs SET finished_ns = ?, committed = ?, summary = ? WHERE run = ?",
                (finished_ns, int(committed), encoded, run),
            )

    async def replace_all(self, records: Sequence[RunRecord]) -> None:
        """Forget every run and take these instead (a rebuild ends so)."""
        async with self._lock.transaction() as connection:
            await connection.execute("DELETE FROM runs")
            await connection.executemany(INSERT_RUN, [row_of_run(record) for record in records])

    async def all(self) -> list[RunRecord]:
        """Every run, oldest first."""
        return await self._select("ORDER BY run")

    async def started(self) -> dict[str, int]:
        """When each run began, in ns since 1970."""
        with translated(self._path):
            rows = await self._connection.execute_fetchall("SELECT run, started_ns FROM runs")
        return {str(run): int(started_ns) for run, started_ns in rows}

    async def last(self) -> RunRecord | None:
        """The run begun last, however it ended."""
        records = await self._select("ORDER BY run DESC LIMIT 1")
        return records[0] if records else None

    async def _select(self, order: str) -> list[RunRecord]:
        with translated(self._path):
            rows = await self._connection.execute_fetchall(
                f"SELECT run, started_ns, finished_ns, committed, number, depth, summary FROM runs {order}"  # noqa: S608
            )
        return [
            RunRecord(
                run=RunId(run),
                started_ns=started_ns,
                finished_ns=finished_ns,
                committed=bool(committed),
                number=number,
                depth=depth,
                summary=None if summary is None else msgspec.json.decode(summary, type=RunSummary),
            )
            for run, started_ns, finished_ns, committed, number, depth, summary in rows
        ]

    async def last_snapshot(self) -> RunId | None:
        """The snapshot committed last."""
        with translated(self._path):
            rows = list(
                await self._connection.execute_fetchall("SELECT max(run) FROM runs WHERE committed = 1")
            )
        return RunId(rows[0][0]) if rows and rows[0][0] else None

    async def ended_unclean(self) -> bool:
        """Whether any earlier run never came to its end."""
        with translated(self._path):
            rows = await self._connection.execute_fetchall(
                "SELECT 1 FROM runs WHERE finished_ns IS NULL LIMIT 1"
            )
        return bool(list(rows))

    async def settle_unclean(self, *, finished_ns: int, before: RunId) -> None:
        """Note that what unfinished runs left behind was cleaned up."""
        async with self._lock.transaction() as connection:
            await connection.execute(
                "UPDATE runs SET finished_ns = ? WHERE finished_ns IS NULL AND run < ?", (finished_ns, before)
            )
