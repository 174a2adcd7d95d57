"""Cleanup of remote resources that must run although the task is being cancelled."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable

log = logging.getLogger(__name__)

CLEANUP_TIMEOUT_SECONDS = 30.0


async def run_shielded(cleanup: Awaitable[None], *, what: str) -> None:
    """Run ``cleanup`` to its end, at most 30 s, whatever cancels the caller meanwhile.

    Its failure is logged, never raised: the error that made the cleanup
    necessary is the one to report.
    """
    task = asyncio.ensure_future(cleanup)
    deadline = asyncio.get_running_loop().time() + CLEANUP_TIMEOUT_SECONDS
    while not task.done():
        remaining = deadline - asyncio.get_running_loop().time()
        if remaining <= 0:
            task.cancel()
            log.warning("%s did not finish within %d s", what, CLEANUP_TIMEOUT_SECONDS)
            break
        try:
            await asyncio.wait({task}, timeout=remaining)
        except asyncio.CancelledError:
            # A second cancellation while cleaning up: the caller raises anyway when we return.
            continue
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s failed: %s", what, error)
