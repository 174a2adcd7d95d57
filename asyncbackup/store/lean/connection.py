"""One connection to an endpoint: a request at a time, its answer parsed as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from asyncbackup.store.body import PIECE_BYTES, buffers_of, pieces_of
from asyncbackup.store.lean.answer import AnswerParser
from asyncbackup.store.lean.errors import BrokenConnectionError, MalformedAnswerError

if TYPE_CHECKING:
    from asyncbackup.store.base import Body

READ_BYTES = 256 * 1024
"""The most that one read returns, and what may lie here unread before the socket is left alone."""
WHOLE_LIMIT = 256 * 1024
"""What is kept of an answer that is taken whole: S3 says what there is to say in a fraction of it."""
SMALL_BYTES = 64 * 1024
"""A body up to here goes out in one call; the socket's buffer is not waited for."""
CONTINUE_SECONDS = 1.0
"""How long a body waits for its "100 Continue"."""


class Connection(asyncio.Protocol):
    """Made by :class:`~asyncbackup.store.lean.pool.Pool`, and used by one task at a time.

    The order is :meth:`send`, :meth:`head`, then :meth:`whole` or :meth:`read` to the end. A
    connection on which anything else happened is not :attr:`reusable`: whoever holds it drops it
    with :meth:`abort`. Waiting calls raise ``BrokenConnectionError`` and ``MalformedAnswerError``.
    """

    def __init__(self, *, on_lost: Callable[[Connection], None]) -> None:
        self.idle_since = 0.0
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._waiter: asyncio.Future[None] | None = None
        self._parser: AnswerParser | None = None
        self._error: Exception | None = None
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._reading_paused = False
        self._writing_paused = False
        self._sent_whole = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no children of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or self._error is not None:
            self.abort()  # Nobody asked.
            return
        try:
            chunk = parser.feed(data)
        except MalformedAnswerError as error:
            self._error = error
            self.abort()
        else:
            if chunk:
                self._chunks.append(chunk)
                self._unread += len(chunk)
                if self._unread >= READ_BYTES and not parser.done:
                    self._pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """The event loop closes the connection; :meth:`connection_lost` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self)
        if not self._lost.done():
            self._lost.set_result(None)
        if self._error is None and (self._parser is None or exc is not None or not self._parser.end()):
            self._error = exc or BrokenConnectionError("the endpoint closed the connection")
        self._writing_paused = False
        self._wake()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    # What the holder calls.

    @property
    def closed(self) -> bool:
        """It is gone, or about to be."""
        return self._error is not None or self._transport is None or self._transport.is_closing()

    @property
    def reusable(self) -> bool:
        """The request went out whole, the answer came whole, and the endpoint keeps the connection."""
        return (
            self._parser is not None
            and self._parser.done
            and self._parser.keep_alive
            and self._sent_whole
            and not self._reading_paused
            and self._transport is not None
            and not self._transport.is_closing()
            and not self._transport.get_write_buffer_size()
        )

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_lost(self) -> None:
        """Return when the event loop has let go of the connection."""
        await asyncio.shield(self._lost)

    def rest(self) -> None:
        """The answer was taken; whatever comes before the next request ends the connection."""
        self._parser = None
        self._chunks.clear()
        self._unread = 0

    async def send(
        self,
        head: bytes,
        body: Body,
        size: int,
        *,
        expect: bool,
        progress: Callable[[], None],
        bodiless: bool = False,
    ) -> bool:
        """Send a request. ``progress`` is called with every piece that the socket takes.

        With ``expect`` the body waits for "100 Continue", up to ``CONTINUE_SECONDS``. Stops when
        the answer comes first. Returns whether the endpoint has kept to what ``expect`` says: a
        100, or an answer without one. ``bodiless`` is a HEAD, whose answer has no body.
        """
        transport = self._transport
        if transport is None or self.closed:
            raise BrokenConnectionError("the endpoint closed the connection")
        parser = self._parser = AnswerParser(bodiless=bodiless)
        self._sent_whole = False
        if size <= SMALL_BYTES and not expect:
            transport.writelines([head, *buffers_of(body)])
            self._sent_whole = True
            return True
        transport.write(head)
        kept = not expect or await self._told_to_continue(parser)
        for piece in pieces_of(body, PIECE_BYTES):
            if self._interrupted():
                return kept  # The answer has come early, or the end.
            transport.write(piece)
            while self._writing_paused and not self._interrupted():
                await self._wait()
            progress()
        self._sent_whole = True
        return kept

    async def head(self) -> AnswerParser:
        """The answer, once its head is there."""
        parser = self._parser
        assert parser is not None
        while not parser.status:
            if self._error is not None:
                raise self._broken()
            await self._wait()
        return parser

    async def whole(self, *, limit: int = WHOLE_LIMIT) -> bytes:
        """All of the answer's body, or as much of it as ``limit`` bytes."""
        parser = self._parser
        assert parser is not None
        pieces: list[bytes] = []
        got = 0
        try:
            while got < limit and (piece := await self.read()):
                pieces.append(piece)
                got += len(piece)
        except BrokenConnectionError:
            # Who refuses a body early may break off in mid-explanation; the status is word enough.
            if parser.status < 300:
                raise
        return b"".join(pieces)[:limit]

    async def read(self) -> bytes:
        """The next bytes of the body, at most ``READ_BYTES``; ``b""`` at its end."""
        parser = self._parser
        assert parser is not None
        while not self._chunks:
            if parser.done:
                return b""
            if self._error is not None:
                raise self._broken()
            await self._wait()
        return self.received()

    def received(self) -> bytes:
        """As :meth:`read`, without waiting: ``b""`` also where nothing has come."""
        if not self._chunks:
            return b""
        chunk = self._chunks.popleft()
        if self._chunks and len(chunk) + len(self._chunks[0]) <= READ_BYTES:
            pieces, size = [chunk], len(chunk)
            while self._chunks and size + len(self._chunks[0]) <= READ_BYTES:
                pieces.append(self._chunks.popleft())
                size += len(pieces[-1])
            chunk = b"".join(pieces)
        elif len(chunk) > READ_BYTES:
            self._chunks.appendleft(chunk[READ_BYTES:])
            chunk = chunk[:READ_BYTES]
        self._unread -= len(chunk)
        if self._reading_paused and self._unread < READ_BYTES:
            self._resume_reading()
        return chunk

    def _interrupted(self) -> bool:
        """Nothing more is to be sent: the final answer began, or the connection is gone."""
        return self._error is not None or (self._parser is not None and self._parser.status > 0)

    async def _told_to_continue(self, parser: AnswerParser) -> bool:
        try:
            async with asyncio.timeout(CONTINUE_SECONDS):
                while not parser.continued and not self._interrupted():
                    await self._wait()
        except TimeoutError:
            return False
        return True

    async def _wait(self) -> None:
        """Until something happened: bytes came, the socket took some, or the end."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._reading_paused = True

    def _resume_reading(self) -> None:
        self._reading_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _broken(self) -> Exception:
        error = self._error
        if isinstance(error, MalformedAnswerError):
            return MalformedAnswerError(str(error))
        broken = BrokenConnectionError(str(error))
        broken.__cause__ = error
        return broken
