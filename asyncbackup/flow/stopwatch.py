"""How long something was the case: what an account of a run's waiting is made of."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class Stopwatch:
    """Adds up the stretches of time between :meth:`start` and :meth:`stop`. Both are idempotent."""

    __slots__ = ("_clock", "_since", "_total")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._total = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """All stretches so far, with the one that has not ended yet."""
        return self._total if self._since is None else self._total + self._clock() - self._since

    @property
    def running(self) -> bool:
        return self._since is not None

    def start(self) -> None:
        if self._since is None:
            self._since = self._clock()

    def stop(self) -> None:
        if self._since is not None:
            self._total += self._clock() - self._since
            self._since = None

    def set(self, running: bool) -> None:
        """Start or stop, as the condition that is timed says."""
        if running:
            self.start()
        else:
            self.stop()
