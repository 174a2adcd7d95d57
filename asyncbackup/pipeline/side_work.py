"""What the process beside does: read batches, and make frames of those for packs."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from asyncbackup.flow.pace import timed
from asyncbackup.flow.side_calls import answer_calls
from asyncbackup.format.frames import FrameCompressor
from asyncbackup.format.pack_builder import FrameBuilder
from asyncbackup.pipeline.pack_wire import FramesReply, FramesRequest, WireFrame
from asyncbackup.pipeline.read_wire import ReadReply, ReadRequest, reply_of
from asyncbackup.pipeline.reading_process import SLOTS
from asyncbackup.pipeline.small_reader import Arena, SmallReader

if TYPE_CHECKING:
    import mmap
    import socket

    from asyncbackup.pipeline.payload import PackItem

KEPT_BATCHES = 2 * SLOTS
"""Batches that frames may still be asked of: of more than there are slots, the contents are gone."""

Request: TypeAlias = ReadRequest | FramesRequest

_NOT_MADE = FramesReply(made=False, frames=[], begins=[])


def answer_work(sock: socket.socket, memory: mmap.mmap) -> None:
    """Answer until the other side is gone. Blocks."""
    decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
    encoder = msgspec.msgpack.Encoder()
    worker = SideWorker()

    def answer(request: bytearray, view: memoryview) -> bytes:
        match decoder.decode(request):
            case ReadRequest() as asked:
                return encoder.encode(worker.read(asked, view))
            case FramesRequest() as asked:
                return encoder.encode(worker.frames(asked, view))

    answer_calls(sock, memory, answer)


class SideWorker:
    """Answers requests; ``view`` is all of the memory that both sides see."""

    def __init__(self) -> None:
        self._reader: SmallReader | None = None
        self._zstd_level = 0
        self._compressor: FrameCompressor | None = None
        self._batches: OrderedDict[int, list[PackItem | None]] = OrderedDict()
        """What of each batch may become a member; of the rest nothing is held."""

    @property
    def held(self) -> int:
        """Of how many entries frames may still be asked."""
        return sum(item is not None for items in self._batches.values() for item in items)

    def read(self, asked: ReadRequest, view: memoryview) -> ReadReply:
        """Read a batch, and remember what of it is for packs."""
        if asked.settings is not None:
            self._begin(asked)
        reader = self._reader
        assert reader is not None, "the first request has the settings"
        arena = Arena(view[asked.offset : asked.offset + asked.room_bytes], largest_bytes=asked.room_bytes)
        results, waited_seconds = timed(lambda: reader.read(asked.changes, arena))
        members = [item if item.whole is None and item.known is None else None for item in results.items]
        if any(members):
            self._batches[asked.number] = members
            if len(self._batches) > KEPT_BATCHES:
                self._batches.popitem(last=False)
        return reply_of(results, arena, waited_seconds=waited_seconds)

    def frames(self, asked: FramesRequest, view: memoryview) -> FramesReply:
        """Make frames of what was read. Nothing is to be asked about the batch any more."""
        items = self._batches.pop(asked.batch, None)
        if items is None:
            return _NOT_MADE
        links = {link.position: link for link in asked.links}
        builder = FrameBuilder(zstd_level=self._zstd_level, compressor=self._compressor)
        for position, index in enumerate(asked.items):
            item, link = items[index], links.get(position)
            assert item is not None, "what is sent alone, or known, is no member"
            if link is None:
                builder.add(item.entry, item.body)
            else:
                builder.add(item.entry, b"", link_to=link.link_to, copy=link.copy)
        builder.close()
        if builder.stored > asked.room_bytes:
            return _NOT_MADE
        begin = asked.offset
        for frame in builder.frames:
            for piece in frame.pieces:
                view[begin : begin + len(piece)] = piece
                begin += len(piece)
        frames = [WireFrame(frame.members, frame.size) for frame in builder.frames]
        return FramesReply(made=True, frames=frames, begins=builder.begins)

    def _begin(self, asked: ReadRequest) -> None:
        """Another transfer begins."""
        settings = asked.settings
        assert settings is not None
        self._reader = SmallReader(settings)
        self._zstd_level = settings.zstd_level
        self._compressor = FrameCompressor(level=settings.zstd_level) if settings.zstd_level else None
        self._batches.clear()
