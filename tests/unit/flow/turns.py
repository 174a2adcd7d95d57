"""Turns of the event loop, in tests that choose an interleaving instead of hoping for one."""

from __future__ import annotations

import asyncio

SETTLED_TURNS = 20
"""More turns than any chain of wake-ups is long among the few tasks of a test."""


async def settle(*, turns: int = SETTLED_TURNS) -> None:
    """Let every task run until it waits for something that no other task will bring about."""
    for _ in range(turns):
        await asyncio.sleep(0)
