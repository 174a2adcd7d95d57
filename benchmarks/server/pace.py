"""Slowness on purpose: how long an answer waits, and how fast bytes pass."""

from __future__ import annotations

import random

TURN_BYTES = 65_536
"""What is sent at once where bandwidth is limited."""


class Latency:
    """The time from a request's last byte to its answer's first: ``seconds``, give or take ``jitter``."""

    def __init__(self, seconds: float, jitter: float, *, seed: int) -> None:
        self._seconds = seconds
        self._jitter = jitter
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret

    def draw(self) -> float:
        if not self._jitter:
            return self._seconds
        return max(0.0, self._seconds + self._random.uniform(-self._jitter, self._jitter))


class Pace:
    """A line of so many bytes a second, in each direction one. ``0`` is no limit."""

    __slots__ = ("_free_at", "_rate")

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0

    @property
    def limited(self) -> bool:
        return self._rate > 0

    def take(self, size: int, now: float) -> float:
        """Send ``size`` bytes; returns in how many seconds the line is free again."""
        if not self._rate:
            return 0.0
        self._free_at = max(self._free_at, now) + size / self._rate
        return self._free_at - now
