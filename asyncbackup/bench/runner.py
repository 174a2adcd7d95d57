"""Measures a destination cell by cell, and removes what it wrote, however it ends."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.bench.measurement import LIST, MULTIPART, Measurement, Round, summarise
from asyncbackup.bench.schedule import BenchSettings, Cell, schedule
from asyncbackup.bench.work import Bodies, ObjectWork, PartWork
from asyncbackup.errors import AccessDeniedError, StoreError
from asyncbackup.flow.cleanup import run_shielded
from asyncbackup.flow.groups import single_error
from asyncbackup.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.bench.work import Task
    from asyncbackup.config import S3Settings
    from asyncbackup.store.base import Store
    from asyncbackup.traces import Traces

THROTTLED = re.compile(r"SlowDown|Throttling|TooManyRequests|ServiceUnavailable")
LIST_ROUNDS = 2
"""Listings of one concurrency: each of them is of many objects."""
SHORTEST_SECONDS = 0.2


class BenchCounters:
    """Live figures; a display polls them."""

    __slots__ = ("bytes", "cells", "cells_total", "doing", "errors", "retries")

    def __init__(self) -> None:
        self.bytes = 0
        self.cells = 0
        self.cells_total = 0
        self.doing = ""
        self.errors = 0
        self.retries = 0


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. ``left_out`` names what ``max_bytes`` had no room for, ``out_of_time`` what was
    not begun within ``max_seconds``."""

    destination: str
    settings: BenchSettings
    measurements: tuple[Measurement, ...]
    left_out: tuple[str, ...]
    out_of_time: tuple[str, ...]
    requests: dict[str, int]
    bytes: int
    elapsed_seconds: float
    keeps_checksums: bool


