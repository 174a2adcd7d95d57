"""The connections to one endpoint: as many as there are requests, kept a while for the next ones."""

from __future__ import annotations

import asyncio
import ssl
import time

import msgspec

from asyncbackup.store.lean.connection import Connection
from asyncbackup.store.lean.errors import NoConnectionError, TlsFailedError

IDLE_SECONDS = 12.0
"""An unused connection is closed after this: before most endpoints close it, which a request would meet."""


class Origin(msgspec.Struct, frozen=True):
    """Where connections lead. ``tls`` is ``None`` for plain HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Pool:
    """Connections to one origin. The caller bounds how many it takes at once; belongs to one event loop.

    What was taken is handed back with :meth:`give`, in whatever state it is.
    """

    def __init__(self, origin: Origin, *, connect_seconds: float, idle_seconds: float = IDLE_SECONDS) -> None:
        self.origin = origin
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open_count(self) -> int:
        """Connections that are in use or wait for a request."""
        return len(self._open)

    async def take(self) -> Connection:
        """A connection to send one request on: the one that was used last, or a new one.

        Raises ``NoConnectionError`` and ``TlsFailedError``.
        """
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        connection = await self._connect()
        if self._closed:
            connection.abort()
            raise NoConnectionError("the store was closed")
        return connection

    def give(self, connection: Connection) -> None:
        """Keep the connection for the next request if another one may follow on it, else drop it."""
        if self._closed or not connection.reusable:
            connection.abort()
            return
        connection.rest()
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep_in(self._idle_seconds)

    def retire(self) -> None:
        """Drop the connections that wait for a request, and each of the others when it is handed back."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def aclose(self) -> None:
        """Drop all connections, those in use too, and wait until the event loop has let go of them."""
        self.retire()
        connections = list(self._open)
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.wait_lost()

    async def _connect(self) -> Connection:
        origin = self.origin
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: Connection(on_lost=self._open.discard),
                    origin.host,
                    origin.port,
                    ssl=origin.tls,
                    server_hostname=origin.host if origin.tls is not None else None,
                )
        except TimeoutError as error:
            raise NoConnectionError(f"not connected within {self._connect_seconds:.0f} s") from error
        except ssl.SSLError as error:
            raise TlsFailedError(str(error)) from error
        except OSError as error:
            raise NoConnectionError(str(error)) from error
        if not connection.closed:
            self._open.add(connection)
        return connection

    def _sweep_in(self, seconds: float) -> None:
        self._sweep = asyncio.get_running_loop().call_later(seconds, self._drop_old)

    def _drop_old(self) -> None:
        self._sweep = None
        oldest = time.monotonic() - self._idle_seconds
        # Used last stands last.
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.pop(0).abort()
        if self._idle:
            self._sweep_in(max(0.01, self._idle[0].idle_since - oldest))
