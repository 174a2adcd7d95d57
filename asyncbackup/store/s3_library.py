"""The S3 library, loaded when something needs it: a quarter of a second, which many runs can do without."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

    from asyncbackup.config import S3Settings
    from asyncbackup.store.endpoint_clock import EndpointClock
    from asyncbackup.store.s3_credentials import Credentials
    from asyncbackup.store.s3_session import Network


class Opened(NamedTuple):
    """The library's client, what it signs with, and its way to the endpoint."""

    client: S3Client
    credentials: Credentials
    network: Network


class S3Library:
    """At most one client, with ``concurrency`` connections, that signs by ``clock``."""

    def __init__(self, settings: S3Settings, *, concurrency: int, clock: EndpointClock) -> None:
        self._settings = settings
        self._concurrency = concurrency
        self._clock = clock
        self._resources = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened: Opened | None = None

    async def open(self) -> Opened:
        """The client, made by the first call.

        Raises as :func:`~asyncbackup.store.s3_session.open_client` does.
        """
        if self._opened is None:
            async with self._opening:
                if self._opened is None:
                    self._opened = await self._open()
        return self._opened

    async def aclose(self) -> None:
        """Close the client, if there is one. Idempotent."""
        await self._resources.aclose()

    async def _open(self) -> Opened:
        from asyncbackup.store.s3_session import open_client

        opening = open_client(self._settings, concurrency=self._concurrency, clock=self._clock)
        return Opened(*await self._resources.enter_async_context(opening))