async def run_bench(
    destination: str,
    *,
    s3: S3Settings,
    settings: BenchSettings,
    traces: Traces,
    counters: BenchCounters | None = None,
    on_measurement: Callable[[Measurement], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> BenchResult:
    """Measure the destination within the limits of ``settings``.

    What could not be removed afterwards is in ``traces``, also when this raises: ``StoreError`` where
    nothing at all succeeds, ``AccessDeniedError``, ``ConfigError``. Cancelled, it removes what it wrote
    before it ends.
    """
    bench = _Bench(destination, s3, settings, traces, counters or BenchCounters(), clock)
    return await bench.run(on_measurement or (lambda _: None))


class _Bench:
    def __init__(
        self,
        destination: str,
        s3: S3Settings,
        settings: BenchSettings,
        traces: Traces,
        counters: BenchCounters,
        clock: Callable[[], float],
    ) -> None:
        self._destination = destination
        self._s3 = s3
        self._settings = settings
        self._traces = traces
        self._counters = counters
        self._clock = clock
        self._bodies = Bodies(max((*settings.sizes, *settings.part_sizes), default=0))
        self._began = clock()
        self._retries = 0
        self._throttled = 0

    async def run(self, on_measurement: Callable[[Measurement], None]) -> BenchResult:
        plan = schedule(self._settings)
        self._counters.cells_total = len(plan.cells)
        measured: list[Measurement] = []
        left_out = [cell.name for cell in plan.left_out]
        out_of_time: list[str] = []
        requests: Counter[str] = Counter()
        keeps_checksums = False
        for concurrency in dict.fromkeys(cell.concurrency for cell in plan.cells):
            cells = [cell for cell in plan.cells if cell.concurrency == concurrency]
            async with open_store(
                self._destination, s3=self._s3, concurrency=concurrency, on_retry=self._on_retry
            ) as store:
                try:
                    await self._warm_up(store, concurrency)
                    for cell in cells:
                        if measured and self._seconds_left <= 0:
                            out_of_time.append(cell.name)
                            continue
                        for measurement in await self._measure(store, cell):
                            measured.append(measurement)
                            on_measurement(measurement)
                finally:
                    await run_shielded(self._traces.remove(store), what="removing what was written")
                    requests.update(store.requests)
                    keeps_checksums = store.capabilities.keeps_checksums
        return BenchResult(
            destination=self._destination,
            settings=self._settings,
            measurements=tuple(measured),
            left_out=tuple(left_out),
            out_of_time=tuple(out_of_time),
            requests=dict(requests),
            bytes=self._counters.bytes,
            elapsed_seconds=self._clock() - self._began,
            keeps_checksums=keeps_checksums,
        )

    @property
    def _seconds_left(self) -> float:
        return self._settings.max_seconds - (self._clock() - self._began)

    async def _warm_up(self, store: Store, concurrency: int) -> None:
        """Open the connections: the first request of each costs several times a later one."""
        self._counters.doing = "warming up"
        work = ObjectWork(store, self._bodies, self._traces, f"warm-up-{concurrency}", size=0)
        await self._round(work.task("PUT"), count=concurrency, concurrency=concurrency, seconds=float("inf"))
        await self._traces.delete(store, work.keys)

    async def _measure(self, store: Store, cell: Cell) -> list[Measurement]:
        self._counters.doing = cell.name
        # A fair share of what is left, so that a slow endpoint is measured at every concurrency.
        share = max(0.0, self._seconds_left) / max(1, self._counters.cells_total - self._counters.cells)
        seconds = max(SHORTEST_SECONDS, share / cell.repeats / len(cell.operations))
        found = (
            await self._measure_parts(store, cell, seconds)
            if cell.operations == (MULTIPART,)
            else await self._measure_objects(store, cell, seconds)
        )
        self._counters.cells += 1
        return found

    async def _measure_objects(self, store: Store, cell: Cell, seconds: float) -> list[Measurement]:
        folder = f"{cell.size}-{cell.concurrency}"
        work = ObjectWork(store, self._bodies, self._traces, folder, size=cell.size)
        found: list[Measurement] = []
        for operation in cell.operations:
            count = LIST_ROUNDS * cell.concurrency if operation == LIST else cell.count
            rounds = [
                await self._round(
                    work.task(operation), count=count, concurrency=cell.concurrency, seconds=seconds
                )
                for _ in range(cell.repeats)
            ]
            size = cell.size if rounds[0].bytes else 0
            found.append(summarise(operation, size, cell.concurrency, rounds))
        await self._traces.delete(store, work.keys)
        return found

    async def _measure_parts(self, store: Store, cell: Cell, seconds: float) -> list[Measurement]:
        rounds: list[Round] = []
        for repeat in range(cell.repeats):
            name = f"parts-{cell.size}-{cell.concurrency}/{repeat}"
            work = PartWork(store, self._bodies, self._traces, name, part_size=cell.size)
            began = self._clock()
            await work.begin()
            sent = await self._round(
                work.send, count=cell.count, concurrency=cell.concurrency, seconds=seconds
            )
            await work.complete()
            # Begin and end are part of what a large file costs.
            rounds.append(msgspec.structs.replace(sent, seconds=self._clock() - began))
            await self._traces.delete(store, [self._traces.prefix + name])
        return [summarise(MULTIPART, cell.size, cell.concurrency, rounds)]

    async def _round(self, task: Task, *, count: int, concurrency: int, seconds: float) -> Round:
        """Do ``count`` operations, ``concurrency`` at once; after ``seconds`` none is begun any more.

        Raises the first error if none succeeded, and at once one that all others would meet too.
        """
        latencies: list[float] = []
        errors: Counter[str] = Counter()
        failures: list[StoreError] = []
        moved = 0
        numbers = iter(range(count))
        retries, throttled = self._retries, self._throttled
        began = self._clock()

        async def worker() -> None:
            nonlocal moved
            for number in numbers:
                started = self._clock()
                if latencies and started - began > seconds:
                    return
                try:
                    size = await task(number)
                except AccessDeniedError:
                    raise
                except StoreError as error:
                    errors[error.code or type(error).__name__] += 1
                    failures.append(error)
                    self._counters.errors += 1
                    continue
                latencies.append(self._clock() - started)
                moved += size
                self._counters.bytes += size

        with single_error():
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, count)):
                    group.create_task(worker())
        if failures and not latencies:
            raise failures[0]
        return Round(
            seconds=self._clock() - began,
            bytes=moved,
            latencies=latencies,
            errors=errors,
            retries=self._retries - retries,
            throttled=self._throttled - throttled,
        )

    def _on_retry(self, reason: str) -> None:
        self._retries += 1
        self._throttled += THROTTLED.search(reason) is not None
        self._counters.retries += 1
