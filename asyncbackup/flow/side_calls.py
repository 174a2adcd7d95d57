"""Calls to a process beside this one: both ends of its socket.

A request is a length and as many bytes, an answer the same with a mark before them that says whether
they are the answer or why there is none. Answers come in the order of the requests. What is large
lies in the memory that both see.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import traceback
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import msgspec

from asyncbackup.flow.hops import to_its_end

if TYPE_CHECKING:
    import mmap
    import socket
    from collections.abc import AsyncIterator

    from asyncbackup.flow.shared_slots import SharedSlots, Slot
    from asyncbackup.flow.side_process import SideProcess

Settings = TypeVar("Settings")
Reply = TypeVar("Reply")

log = logging.getLogger(__name__)

REQUEST = struct.Struct("<I")
ANSWER = struct.Struct("<I?")
"""The length of what follows, and whether it is an answer."""

Answer: TypeAlias = Callable[[bytearray, memoryview], bytes]
"""What the process makes of a request and the memory. What it raises is told instead."""


class SideCalls:
    """The side that asks; any number of tasks may. Made by :func:`open_side_calls`.

    Whoever is told ``None`` does the work itself: nothing depends on the process.
    """

    def __init__(
        self,
        process: SideProcess,
        slots: SharedSlots,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.answered = 0
        """How many requests were."""
        self._unanswered = 0
        self._process = process
        self._slots = slots
        self._receiver, self._sender = streams
        self._turn = asyncio.Lock()

    @property
    def usable(self) -> bool:
        """It has not failed."""
        return not self._process.retired

    @property
    def idle(self) -> bool:
        """Nothing is asked of it now."""
        return not self._unanswered

    def take(self, size_bytes: int) -> Slot | None:
        """A part of the memory; ``None`` where it is all in use, or has no such parts, or the process is
        not to be asked any more."""
        return None if self._process.retired else self._slots.take(size_bytes)

    async def ask(self, request: bytes) -> bytes | None:
        """The answer; ``None`` where there is none, which is logged, and nobody is asked any more.

        When the caller is cancelled, this returns only after the process is done with the request: until
        then it may use the memory, and change what it was asked to.
        """
        self._unanswered += 1
        try:
            answer = await to_its_end(self._exchange(request))
        finally:
            self._unanswered -= 1
        self.answered += answer is not None
        return answer

    async def _exchange(self, request: bytes) -> bytes | None:
        if self._process.retired or self._sender.is_closing():
            self._lose("it ended")
            return None
        try:
            # Callers wait for their answers, so that little can pile up here. A lock is got in the order
            # of asking for it, as long as nothing is awaited before.
            self._sender.writelines((REQUEST.pack(len(request)), request))
            async with self._turn:
                head = await self._receiver.readexactly(ANSWER.size)
                length, answered = ANSWER.unpack(head)
                answer = await self._receiver.readexactly(length)
        except (OSError, EOFError, RuntimeError) as error:
            # (uvloop says with the latter that a transport is closed.)
            self._lose(f"it ended ({error})")
            return None
        if not answered:
            self._lose(answer.decode())
            return None
        return answer

    def _lose(self, reason: str) -> None:
        if not self._process.retired:
            self._process.retired = True
            log.warning("process %d failed, this one does its work itself: %s", self._process.pid, reason)


class SettledCalls(Generic[Settings, Reply]):
    """Calls that are structs, the first of which brings along what all of them go by."""

    def __init__(self, calls: SideCalls, settings: Settings, reply: type[Reply]) -> None:
        self._calls = calls
        self._settings: Settings | None = settings
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(reply)

    @property
    def idle(self) -> bool:
        """Nothing is asked of the process now."""
        return self._calls.idle

    @property
    def settled(self) -> bool:
        """The process has the settings, and has not failed."""
        return self._settings is None and self._calls.usable

    def take(self, size_bytes: int) -> Slot | None:
        """As :meth:`SideCalls.take`."""
        return self._calls.take(size_bytes)

    async def call(self, request: Callable[[Settings | None], object]) -> Reply | None:
        """The answer to what ``request`` makes of the settings, where they are still to be given.

        ``None`` as of :meth:`SideCalls.ask`, and where there are times that do not fit 64 bits.
        """
        try:
            asked = self._encoder.encode(request(self._settings))
        except OverflowError:
            return None
        self._settings = None
        answer = await self._calls.ask(asked)
        return None if answer is None else self._decoder.decode(answer)


@asynccontextmanager
async def open_side_calls(
    process: SideProcess | None, *, slot_bytes: int, what: str, memory_bytes: int | None = None
) -> AsyncIterator[SideCalls | None]:
    """Calls to a process for ``what``, whose memory, or ``memory_bytes`` of it, is divided into slots;
    ``None`` where there is no process, or it failed before."""
    if process is None or process.retired:
        yield None
        return
    try:
        sock = process.socket.dup()
    except OSError as error:
        log.info("process %d is not asked: %s", process.pid, error)
        yield None
        return
    sock.setblocking(False)
    receiver, sender = await asyncio.open_unix_connection(sock=sock)
    slots = process.slots(slot_bytes=slot_bytes, end=memory_bytes)
    calls = SideCalls(process, slots, (receiver, sender))
    log.debug("%s by process %d", what, process.pid)
    try:
        yield calls
    finally:
        sender.close()
        log.debug("process %d has answered %d times", process.pid, calls.answered)


def answer_calls(sock: socket.socket, memory: mmap.mmap, answer: Answer) -> None:
    """The side that is asked: what ``answer`` makes of each request, until the other is gone. Blocks."""
    view = memoryview(memory)
    while (head := _receive(sock, REQUEST.size)) is not None:
        request = _receive(sock, REQUEST.unpack(head)[0])
        if request is None:
            return
        try:
            given, answered = answer(request, view), True
        except Exception:  # noqa: BLE001 - the other side does it itself and meets it too
            given, answered = traceback.format_exc().encode(), False
        sock.sendall(ANSWER.pack(len(given), answered))
        sock.sendall(given)


def _receive(sock: socket.socket, size: int) -> bytearray | None:
    """``size`` bytes; ``None`` once the other side is gone."""
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = sock.recv_into(view[filled:])
        if not count:
            return None
        filled += count
    return data
