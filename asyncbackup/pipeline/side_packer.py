"""Frames made by the process that read their members (docs/design.md, "Processes beside"): the side that
asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.format.pack_builder import Frame
from asyncbackup.pipeline.pack_wire import FramesReply, FramesRequest, MemberLink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.flow.shared_slots import SharedSlots, Slot
    from asyncbackup.flow.side_calls import SideCalls


class FrameRoom:
    """Where the frames of one pack are laid: part of the shared memory, until nothing of it is viewed."""

    __slots__ = ("filled", "slot")

    def __init__(self) -> None:
        self.slot: Slot | None = None
        self.filled = 0


class SidePacker:
    """Has frames made in the other process. Tasks may ask, each for a pack of its own."""

    def __init__(self, calls: SideCalls, rooms: SharedSlots) -> None:
        self._calls = calls
        self._rooms = rooms
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FramesReply)

    async def frames_of(
        self,
        batch: int,
        items: Sequence[int],
        links: Sequence[MemberLink],
        room: FrameRoom,
        *,
        most_bytes: int,
    ) -> tuple[list[Frame], list[int]] | None:
        """Frames of some items of a batch, by their index, and of each where in its frame the content
        begins. ``None`` where they are to be made here: they turn out larger than ``most_bytes``, the
        memory is all in use, or the process is gone."""
        if room.slot is None or len(room.slot.view) - room.filled < most_bytes:
            room.slot, room.filled = self._rooms.take(self._rooms.slot_bytes), 0
        slot = room.slot
        if slot is None or len(slot.view) < most_bytes:
            return None
        begin = room.filled
        request = FramesRequest(batch, slot.offset + begin, len(slot.view) - begin, list(items), list(links))
        answer = await self._calls.ask(self._encoder.encode(request))
        if answer is None:
            return None
        reply = self._decoder.decode(answer)
        if not reply.made:
            return None
        frames = []
        for frame in reply.frames:
            frames.append(Frame(frame.members, [slot.view[begin : begin + frame.size]], frame.size))
            begin += frame.size
        room.filled = begin
        return frames, reply.begins
