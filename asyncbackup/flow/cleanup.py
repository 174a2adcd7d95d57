"""Cleanup of remote resources that must run although the task is being cancelled."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable

log = logging.getLogger(__name__)

CLEANUP_TIMEOUT_SECONDS = 30.0
GIVING_UP_SECONDS = 1.0
"""What a cleanup that took too long and was cancelled gets to end in."""


async def run_shielded(cleanup: Awaitable[None], *, what: str) -> None:
    """Run ``cleanup`` to its end, at most 30 s, whatever cancels the caller meanwhile.

    A cancellation that comes meanwhile is raised once the cleanup has ended.
    The cleanup's own failure is logged, never raised: the error that made it
    necessary is the one to report.
    """
    task = asyncio.ensure_future(cleanup)
    cancelled = await _wait_through(task, CLEANUP_TIMEOUT_SECONDS)
    if not task.done():
        log.warning("%s did not finish within %d s", what, CLEANUP_TIMEOUT_SECONDS)
        task.cancel()
        cancelled = await _wait_through(task, GIVING_UP_SECONDS) or cancelled
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s failed: %s", what, error)
    if cancelled is not None:
        raise cancelled


async def _wait_through(task: asyncio.Future[None], seconds: float) -> asyncio.CancelledError | None:
    """Wait until the task is done or the time is up; returns the cancellation that came meanwhile, if any."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    cancelled = None
    while not task.done() and (remaining := deadline - loop.time()) > 0:
        try:
            await asyncio.wait({task}, timeout=remaining)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
