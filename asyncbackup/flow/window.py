"""Places whose number may change while they are in use."""

from __future__ import annotations

import asyncio
from collections import deque


class Window:
    """At most ``size`` holders at once, first come, first served.

    A window that shrinks takes no place away: those beyond it are not given out again.
    ``in_use`` and ``peak`` count the holders now and at the most. Not thread-safe; belongs to one
    event loop.
    """

    __slots__ = ("_waiters", "in_use", "peak", "size")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window has at least one place, not {size}")
        self.size = size
        self.in_use = 0
        self.peak = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Whether there was a place, which is the caller's now, as if :meth:`acquire` had given it."""
        if self._waiters or self.in_use >= self.size:
            return False
        self._take()
        return True

    async def acquire(self) -> None:
        """Wait for a place. Whoever got it calls :meth:`release` exactly once. Cancelling it takes none."""
        if self.take():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # The place came in the moment of being cancelled.
            elif turn in self._waiters:
                self._waiters.remove(turn)
            raise

    def release(self) -> None:
        """Give a place back."""
        self.in_use -= 1
        self._hand_out()

    def resize(self, size: int) -> None:
        """Let there be ``size`` places, at least one."""
        self.size = max(1, size)
        self._hand_out()

    def _take(self) -> None:
        self.in_use += 1
        if self.in_use > self.peak:
            self.peak = self.in_use

    def _hand_out(self) -> None:
        while self._waiters and self.in_use < self.size:
            turn = self._waiters.popleft()
            if not turn.done():
                self._take()
                turn.set_result(None)
