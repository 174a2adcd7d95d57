"""Frames made in the other process, which is a thread here, are those that are made here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.format.pack_builder import FrameBuilder
from asyncbackup.pipeline import attributes
from asyncbackup.pipeline.pack_wire import FramesRequest, MemberLink
from asyncbackup.pipeline.read_wire import ReadRequest
from asyncbackup.pipeline.reading_process import MEMORY_BYTES, ROOM_BYTES, ROOMS, serve_reads
from asyncbackup.pipeline.side_packer import FrameRoom
from asyncbackup.pipeline.side_reader import SideReader, open_side_reader
from asyncbackup.pipeline.side_work import KEPT_BATCHES, SideWorker
from tests.side import dying_side_thread, side_thread
from tests.unit.pipeline.readings import see, transfer_settings, upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.pipeline.payload import PackItem
    from asyncbackup.pipeline.side_packer import SidePacker
    from asyncbackup.pipeline.transfer_settings import ReadSettings

FILES = 40


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


@pytest.fixture
def process() -> Iterator[SideProcess]:
    with side_thread(serve_reads, memory_bytes=MEMORY_BYTES) as process:
        yield process


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number in range(FILES):
        (tmp_path / f"{number}").write_bytes(b"words %d " % number * 1000 + os.urandom(20_000))
    return tmp_path


def settings_of(tree: Path, *, zstd_level: int) -> ReadSettings:
    settings = transfer_settings(tree).reading
    return msgspec.structs.replace(settings, packed=True, pack_below_bytes=2**20, zstd_level=zstd_level)


async def read(reader: SideReader | None, tree: Path) -> tuple[list[PackItem], int, SidePacker]:
    assert reader is not None
    assert reader.packer is not None
    answer = await reader.read([upload(see(tree, b"%d" % number)) for number in range(FILES)])
    assert answer is not None
    return answer[0].items, answer[0].number, reader.packer


def made_here(items: list[PackItem], links: dict[int, MemberLink], *, zstd_level: int) -> FrameBuilder:
    builder = FrameBuilder(zstd_level=zstd_level)
    for position, item in enumerate(items):
        if (link := links.get(position)) is not None:
            builder.add(item.entry, b"", link_to=link.link_to, copy=link.copy)
        else:
            builder.add(item.entry, item.body)
    builder.close()
    return builder


@pytest.mark.parametrize("zstd_level", [0, 3])
async def test_they_are_what_is_made_here(tree: Path, process: SideProcess, zstd_level: int) -> None:
    links = [MemberLink(1, b"0", copy=True), MemberLink(3, b"2", copy=False)]
    async with open_side_reader(process, settings_of(tree, zstd_level=zstd_level)) as reader:
        room = FrameRoom()
        for _ in range(2):  # the second lies behind the first
            items, number, packer = await read(reader, tree)
            wanted = [0, 3, 1, 2, *range(10, FILES)]
            made = await packer.frames_of(number, wanted, links, room, most_bytes=2 * 2**20)
            assert made is not None
            here = made_here(
                [items[index] for index in wanted],
                {link.position: link for link in links},
                zstd_level=zstd_level,
            )
            frames, begins = made
            assert begins == here.begins
            assert [(frame.members, frame.size) for frame in frames] == [
                (frame.members, frame.size) for frame in here.frames
            ]
            assert b"".join(p for f in frames for p in f.pieces) == b"".join(
                p for f in here.frames for p in f.pieces
            )
        assert room.filled == 2 * sum(frame.size for frame in frames)


async def test_a_batch_can_be_asked_for_once(tree: Path, process: SideProcess) -> None:
    async with open_side_reader(process, settings_of(tree, zstd_level=3)) as reader:
        _, number, packer = await read(reader, tree)
        assert await packer.frames_of(number, [0], [], FrameRoom(), most_bytes=2**20) is not None
        assert await packer.frames_of(number, [0], [], FrameRoom(), most_bytes=2**20) is None
    assert not process.retired


async def test_batches_that_nobody_asks_for_are_forgotten(tree: Path, process: SideProcess) -> None:
    async with open_side_reader(process, settings_of(tree, zstd_level=3)) as reader:
        _, first, packer = await read(reader, tree)
        for _ in range(KEPT_BATCHES):
            _, last, _ = await read(reader, tree)
        assert await packer.frames_of(first, [0], [], FrameRoom(), most_bytes=2**20) is None
        assert await packer.frames_of(last, [0], [], FrameRoom(), most_bytes=2**20) is not None


def test_what_is_no_member_is_not_held(tree: Path) -> None:
    """A file too large for packs goes up alone, compressed: nobody asks for frames of it."""
    settings = msgspec.structs.replace(settings_of(tree, zstd_level=3), pack_below_bytes=1)
    worker = SideWorker()
    changes = [upload(see(tree, b"%d" % number)) for number in range(FILES)]
    memory = memoryview(bytearray(FILES * 40_000))
    reply = worker.read(ReadRequest(1, 0, len(memory), changes, settings), memory)
    assert len(reply.items) == FILES
    assert worker.held == 0
    settings = msgspec.structs.replace(settings, pack_below_bytes=2**20)
    worker.read(ReadRequest(2, 0, len(memory), changes, settings), memory)
    assert worker.held == FILES
    assert worker.frames(FramesRequest(2, 0, len(memory), [0], []), memory).made
    assert worker.held == 0


async def test_what_needs_more_room_than_was_said_is_not_made(tree: Path, process: SideProcess) -> None:
    async with open_side_reader(process, settings_of(tree, zstd_level=0)) as reader:
        _, number, packer = await read(reader, tree)
        room = FrameRoom()
        assert await packer.frames_of(number, [0], [], room, most_bytes=ROOM_BYTES) is not None
        room.filled = ROOM_BYTES - 1000
        _, number, packer = await read(reader, tree)
        assert await packer.frames_of(number, [0], [], room, most_bytes=1000) is None
        assert await packer.frames_of(number, [0], [], room, most_bytes=ROOM_BYTES + 1) is None
    assert not process.retired


async def test_what_has_no_room_behind_the_others_gets_another(tree: Path, process: SideProcess) -> None:
    async with open_side_reader(process, settings_of(tree, zstd_level=0)) as reader:
        _, number, packer = await read(reader, tree)
        room = FrameRoom()
        assert await packer.frames_of(number, [0], [], room, most_bytes=ROOM_BYTES) is not None
        first, filled = room.slot, room.filled
        _, number, packer = await read(reader, tree)
        assert await packer.frames_of(number, [0], [], room, most_bytes=ROOM_BYTES) is not None
        assert first is not None
        assert room.slot is not None
        assert room.slot.offset == first.offset + ROOM_BYTES
        assert room.filled == filled


async def test_frames_stay_as_long_as_they_are_viewed(tree: Path, process: SideProcess) -> None:
    async with open_side_reader(process, settings_of(tree, zstd_level=3)) as reader:
        kept = []
        for _ in range(ROOMS + 1):
            items, number, packer = await read(reader, tree)
            kept.append(await packer.frames_of(number, [5], [], FrameRoom(), most_bytes=ROOM_BYTES))
        assert kept.pop() is None
        wanted = b"".join(made_here([items[5]], {}, zstd_level=3).frames[0].pieces)
        for made in kept:
            assert made is not None
            assert b"".join(made[0][0].pieces) == wanted
        del kept, made
        _, number, packer = await read(reader, tree)
        assert await packer.frames_of(number, [5], [], FrameRoom(), most_bytes=ROOM_BYTES) is not None


async def test_a_process_that_dies_makes_none(tree: Path) -> None:
    with dying_side_thread(serve_reads, memory_bytes=MEMORY_BYTES, after=1) as process:
        async with open_side_reader(process, settings_of(tree, zstd_level=3)) as reader:
            _, number, packer = await read(reader, tree)
            assert await packer.frames_of(number, [0], [], FrameRoom(), most_bytes=2**20) is None
        assert process.retired


async def test_only_a_packed_section_has_them_made(tree: Path, process: SideProcess) -> None:
    async with open_side_reader(process, transfer_settings(tree).reading) as reader:
        assert reader is not None
        assert reader.packer is None
