"""Making the frames of packs: of two batches at once, one by the process that read it, one by a thread
here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from asyncbackup.format.frames import FrameCompressor
from asyncbackup.format.pack_builder import Frame, FrameBuilder
from asyncbackup.pipeline.pack_wire import MemberLink

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.model import Entry
    from asyncbackup.pipeline.side_packer import FrameRoom, SidePacker
    from asyncbackup.store.base import Buffer

BESIDE, HERE = "beside", "here"
ROOM_FOR_LONG_NAMES = 128 * 1024

Made: TypeAlias = tuple[list[Frame], list[int]]
"""Frames, and of each member where in its frame the content begins."""


class Member(NamedTuple):
    """What is to be in a pack: the item at ``position`` of its batch."""

    entry: Entry
    position: int
    body: Buffer = b""
    link_to: bytes = b""
    copy: bool = False


class Framing:
    """Makes frames. One task asks, and the ``group`` of it has those that work."""

    def __init__(
        self, gate: ThreadGate, group: asyncio.TaskGroup, side: SidePacker | None, *, zstd_level: int
    ) -> None:
        self._gate = gate
        self._group = group
        self._side = side
        self._zstd_level = zstd_level
        self._compressor = FrameCompressor(level=zstd_level) if zstd_level else None
        self._compressing = asyncio.Lock()
        self._busy: set[str] = set()
        self._freed = asyncio.Event()

    async def begin(
        self, members: Sequence[Member], number: int, room: FrameRoom, *, most_bytes: int
    ) -> asyncio.Task[Made]:
        """Begin with members of a batch, as soon as the process or the thread is free.

        ``number`` is that of the batch in the process that read it, 0 where this one did, and ``room`` that
        of its pack. As tar the members have ``most_bytes`` at the most, unless their names are very long.
        """
        while True:
            if self._side is not None and number and BESIDE not in self._busy:
                asking = self._ask(self._side, members, number, room, most_bytes)
                return self._work(BESIDE, asking)
            if HERE not in self._busy:
                return self._work(HERE, self._make(members))
            self._freed.clear()
            await self._freed.wait()

    def _work(self, place: str, making: Coroutine[Any, Any, Made]) -> asyncio.Task[Made]:
        self._busy.add(place)
        task = self._group.create_task(making)
        task.add_done_callback(lambda _: self._leave(place))
        return task

    def _leave(self, place: str) -> None:
        self._busy.discard(place)
        self._freed.set()

    async def _ask(
        self, side: SidePacker, members: Sequence[Member], number: int, room: FrameRoom, most_bytes: int
    ) -> Made:
        links = [
            MemberLink(at, member.link_to, member.copy) for at, member in enumerate(members) if member.link_to
        ]
        positions = [member.position for member in members]
        made = await side.frames_of(
            number, positions, links, room, most_bytes=most_bytes + ROOM_FOR_LONG_NAMES
        )
        return made if made is not None else await self._make(members)

    async def _make(self, members: Sequence[Member]) -> Made:
        async with self._compressing:
            return await self._gate.run(self._frames_of, members)

    def _frames_of(self, members: Sequence[Member]) -> Made:
        builder = FrameBuilder(zstd_level=self._zstd_level, compressor=self._compressor)
        for member in members:
            builder.add(member.entry, member.body, link_to=member.link_to, copy=member.copy)
        builder.close()
        return builder.frames, builder.begins
