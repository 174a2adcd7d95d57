"""A clock for tests: time passes when everybody waits, at once and in order."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_SETTLE_TURNS = 40
"""Turns of the event loop after which every task that can run has run."""


class VirtualClock:
    """A :class:`~asyncbackup.store.retry.Clock` whose sleepers wake in order, without waiting."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self.slept: list[float] = []

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass for those who only look at the clock."""
        self._now += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        wake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._numbers), wake))
        await wake

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, with time passing whenever all of its tasks sleep."""
        task = asyncio.ensure_future(work)
        try:
            while True:
                for _ in range(_SETTLE_TURNS):
                    await asyncio.sleep(0)
                if task.done():
                    return await task
                assert self._sleepers, "everybody waits, and nobody for the clock"
                when, _, wake = heapq.heappop(self._sleepers)
                self._now = max(self._now, when)
                if not wake.done():
                    wake.set_result(None)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
