"""Work that is not left behind: whoever is cancelled waits until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from asyncbackup.flow.workers import ThreadGate

P = ParamSpec("P")
R = TypeVar("R")


async def hop(gate: ThreadGate, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of ``call``, run in a thread.

    When the caller is cancelled, this returns (with the cancellation) only
    after the thread is done, so that whoever cleans up may close descriptors
    and remove files that the thread was using.
    """
    return await to_its_end(gate.run(call, *args, **kwargs))


async def to_its_end(work: Coroutine[Any, Any, R]) -> R:
    """The result of ``work``. When the caller is cancelled, this returns (with the cancellation) only after
    it is done."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue  # a second cancellation; the first one is raised below
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as lost
        raise
    finally:
        del task  # it holds what is raised, which holds this frame and all above that it passes through
