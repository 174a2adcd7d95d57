"""The byte budget: what bounds file bytes in memory, whatever the concurrency and the files' sizes.

Bytes are taken *before* they are read and given back when their upload was
receipted or given up. Waiting is first come, first served, so a large part is
never starved by small files.
"""

from __future__ import annotations

import asyncio
from collections import deque

from asyncbackup.flow.stopwatch import Stopwatch


class ByteBudget:
    """At most ``limit_bytes`` handed out at once. ``peak_bytes`` is the most that ever was; ``short`` runs
    while somebody waits for bytes."""

    __slots__ = ("_waiters", "in_use_bytes", "limit_bytes", "peak_bytes", "short")

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 1:
            raise ValueError(f"a byte budget of {limit_bytes} bytes can never grant anything")
        self.limit_bytes = limit_bytes
        self.in_use_bytes = 0
        self.peak_bytes = 0
        self.short = Stopwatch()
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for bytes right now."""
        return bool(self._waiters)

    def has_room(self, size_bytes: int) -> bool:
        """Whether so many bytes could be taken without waiting."""
        return not self._waiters and self.in_use_bytes + size_bytes <= self.limit_bytes

    async def acquire(self, size_bytes: int) -> int:
        """Take bytes, waiting behind all who asked earlier. Returns ``size_bytes``, to be released.

        Zero bytes wait as well. Cancelling it takes nothing. Raises ``ValueError`` for more than
        the whole budget, which could never be granted.
        """
        if not 0 <= size_bytes <= self.limit_bytes:
            raise ValueError(f"{size_bytes} bytes asked of a budget of {self.limit_bytes}")
        if self.has_room(size_bytes):
            self._take(size_bytes)
            return size_bytes
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((size_bytes, granted))
        self.short.start()
        try:
            await granted
        except BaseException:
            if granted.done() and not granted.cancelled():
                self.release(size_bytes)  # granted and cancelled in the same turn of the loop
            else:
                granted.cancel()
                self._grant()  # those behind may fit now
            raise
        return size_bytes

    def release(self, size_bytes: int) -> None:
        """Give bytes back. Raises ``ValueError`` when more comes back than was taken."""
        if not 0 <= size_bytes <= self.in_use_bytes:
            raise ValueError(f"{size_bytes} bytes released, {self.in_use_bytes} in use")
        self.in_use_bytes -= size_bytes
        self._grant()

    def _take(self, size_bytes: int) -> None:
        self.in_use_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.in_use_bytes)

    def _grant(self) -> None:
        while self._waiters:
            size_bytes, granted = self._waiters[0]
            if granted.done():
                self._waiters.popleft()
                continue
            if self.in_use_bytes + size_bytes > self.limit_bytes:
                return
            self._waiters.popleft()
            self._take(size_bytes)
            granted.set_result(None)
        self.short.stop()
