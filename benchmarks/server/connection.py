"""One client's connection: heads and bodies in, answers out, slowed and broken as the settings say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from benchmarks.server.content import Chunks, Content
from benchmarks.server.faults import ConnectionFault
from benchmarks.server.message import CHECKSUM, Buffer, Request, Response, S3Error, error_response
from benchmarks.server.pace import TURN_BYTES, Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.server.service import Service

_HEAD_BYTES = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SHORTEST_PAUSE = 0.002
"""Seconds; shorter ones cost more than they slow, and the line stays owed what it is owed."""
_SIDE_PATH = "/_"


class Connection(asyncio.BufferedProtocol):
    """Answers one request after another, in order. 100 Continue is sent at once, without latency.

    Bytes arrive in the service's one buffer, or in the memory of a large body itself.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._incoming = Pace(service.connection_bytes_per_second)
        self._outgoing = Pace(service.connection_bytes_per_second)
        self._buffer = b""
        self._room: memoryview | None = None
        self._feeding = False
        self._answering = False
        self._request: Request | None = None
        self._operation = ""
        self._content = Content(checked=False, with_sha256=False)
        self._left = 0
        self._received = 0
        self._framing: Chunks | None = None
        self._decoder: Chunks | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by their class
        self._service.counters.connections += 1
        self._service.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._service.connections.discard(self)
        if self._request is not None:
            self._request = None
            self._service.counters.end()

    def abort(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        self._room = None
        if self._request is not None and not self._answering:
            self._room = self._content.room
        return self._service.scratch if self._room is None else self._room

    def buffer_updated(self, nbytes: int) -> None:
        if self._incoming.limited or self._service.incoming.limited:
            self._slow(nbytes)
        if self._room is not None:
            self._room = None
            self._left -= nbytes
            self._received += nbytes
            self._content.received(nbytes)
            if not self._left:
                self._complete()
            return
        data = bytes(self._service.scratch[:nbytes])
        if self._buffer:
            data = self._buffer + data
        self._feed(data)

    def _slow(self, size: int) -> None:
        now = self._loop.time()
        delay = max(self._incoming.take(size, now), self._service.incoming.take(size, now))
        if delay > _SHORTEST_PAUSE and self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_later(delay, self._resume)

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _feed(self, data: bytes) -> None:
        self._feeding = True
        try:
            while data and not self._answering and self._transport is not None:
                if self._request is not None:
                    data = self._take_body(data)
                    continue
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    if len(data) > _HEAD_BYTES:
                        raise S3Error(400, "RequestHeaderSectionTooLarge")
                    break
                head, data = data[:end], data[end + 4 :]
                self._begin(head)
        except S3Error as error:
            # The framing is lost: where the next request begins is not known.
            self._answering, data = True, b""
            self._send(error_response(error, None), close=True)
        finally:
            self._feeding = False
        self._buffer = data

    def _begin(self, head: bytes) -> None:
        request = Request(head.decode("latin-1"))
        headers = request.headers
        # Nothing is taken whose end could be misread.
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise S3Error(400, "BadRequest", "Content-Length is not a number")
        announced = CHECKSUM in headers or headers.get("x-amz-trailer") == CHECKSUM
        self._content = Content(checked=self._service.checks_bodies, with_sha256=announced)
        self._received = 0
        self._left = int(length)
        self._framing = self._decoder = None
        sink: Callable[[bytes], None] = self._content.add
        if "aws-chunked" in headers.get("content-encoding", "") or headers.get(
            "x-amz-content-sha256", ""
        ).startswith("STREAMING-"):
            self._decoder = Chunks(sink, self._content.trailers)
            sink = self._decode
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._framing = Chunks(sink, self._content.trailers)
        if self._framing is None and self._decoder is None:
            self._content.expect(self._left)
        self._request, self._operation = request, ""
        self._service.counters.begin()
        if headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(_CONTINUE)
        if not self._left and self._framing is None:
            self._complete()

    def _decode(self, data: bytes) -> None:
        assert self._decoder is not None
        self._decoder.feed(data)

    def _take_body(self, data: bytes) -> bytes:
        if self._framing is not None:
            rest = self._framing.feed(data)
            self._received += len(data) - len(rest)
            if self._framing.ended:
                self._complete()
            return rest
        piece, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(piece)
        self._received += len(piece)
        if self._decoder is not None:
            self._decoder.feed(piece)
        else:
            self._content.add(piece)
        if not self._left:
            self._complete()
        return rest

    def _complete(self) -> None:
        """The request is all there: have it answered, now or later."""
        request, service = self._request, self._service
        assert request is not None
        self._answering = True
        if self._decoder is not None and self._received and not self._decoder.ended:
            raise S3Error(400, "IncompleteBody", "the last chunk is missing")
        close = request.headers.get("connection", "").lower() == "close"
        if request.path.startswith(_SIDE_PATH):
            self._operation = ""
            self._send(service.aside(request), close=close)
            return
        try:
            self._operation, response = service.answer(request, self._content, self._loop.time())
        except ConnectionFault:
            self.abort()
            return
        delay = service.latency.draw()
        if delay > 0:
            self._loop.call_later(delay, self._send_later, response, close)
        else:
            self._send(response, close=close)

    def _send_later(self, response: Response, close: bool) -> None:
        self._send(response, close=close)

    def _send(self, response: Response, *, close: bool) -> None:
        if self._transport is None:
            return
        if self._operation:
            # Before the client can see the answer, so that whoever has it also finds it counted.
            self._service.counters.count(
                self._operation,
                received=self._received,
                sent=sum(map(len, response.pieces)),
                status=response.status,
            )
        head = response.head(close=close)
        if response.pieces and (self._outgoing.limited or self._service.outgoing.limited):
            self._transport.write(head)
            self._send_turns(_turns(response.pieces), close)
            return
        self._transport.writelines([head, *response.pieces])
        self._sent(close)

    def _send_turns(self, turns: Iterator[memoryview], close: bool) -> None:
        """The next piece, and the rest when the line is free again."""
        if self._transport is None:
            return
        for turn in turns:
            self._transport.write(turn)
            now = self._loop.time()
            delay = max(self._outgoing.take(len(turn), now), self._service.outgoing.take(len(turn), now))
            if delay > _SHORTEST_PAUSE:
                self._loop.call_later(delay, self._send_turns, turns, close)
                return
        self._sent(close)

    def _sent(self, close: bool) -> None:
        if self._request is not None:
            self._request = None
            self._service.counters.end()
        self._answering = False
        if close and self._transport is not None:
            self._transport.close()
            self._transport = None
            return
        if not self._feeding and self._buffer:
            data, self._buffer = self._buffer, b""
            self._feed(data)


def _turns(pieces: tuple[Buffer, ...]) -> Iterator[memoryview]:
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), TURN_BYTES):
            yield view[start : start + TURN_BYTES]
