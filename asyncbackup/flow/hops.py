"""Thread hops that own what their thread works on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

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
    task = asyncio.ensure_future(gate.run(call, *args, **kwargs))
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
