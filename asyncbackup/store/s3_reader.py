"""Reading an object through connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from asyncbackup.errors import StoreError
from asyncbackup.store.base import ObjectInfo
from asyncbackup.store.retry import TransientError
from asyncbackup.store.slots import Outcome

if TYPE_CHECKING:
    from asyncbackup.store.deadline import Deadline
    from asyncbackup.store.s3_requests import S3Requests
    from asyncbackup.store.s3_transport import Download, Transport

FORGIVEN_BYTES = 8 * 1024 * 1024
"""After this many bytes without a break, earlier breaks no longer count."""
SLOWEST_BYTES_PER_SECOND = 1024
"""A body that comes more slowly, waiting counted and the caller's own time not, counts as broken."""


class S3Reader:
    """An open object, or a range of it. Iterate once, or :meth:`fill`; :meth:`close` in any case.

    Without ``described`` of its ``info`` only size and ETag are filled. Holds a request slot while a
    connection is open. After a break it goes on with a further
    ranged GET, under ``If-Match`` so that two objects are never mixed. Servers that answer a
    range request with the whole object are understood.
    """

    def __init__(
        self,
        requests: S3Requests,
        transport: Transport,
        key: str,
        *,
        offset: int,
        length: int | None,
        described: bool = True,
    ) -> None:
        self.info = ObjectInfo(key=key, size=-1)
        self._requests = requests
        self._transport = transport
        self._key = key
        self._described = described
        self._position = offset
        self._end = offset + length if length is not None else -1
        self._download: Download | None = None
        self._began = 0.0
        self._came = 0.0
        """When the last bytes came, by the event loop's clock, or were first waited for."""
        self._received = 0
        self._skip = 0
        self._breaks = 0
        self._since_break = 0
        self._waited_seconds = 0.0

    async def start(self) -> None:
        """Send the first GET; afterwards ``info`` is known."""
        await self._connect(if_match="")

    def close(self) -> None:
        """Drop the connection and give the slot back. Idempotent."""
        self._disconnect(Outcome.ANSWERED)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read():
            yield chunk

    async def read(self) -> bytes:
        """The next bytes; ``b""`` at the end, where the slot is given back."""
        while self._position < self._end or self._end < 0:
            try:
                chunk = await self._receive()
            except TransientError as error:
                failure = error
            else:
                if chunk:
                    return chunk
                if self._end < 0:
                    break  # Neither the caller nor the endpoint named a length.
                failure = self._ended_early()
            await self._resume(failure)
        self._disconnect(Outcome.ANSWERED)
        return b""

    async def fill(self, view: memoryview) -> int:
        """Read into ``view`` until that is full; fewer bytes only at the end. Not to be mixed with iterating.

        The slot is given back with the last byte, where it is known which that is.
        """
        begin = self._position
        loop = asyncio.get_running_loop()
        self._came = loop.time()
        while self._download is not None and (room := self._room(view, begin)):
            try:
                more = await self._receive_into(room)
            except TransientError as error:
                failure = error
            else:
                if more:
                    continue
                if self._end < 0:
                    self._disconnect(Outcome.ANSWERED)
                    break  # Neither the caller nor the endpoint named a length.
                failure = self._ended_early()
            await self._resume(failure)
            self._came = loop.time()
        if self._position == self._end:
            self._disconnect(Outcome.ANSWERED)
        return self._position - begin

    def _room(self, view: memoryview, begin: int) -> memoryview:
        """Where the next bytes go: also those that are to be passed over, which others replace."""
        room = view[self._position - begin :]
        if self._skip:
            return room[: self._skip]
        return room if self._end < 0 else room[: self._end - self._position]

    async def _receive_into(self, room: memoryview) -> bool:
        """Whether more may come, after what came was put into ``room``."""
        assert self._download is not None
        loop, clock = asyncio.get_running_loop(), self._requests.clock
        patience = self._requests.timeout_seconds
        began, received = clock.now(), self._received

        def progress(count: int) -> None:
            self._came = loop.time()
            self._since_break += count
            self._received += count
            if self._skip:
                self._skip -= count
            else:
                self._position += count

        try:
            # Moving the time-out on with each piece would cost more than receiving some of them.
            async with asyncio.timeout_at(self._came + patience):
                await self._download.fill(room, progress)
            more = self._received > received
        except TimeoutError as error:
            if loop.time() >= self._came + patience:
                raise self._broken(f"no byte came for {patience:.0f} s", "Timeout") from error
            more = True
        finally:
            self._waited_seconds += clock.now() - began
        self._check_pace()
        return more

    async def _receive(self) -> bytes:
        """The next bytes that belong to what was asked for; ``b""`` at the end of the body."""
        while True:
            chunk = await self._read()
            if not chunk:
                return b""
            if self._skip:
                dropped = min(self._skip, len(chunk))
                self._skip -= dropped
                chunk = chunk[dropped:]
            if self._end >= 0:
                # More comes only from a server that ignored the range.
                chunk = chunk[: self._end - self._position]
            if chunk:
                self._position += len(chunk)
                return chunk

    async def _read(self) -> bytes:
        assert self._download is not None, "a reader is iterated once, before it is closed"
        # A small object comes whole with its head: then there is nothing to wait for, and no time to limit.
        chunk = self._download.received() or await self._wait()
        self._since_break += len(chunk)
        self._received += len(chunk)
        self._check_pace()
        return chunk

    def _check_pace(self) -> None:
        allowed = self._requests.timeout_seconds + self._since_break / SLOWEST_BYTES_PER_SECOND
        if self._waited_seconds > allowed:
            raise self._broken("the body comes too slowly", "Timeout")

    async def _wait(self) -> bytes:
        assert self._download is not None
        started = self._requests.clock.now()
        patience = self._requests.timeout_seconds
        try:
            async with asyncio.timeout(patience):
                chunk = await self._download.read()
        except TimeoutError as error:
            raise self._broken(f"no byte came for {patience:.0f} s", "Timeout") from error
        self._waited_seconds += self._requests.clock.now() - started
        return chunk

    async def _resume(self, failure: TransientError) -> None:
        self._disconnect(Outcome.TROUBLE, failure)
        if self._since_break >= FORGIVEN_BYTES:
            self._breaks = 0
        self._breaks += 1
        self._since_break, self._waited_seconds = 0, 0.0
        await self._requests.back_off(failure, self._breaks)
        await self._connect(if_match=self.info.etag)

    async def _connect(self, *, if_match: str) -> None:
        offset = self._position
        length = self._end - offset if self._end >= 0 else None

        async def send(_: Deadline) -> Download:
            self._began = self._requests.clock.now()
            return await self._transport.open(
                self._key, offset=offset, length=length, if_match=if_match, described=self._described
            )

        self._received = 0
        self._download = await self._requests.run("GetObject", self._key, send, keep_slot=True)
        self._align(self._download, offset, length)
        if self.info.size < 0:
            self.info = self._download.info

    def _align(self, download: Download, offset: int, length: int | None) -> None:
        """Find out which bytes the body has, and how many of them to pass over."""
        start, total = download.start, download.info.size
        if start < 0:
            # "200 OK" to a range: most send the whole object, some the right part of it.
            if offset and length is not None and download.length == length:
                start = offset
            else:
                start, total = 0, download.length
        if start not in (0, offset):
            reason = f"the endpoint sent bytes from {start} on where {offset} was asked for"
            raise StoreError("GetObject", self._key, reason, code="WrongRange")
        if total >= 0:
            if offset > total or (length is not None and offset + length > total):
                reason = f"bytes up to {offset + (length or 0)} were asked for, the object has {total}"
                raise StoreError("GetObject", self._key, reason, code="InvalidRange")
            self._end = offset + length if length is not None else total
        self._skip = offset - start

    def _disconnect(self, outcome: Outcome, failure: TransientError | None = None) -> None:
        download, self._download = self._download, None
        if download is not None:
            download.close()
            self._requests.slots.release(outcome, began=self._began, size=self._received, failure=failure)

    def _ended_early(self) -> TransientError:
        return self._broken(f"the body ended {self._end - self._position} bytes early", "ShortBody")

    def _broken(self, reason: str, code: str) -> TransientError:
        return TransientError("GetObject", self._key, reason, code=code)
