"""The request to stop."""

from __future__ import annotations

import asyncio

from asyncbackup.flow.stop import StopRequest
from tests.unit.flow.turns import settle


async def test_it_wakes_all_who_wait_and_stays() -> None:
    stop = StopRequest()
    assert not stop.requested
    waiting = [asyncio.create_task(stop.wait()) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in waiting)
    stop.request()
    stop.request()
    await asyncio.gather(*waiting)
    await stop.wait()
    assert bool(stop.requested) is True
