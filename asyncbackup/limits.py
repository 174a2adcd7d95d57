"""What limited a run: the stages are looked at twenty times a second, and each look names one thing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, NoReturn, Protocol

if TYPE_CHECKING:
    from asyncbackup.flow.budget import ByteBudget
    from asyncbackup.flow.channel import Receiver
    from asyncbackup.model import Change, RunCounters

SAMPLE_SECONDS = 0.05
BUSY_SHARE = 0.85
"""Of one core: above it the interpreter itself is what everything waits for."""

WALK = "walk"
READ = "read"
CPU = "cpu"
LATENCY = "request latency"
THROTTLING = "throttling"
BUDGET = "memory budget"


class PayloadQueue(Protocol):
    """What is looked at of a transfer."""

    @property
    def payloads_waiting(self) -> int: ...


class LimitSampler:
    """Samples one run. ``shares`` gives each cause's part of the samples, which add up to 1."""

    def __init__(self, budget: ByteBudget, counters: RunCounters) -> None:
        self._budget = budget
        self._counters = counters
        self._changes: Receiver[list[Change]] | None = None
        self._transfer: PayloadQueue | None = None
        self._seen: Counter[str] = Counter()

    def watch(self, changes: Receiver[list[Change]], transfer: PayloadQueue) -> None:
        """Look at these from now on."""
        self._changes = changes
        self._transfer = transfer

    async def run(self) -> NoReturn:
        """Sample until cancelled."""
        cpu, wall, retries = time.process_time(), time.monotonic(), self._counters.retries
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            now_cpu, now_wall, now_retries = time.process_time(), time.monotonic(), self._counters.retries
            busy = (now_cpu - cpu) / max(now_wall - wall, 1e-6)
            self._seen[self._cause(busy=busy, throttled=now_retries > retries)] += 1
            cpu, wall, retries = now_cpu, now_wall, now_retries

    def _cause(self, *, busy: float, throttled: bool) -> str:
        if throttled:
            return THROTTLING
        if busy >= BUSY_SHARE:
            return CPU
        if self._transfer is not None and self._transfer.payloads_waiting:
            return LATENCY  # bodies wait for a request slot
        if self._budget.waiting:
            return BUDGET
        changes_waiting = self._changes is not None and len(self._changes) > 0
        if self._budget.in_use_bytes and not changes_waiting:
            return LATENCY  # the last requests are under way
        return READ if changes_waiting else WALK

    @property
    def shares(self) -> dict[str, float]:
        total = sum(self._seen.values())
        return {cause: round(count / total, 3) for cause, count in self._seen.most_common()}

    @property
    def limited_by(self) -> str:
        """The most frequent cause; ``walk`` for a run that was over before the first look."""
        return self._seen.most_common(1)[0][0] if self._seen else WALK
