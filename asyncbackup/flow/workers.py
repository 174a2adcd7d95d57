"""A thread pool with a door: executors' own queues are unbounded, so nobody submits without a place."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


class ThreadGate:
    """At most ``limit`` calls in threads at once; further callers wait on the loop, first come first served.

    Cancelling ``run`` does not stop the thread: the place stays taken until
    the thread is done, so that cancelled work still counts against the limit.
    """

    __slots__ = ("_executor", "_places", "hops")

    def __init__(self, name: str, limit: int) -> None:
        self._executor = ThreadPoolExecutor(limit, thread_name_prefix=f"asyncbackup-{name}")
        self._places = asyncio.Semaphore(limit)
        self.hops = 0

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``call``, run in a thread. What it raises is raised here."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()

        def leave(_: Future[R]) -> None:
            # On the thread. The loop may be gone when the process ends in mid-call; then
            # nobody waits for the place either.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._places.release)

        try:
            future = self._executor.submit(call, *args, **kwargs)
        except BaseException:
            self._places.release()
            raise
        self.hops += 1
        future.add_done_callback(leave)
        try:
            return await asyncio.wrap_future(future)
        finally:
            # What is raised holds this frame, and the future what is raised: no circle of them shall keep
            # the buffers that the call worked on until somebody collects it.
            del future

    def close(self, *, wait: bool = True) -> None:
        """End the threads; with ``wait`` after the calls that are under way."""
        self._executor.shutdown(wait=wait, cancel_futures=True)
