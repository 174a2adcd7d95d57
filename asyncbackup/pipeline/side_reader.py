"""Small files read by a process beside this one (docs/design.md, "Processes beside"): the side that asks."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from asyncbackup.flow.side_calls import SettledCalls, SideCalls, open_side_calls
from asyncbackup.pipeline.read_wire import ReadReply, ReadRequest, results_of
from asyncbackup.pipeline.reading_process import READ_BYTES, ROOM_BYTES, SLOT_BYTES
from asyncbackup.pipeline.side_packer import SidePacker
from asyncbackup.pipeline.transfer_settings import ReadSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.model import Change
    from asyncbackup.pipeline.small_reader import SmallResults


class SideReader(SettledCalls[ReadSettings, ReadReply]):
    """Reads batches in the other process, one after another. Made by :func:`open_side_reader`.

    ``packer`` makes frames of what it read, in a packed section.
    """

    def __init__(self, calls: SideCalls, settings: ReadSettings, packer: SidePacker | None) -> None:
        super().__init__(calls, settings, ReadReply)
        self.packer = packer
        self._number = 0

    async def read(self, changes: Sequence[Change]) -> tuple[SmallResults, float] | None:
        """What the batch gave, and for how many seconds the disk was waited for; ``None`` where it is to
        be read here: it is too large, the memory is all in use, or the process is gone."""
        room = sum(size + 1 for change in changes if (size := change.content_bytes))
        slot = self.take(room)
        if slot is None:
            return None
        self._number = number = self._number + 1
        offset = slot.offset
        reply = await self.call(lambda settings: ReadRequest(number, offset, room, list(changes), settings))
        if reply is None:
            return None
        results = results_of(reply, slot.view)
        results.number = number
        return results, reply.waited_seconds


@asynccontextmanager
async def open_side_reader(
    process: SideProcess | None, settings: ReadSettings
) -> AsyncIterator[SideReader | None]:
    """What reads through the process for one transfer; ``None`` where there is no process, or where names
    are hidden, which takes a key that it is not given."""
    if settings.hidden is not None:
        process = None
    async with open_side_calls(
        process, slot_bytes=SLOT_BYTES, memory_bytes=READ_BYTES, what="small files are read"
    ) as calls:
        if process is None or calls is None:
            yield None
            return
        rooms = process.slots(slot_bytes=ROOM_BYTES, begin=READ_BYTES)
        yield SideReader(calls, settings, SidePacker(calls, rooms) if settings.packed else None)
