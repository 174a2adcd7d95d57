"""A model of an endpoint for the concurrency controller: events in their order, no waiting, no tasks."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncbackup.store.adaptive import Adjustment, ConcurrencyController

BASE_SECONDS = 0.2


class EndpointModel:
    """Answers after 200 ms while at most ``knee`` requests are under way, and proportionally later beyond:
    more than ``knee`` of them only wait for each other.

    ``spread`` is the deviation of single latencies, relative. ``offered`` bounds what the run has to send
    at once. ``storm`` is a stretch of time in which everything is refused, ``refuse_above`` a window
    beyond which requests are.
    """

    def __init__(
        self, controller: ConcurrencyController, *, knee: float, spread: float = 0.0, seed: int = 1
    ) -> None:
        self.controller = controller
        self.knee = knee
        self.spread = spread
        self.offered = 10_000
        self.storm = (0.0, 0.0)
        self.refuse_above = 10_000
        self.now = 0.0
        self.changes: list[tuple[float, Adjustment]] = []
        self.windows: list[tuple[float, int]] = []
        self._source = random.Random(seed)
        self._under_way: list[tuple[float, int, float, bool]] = []
        self._sent = 0

    def run(self, until: float) -> None:
        """Let time pass."""
        while self.now < until:
            self._send()
            self.now, _, began, refused = heapq.heappop(self._under_way)
            full = len(self._under_way) + 1 >= self.controller.window
            if refused or self.storm[0] <= self.now < self.storm[1]:
                change = self.controller.troubled(now=self.now, began=began, reason="SlowDown")
            else:
                change = self.controller.answered(now=self.now, began=began, size=10_000, full=full)
            if change is not None:
                self.changes.append((self.now, change))
            self.windows.append((self.now, self.controller.window))

    def between(self, start: float, end: float) -> list[int]:
        """The windows in force at the answers of that time."""
        return [window for at, window in self.windows if start <= at < end]

    def _send(self) -> None:
        while len(self._under_way) < min(self.controller.window, self.offered):
            self._sent += 1
            load = max(1.0, (len(self._under_way) + 1) / self.knee)
            latency = BASE_SECONDS * load * (1 + self.spread * (self._source.expovariate(1.0) - 1))
            refused = len(self._under_way) >= self.refuse_above
            heapq.heappush(self._under_way, (self.now + latency, self._sent, self.now, refused))
