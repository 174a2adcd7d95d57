"""The compressor: large files as zstd frames; present only where a section is compressed.

The blocks of one upload become frames in several threads at once, and are
joined in the order in which they were received. What exceeds a part is carried
over into the next, so every part but the last has the same size. Parts that are
not compressed but will be sealed pass through in their order, and everything
else as it comes. Whether a content is compressed at all is decided by the
reader, from samples.

A body gives the bytes that it shrank by back to the budget at once. What is
carried over keeps its lease until more of the file was read, so only one file
is read to be compressed at a time (``Reader``), and the budget has room for
every other read beside a part that waits.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.flow.channel import EndOfChannel, Receiver, Sender
from asyncbackup.format.frames import FrameCompressor
from asyncbackup.pipeline.parts import content_of_part
from asyncbackup.pipeline.payload import AbandonUpload, LargeUpload, PartPayload, Payload, UploadEnd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.flow.budget import ByteBudget
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.store.base import Buffer

Item = PartPayload | UploadEnd | AbandonUpload


class _Waiting:
    """One payload of an upload in its line; ``frames`` are there once it is ``ready``."""

    __slots__ = ("frames", "item", "leased", "ready")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.frames: list[Buffer] = []
        self.leased = item.leased if isinstance(item, PartPayload) else 0
        self.ready = not (isinstance(item, PartPayload) and item.upload.compression)


class _Frames:
    """The frames of one upload. ``waiting`` is in the order in which its payloads were received,
    whichever task received them; who holds ``turn`` joins what is ready at its beginning."""

    __slots__ = ("carry", "leased", "number", "turn", "waiting")

    def __init__(self) -> None:
        self.carry = bytearray()
        self.leased = 0
        self.number = 0
        self.turn = asyncio.Lock()
        self.waiting: deque[_Waiting] = deque()


class Compressor:
    """Compresses the parts of uploads that shall be. ``run`` is called by several tasks at once."""

    def __init__(self, level: int, budget: ByteBudget, gate: ThreadGate) -> None:
        self._level = level
        self._budget = budget
        self._gate = gate
        self._uploads: dict[LargeUpload, _Frames] = {}

    async def run(self, payloads: Receiver[Payload], onwards: Sender[Payload]) -> None:
        """Work until the payloads end."""
        compressor = FrameCompressor(level=self._level)
        with payloads, onwards:
            while True:
                try:
                    # One at a time: a block is work for long, and other tasks shall take the next.
                    items = await payloads.receive_some(1)
                except EndOfChannel:
                    return
                item = items.pop()
                if isinstance(item, PartPayload | UploadEnd | AbandonUpload) and (
                    item.upload.compression or item.upload.sealed
                ):
                    await self._compress(item, compressor, onwards)
                else:
                    await onwards.send(item)
                # While this task waits for more it must not hold on to what it has passed on.
                del item

    async def _compress(self, item: Item, compressor: FrameCompressor, onwards: Sender[Payload]) -> None:
        # Lined up before anything is waited for, or another task might overtake.
        frames, waiting = self._line_up(item)
        if isinstance(item, PartPayload) and not waiting.ready:
            waiting.frames = await self._gate.run(compressor.frame, [item.body])
            waiting.leased = min(item.leased, sum(map(len, waiting.frames)))
            self._budget.release(item.leased - waiting.leased)
            waiting.ready = True
        await self._join(frames, onwards)

    def _line_up(self, item: Item) -> tuple[_Frames, _Waiting]:
        frames = self._uploads.get(item.upload)
        if frames is None:
            frames = self._uploads[item.upload] = _Frames()
        waiting = _Waiting(item)
        frames.waiting.append(waiting)
        if not isinstance(item, PartPayload):
            del self._uploads[item.upload]  # nothing comes after an end
        return frames, waiting

    async def _join(self, frames: _Frames, onwards: Sender[Payload]) -> None:
        async with frames.turn:
            while frames.waiting and frames.waiting[0].ready:
                first = frames.waiting.popleft()
                match first.item:
                    case PartPayload() | UploadEnd() if not first.item.upload.compression:
                        # They would be sealed as they come, and a full channel may let one overtake another.
                        await onwards.send(first.item)
                    case PartPayload():
                        frames.leased += first.leased
                        parts = await self._gate.run(_cut, frames, first.frames, first.item.upload)
                        await onwards.send_all(parts)
                    case UploadEnd():
                        parts = await self._gate.run(_rest, frames, first.item.upload)
                        await onwards.send_all(parts)
                        await onwards.send(msgspec.structs.replace(first.item, part_count=frames.number))
                    case AbandonUpload():
                        leased = first.item.leased + frames.leased
                        await onwards.send(msgspec.structs.replace(first.item, leased=leased))


def _cut(frames: _Frames, more: Sequence[Buffer], upload: LargeUpload) -> list[PartPayload]:
    for piece in more:
        frames.carry += piece
    size = content_of_part(upload.part_size, sealed=upload.sealed)
    parts: list[PartPayload] = []
    while len(frames.carry) >= size:
        parts.append(_next_part(frames, upload, size))
    return parts


def _rest(frames: _Frames, upload: LargeUpload) -> list[PartPayload]:
    return [_next_part(frames, upload, len(frames.carry))] if frames.carry else []


def _next_part(frames: _Frames, upload: LargeUpload, size: int) -> PartPayload:
    """The first ``size`` bytes, with the lease for as many."""
    body = frames.carry[:size]
    del frames.carry[:size]
    frames.number += 1
    leased = min(size, frames.leased)
    frames.leased -= leased
    sha256 = b"" if upload.sealed else hashlib.sha256(body).digest()
    return PartPayload(upload=upload, number=frames.number, body=body, sha256=sha256, leased=leased)
