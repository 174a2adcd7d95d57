"""Small files read by a process beside this one: the side that asks."""

from __future__ import annotations

import asyncio
import logging
import stat
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.flow.shared_slots import SharedSlots
from asyncbackup.flow.side_process import SideProcess, fork_side_process
from asyncbackup.pipeline.read_process import serve_reads
from asyncbackup.pipeline.read_wire import LENGTH, ReadReply, ReadRequest, results_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncbackup.model import Change
    from asyncbackup.pipeline.small_reader import SmallResults
    from asyncbackup.pipeline.transfer_settings import ReadSettings

log = logging.getLogger(__name__)

SLOT_BYTES = 4 * 1024 * 1024 + 64 * 1024
"""The contents of a batch, and a byte for each of them."""
SLOTS = 8


def fork_reader() -> SideProcess | None:
    """The process, not yet asked anything; ``None`` where there is none. See :func:`fork_side_process`."""
    return fork_side_process(serve_reads, memory_bytes=SLOTS * SLOT_BYTES)


class SideReader:
    """Reads batches in the other process, one after another. Made by :func:`open_side_reader`.

    Where that is not possible any more, whoever asks reads by itself: nothing depends on it.
    """

    def __init__(
        self,
        settings: ReadSettings,
        slots: SharedSlots,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.batches = 0
        """How many it has read."""
        self.unanswered = 0
        """Requests that wait for their answer."""
        self._settings: ReadSettings | None = settings
        self._slots = slots
        self._receiver, self._sender = streams
        self._turn = asyncio.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ReadReply)
        self._lost = False

    async def read(self, changes: Sequence[Change]) -> tuple[SmallResults, float] | None:
        """What the batch gave, and for how many seconds the disk was waited for; ``None`` where it is to
        be read here: it is too large, the memory is all in use, or the process is gone."""
        sizes = (change.entry.size for change in changes if stat.S_ISREG(change.entry.mode))
        room = sum(size + 1 for size in sizes)
        slot = None if self._lost else self._slots.take(room)
        if slot is None:
            return None
        request = self._encoder.encode(ReadRequest(slot.offset, room, list(changes), self._settings))
        self._settings = None
        try:
            answer = await self._ask(request)
        except (OSError, EOFError) as error:
            self._lose(f"it ended ({error})")
            return None
        reply = self._decoder.decode(answer)
        if reply.error:
            self._lose(reply.error)
            return None
        self.batches += 1
        return results_of(reply, slot.view), reply.waited_seconds

    async def _ask(self, request: bytes) -> bytes:
        self.unanswered += 1
        # A reading task asks once at a time, so that little can pile up here. Answers come in the order
        # of the requests, and a lock is got in the order of asking for it: nothing is awaited between.
        self._sender.writelines((LENGTH.pack(len(request)), request))
        async with self._turn:
            head = await self._receiver.readexactly(LENGTH.size)
            answer = await self._receiver.readexactly(LENGTH.unpack(head)[0])
        self.unanswered -= 1
        return answer

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self._lost = True
            log.warning("the process that reads small files failed, this one reads them itself: %s", reason)


@asynccontextmanager
async def open_side_reader(
    process: SideProcess | None, settings: ReadSettings
) -> AsyncIterator[SideReader | None]:
    """What reads through the process for one transfer; ``None`` where there is no process, or where names
    are hidden, which takes a key that it is not given.

    A process whose answers were not waited for is not used again.
    """
    if process is None or process.retired or settings.hidden is not None:
        yield None
        return
    sock = process.socket.dup()
    sock.setblocking(False)
    receiver, sender = await asyncio.open_unix_connection(sock=sock)
    log.debug("small files are read by process %d", process.pid)
    reader = SideReader(settings, SharedSlots(process.memory, slot_bytes=SLOT_BYTES), (receiver, sender))
    try:
        yield reader
    finally:
        log.debug("%d batches were read by it", reader.batches)
        # It may still write where the next transfer would have it read to.
        process.retired = reader.unanswered > 0
        sender.close()
