"""How many requests may be under way at once, and fewer while the endpoint fails."""

from __future__ import annotations

import asyncio
import enum
import random
from collections import deque
from collections.abc import Callable

from asyncbackup.store.retry import Clock, SystemClock

CREDIT = 8.0
"""Failures that are forgiven before requests are held back."""
CREDIT_PER_SUCCESS = 0.25
"""More than one failure to four successes, and requests are held back: at most about 1.3 a result."""
FIRST_SPACING_SECONDS = 0.5
LAST_SPACING_SECONDS = 5.0


class Outcome(enum.Enum):
    """What a request says about the endpoint's health."""

    ANSWERED = enum.auto()
    TROUBLE = enum.auto()
    UNKNOWN = enum.auto()
    """The caller went away before there was an answer."""


class RequestSlots:
    """At most ``limit`` requests at once, first come first served.

    Failures use up a credit that successes refill. Once it is gone the endpoint is taken to be
    in trouble: one request at a time goes out as a probe, spaced by up to 5 seconds, and every
    success lets one more through at once until ``limit`` is reached again. Requests that wait
    here use no attempt of their own, so however many wait, an outage costs few requests.

    Not thread-safe; belongs to one event loop.
    """

    def __init__(
        self, limit: int, *, clock: Clock | None = None, jitter: Callable[[], float] = random.random
    ) -> None:
        if limit < 1:
            raise ValueError(f"at least one request slot is needed, not {limit}")
        self.limit = limit
        self.window = limit
        self.in_use = 0
        self.peak = 0
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._credit = CREDIT
        self._spacing = 0.0
        self._not_before = 0.0

    async def acquire(self) -> None:
        """Wait for a slot. Whoever got it calls :meth:`release` exactly once."""
        if self._waiters or self.in_use >= self.window:
            await self._queue()
        else:
            self.in_use += 1
        self.peak = max(self.peak, self.in_use)
        try:
            while (wait := self._not_before - self._clock.now()) > 0:
                await self._clock.sleep(wait)
        except BaseException:
            self.release(Outcome.UNKNOWN)
            raise

    def release(self, outcome: Outcome) -> None:
        """Give the slot back and say how the request went."""
        self.in_use -= 1
        if outcome is Outcome.ANSWERED:
            self._credit = min(CREDIT, self._credit + CREDIT_PER_SUCCESS)
            self._spacing = 0.0
            self.window = min(self.limit, self.window + 1)
        elif outcome is Outcome.TROUBLE:
            self._note_trouble()
        self._hand_out()

    def pause(self, seconds: float) -> None:
        """Send nothing for ``seconds``: the endpoint asked for it."""
        self._not_before = max(self._not_before, self._clock.now() + seconds)

    def _note_trouble(self) -> None:
        self._credit = max(0.0, self._credit - 1.0)
        if self._credit:
            return
        self.window = 1
        now = self._clock.now()
        # Requests that failed together are one failed probe, not many.
        if now >= self._not_before:
            self._spacing = min(LAST_SPACING_SECONDS, max(FIRST_SPACING_SECONDS, self._spacing * 2))
            self._not_before = now + self._spacing * (1.0 + self._jitter()) / 2.0

    async def _queue(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(Outcome.UNKNOWN)  # The slot came in the moment of being cancelled.
            elif turn in self._waiters:
                self._waiters.remove(turn)
            raise

    def _hand_out(self) -> None:
        while self._waiters and self.in_use < self.window:
            turn = self._waiters.popleft()
            if not turn.done():
                self.in_use += 1
                turn.set_result(None)
