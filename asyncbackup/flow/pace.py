"""How many threads look at files at once: list, read or write them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from asyncbackup.flow.hops import hop
from asyncbackup.flow.window import Window

if TYPE_CHECKING:
    from asyncbackup.flow.workers import ThreadGate

P = ParamSpec("P")
R = TypeVar("R")

SLOW_SECONDS = 0.001
"""A disk that keeps a thread waiting this long for each file is worth another thread."""


class Pace:
    """One thread works alone, unless the disk keeps it waiting; then up to ``threads`` do.

    Listing, reading or writing a small file is a handful of short system calls. Each lets go of
    the interpreter's lock, and threads that do nothing else spend as much time on passing it
    around as on the files: of 30,000 files on a memory file system four threads read, or wrote,
    no more a second than one, for twice the processor time. Where a file takes ``slow_seconds``
    or more (a network file system) they wait side by side.
    """

    def __init__(self, gate: ThreadGate, threads: int, *, slow_seconds: float = SLOW_SECONDS) -> None:
        self._gate = gate
        self.threads = threads
        self._slow_seconds = slow_seconds
        self._window = Window(1)

    @property
    def at_once(self) -> int:
        """How many threads may work now."""
        return self._window.size

    async def run(
        self, files: int | Callable[[R], int], call: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The result of ``call``, in a thread once it may begin. ``files`` is how many it works on, or
        tells that of the result."""
        await self._window.acquire()
        try:
            result, waited_seconds = await hop(self._gate, timed, partial(call, *args, **kwargs))
        finally:
            self._window.release()
        self.learn(files if isinstance(files, int) else files(result), waited_seconds)
        return result

    async def compute(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As :meth:`run`, for what waits for no disk: nothing is learned from it."""
        await self._window.acquire()
        try:
            return await hop(self._gate, call, *args, **kwargs)
        finally:
            self._window.release()

    def learn(self, files: int, waited_seconds: float) -> None:
        """Note for how long a thread that worked on ``files`` files did not compute."""
        slow = waited_seconds >= files * self._slow_seconds
        self._window.resize(min(self.threads, self.at_once + 1) if slow else 1)


def timed(call: Callable[[], R]) -> tuple[R, float]:
    """The result, and the seconds that this thread spent waiting for it, which is what :meth:`Pace.learn`
    wants to know."""
    began, computed = time.perf_counter(), time.thread_time()
    result = call()
    return result, time.perf_counter() - began - (time.thread_time() - computed)
