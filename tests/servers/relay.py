"""A relay in front of a real server that passes bytes on as they come, and does something after so many.

Unlike the fault proxy it understands nothing of HTTP: what it does happens in the midst of a body, with the
rest of it still on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK = 64 * 1024


class Relay:
    """``connections`` counts those that clients made. Leaving fails if what was planned did not happen."""

    def __init__(self, upstream_url: str) -> None:
        parts = urlsplit(upstream_url)
        self._upstream = (parts.hostname, parts.port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._plan: tuple[int, Callable[[], None]] | None = None
        self.url = ""
        self.connections = 0

    def after(self, count: int, act: Callable[[], None]) -> None:
        """Call ``act`` once, as soon as one connection has carried ``count`` bytes in one direction."""
        self._plan = (count, act)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert error is not None or self._plan is None, "what was planned did not happen"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection(*self._upstream)
            there = asyncio.ensure_future(self._carry(reader, upstream))
            back = asyncio.ensure_future(self._carry(answers, writer))
            try:
                # Whichever side ends first, the connection is over.
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in (there, back):
                    way.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # A side went away, or the test is over.
        finally:
            self._tasks.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()
                    with suppress(OSError):
                        await end.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried = 0
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
                carried += len(data)
                if self._plan is not None and carried >= self._plan[0]:
                    (_, act), self._plan = self._plan, None
                    act()
