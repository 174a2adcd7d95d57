"""Small files read by a process beside this one (docs/design.md, "Processes beside"): both sides."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.flow.pace import timed
from asyncbackup.flow.side_calls import SettledCalls, answer_calls, open_side_calls
from asyncbackup.pipeline.read_wire import ReadReply, ReadRequest, reply_of, results_of
from asyncbackup.pipeline.reading_process import SLOT_BYTES
from asyncbackup.pipeline.small_reader import Arena, SmallReader, content_bytes
from asyncbackup.pipeline.transfer_settings import ReadSettings

if TYPE_CHECKING:
    import mmap
    import socket
    from collections.abc import AsyncIterator, Sequence

    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.model import Change
    from asyncbackup.pipeline.small_reader import SmallResults


class SideReader(SettledCalls[ReadSettings, ReadReply]):
    """Reads batches in the other process, one after another. Made by :func:`open_side_reader`."""

    async def read(self, changes: Sequence[Change]) -> tuple[SmallResults, float] | None:
        """What the batch gave, and for how many seconds the disk was waited for; ``None`` where it is to
        be read here: it is too large, the memory is all in use, or the process is gone."""
        room = sum(size + 1 for size in map(content_bytes, changes) if size)
        slot = self.take(room)
        if slot is None:
            return None
        offset = slot.offset
        reply = await self.call(lambda settings: ReadRequest(offset, room, list(changes), settings))
        return None if reply is None else (results_of(reply, slot.view), reply.waited_seconds)


@asynccontextmanager
async def open_side_reader(
    process: SideProcess | None, settings: ReadSettings
) -> AsyncIterator[SideReader | None]:
    """What reads through the process for one transfer; ``None`` where there is no process, or where names
    are hidden, which takes a key that it is not given."""
    if settings.hidden is not None:
        process = None
    async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="small files are read") as calls:
        yield None if calls is None else SideReader(calls, settings, ReadReply)


def answer_reads(sock: socket.socket, memory: mmap.mmap) -> None:
    """What the process does once it is asked: read batch after batch. Blocks."""
    decoder, encoder = msgspec.msgpack.Decoder(ReadRequest), msgspec.msgpack.Encoder()
    reader: SmallReader | None = None

    def answer(request: bytearray, view: memoryview) -> bytes:
        nonlocal reader
        asked = decoder.decode(request)
        if asked.settings is not None:
            reader = SmallReader(asked.settings)
        assert reader is not None, "the first request has the settings"
        return encoder.encode(_read(reader, asked, view))

    answer_calls(sock, memory, answer)


def _read(reader: SmallReader, asked: ReadRequest, view: memoryview) -> ReadReply:
    arena = Arena(view[asked.offset : asked.offset + asked.room_bytes], largest_bytes=asked.room_bytes)
    results, waited_seconds = timed(lambda: reader.read(asked.changes, arena))
    return reply_of(results, arena, waited_seconds=waited_seconds)
