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
DIRECT_BYTES = 64 * 1024
"""So much of a body has to be missing for it to be worth while to receive into the caller's memory."""


class Connection(asyncio.Protocol):
    """Made by :class:`~asyncbackup.store.lean.pool.Pool`, and used by one task at a time.

    The order is :meth:`send`, :meth:`head`, then :meth:`whole`, :meth:`read` or :meth:`fill` to the end. A
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
        self._direct: _Direct | None = None

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

    def filled(self) -> None:
        """Nothing more has room: leave the socket alone, and wake who waits for it."""
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
            self._receive_through_parser()
            await self._wait()
        return self.received()

    async def fill(self, view: memoryview, progress: Callable[[int], None]) -> None:
        """Receive the body into ``view`` until that is full, or the body has ended.

        ``progress`` is told how many bytes came, as they come, also those before an error. Nothing is
        written into ``view`` once this has returned, raised or been cancelled; after that the body goes
        on where it was.
        """
        parser = self._parser
        assert parser is not None
        while view:
            if self._chunks:
                count = self._pour_chunk(view)
                progress(count)
            elif parser.done:
                return
            elif self._error is not None:
                raise self._broken()
            elif parser.plain_left > DIRECT_BYTES or (self._direct and parser.plain_left > 1):
                count = await self._receive_directly(view, parser, progress)
            else:
                self._receive_through_parser()
                await self._wait()
                continue
            view = view[count:]

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

    def _pour_chunk(self, view: memoryview) -> int:
        """Move what came with the head, or in chunks, into ``view``."""
        chunk = self._chunks.popleft()
        if len(chunk) > len(view):
            self._chunks.appendleft(chunk[len(view) :])
            chunk = chunk[: len(view)]
        view[: len(chunk)] = chunk
        self._unread -= len(chunk)
        if self._reading_paused and self._direct is None and self._unread < READ_BYTES:
            self._resume_reading()
        return len(chunk)

    async def _receive_directly(
        self, view: memoryview, parser: AnswerParser, progress: Callable[[int], None]
    ) -> int:
        # The last byte of a body passes through the parser, which sees what comes beyond it.
        direct = self._direct
        if direct is None:
            direct = self._direct = _Direct(self)
            self._switch_to(direct)
        room = direct.room = view[: parser.plain_left - 1]
        size = len(room)

        def moved(count: int) -> None:
            parser.passed_by(count)
            progress(count)

        direct.moved = moved
        self._resume_reading()
        try:
            while direct.room and self._error is None:
                await self._wait()
        finally:
            left, direct.room, direct.moved = len(direct.room), _NO_ROOM, _nothing
            self._pause_reading()
        return size - left

    def _receive_through_parser(self) -> None:
        """Let what comes go to :meth:`data_received` again, if it did not."""
        if self._direct is not None:
            self._direct = None
            self._switch_to(self)
            self._resume_reading()

    def _switch_to(self, protocol: asyncio.BaseProtocol) -> None:
        # Event loops look at what kind of protocol it is when they begin to read.
        self._pause_reading()
        if self._transport is not None:
            self._transport.set_protocol(protocol)

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


class _Direct(asyncio.BufferedProtocol):
    """What a connection's transport talks to while a body is received into its reader's memory.

    ``room`` is what is not full yet of it. While there is none the socket is left alone.
    """

    __slots__ = ("_connection", "moved", "room")

    def __init__(self, connection: Connection) -> None:
        self.room = _NO_ROOM
        self.moved: Callable[[int], None] = _nothing
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.room = self.room[nbytes:]
        self.moved(nbytes)
        if not self.room:
            self._connection.filled()

    def eof_received(self) -> None:
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


_NO_ROOM = memoryview(b"")


def _nothing(_: int) -> None:
    pass
