"""The wish to stop: asked once by a signal handler, looked at by whoever begins new work."""

from __future__ import annotations

import asyncio


class StopRequest:
    """Set once and never unset. What is under way is finished, nothing new is begun."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        """Ask to stop. Call it on the loop (``loop.add_signal_handler`` does)."""
        self._event.set()

    async def wait(self) -> None:
        """Return once a stop was requested."""
        await self._event.wait()
