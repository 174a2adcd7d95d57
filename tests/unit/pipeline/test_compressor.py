"""The compressor: frames in the order of the file, parts of one size, bytes conserved."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard

from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.format.envelope import CHUNK_SIZE
from asyncbackup.format.frames import FrameCompressor
from asyncbackup.model import ZSTD, Entry, Extent, Kind, Pending
from asyncbackup.pipeline.compression import BLOCK_BYTES, compressed, pays, sample_pays
from asyncbackup.pipeline.compressor import Compressor
from asyncbackup.pipeline.parts import MIN_PART_BYTES, SEALED_CHUNK_BYTES, LargestParts
from asyncbackup.pipeline.payload import (
    AbandonUpload,
    CopyPayload,
    LargeUpload,
    PartPayload,
    Payload,
    UploadEnd,
)
from tests.unit.pipeline.readings import MIB, RUN, transfer_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

PART = 3 * SEALED_CHUNK_BYTES
BLOCK = 64 * 1024
LIMIT = 100 * MIB


def text(size: int, seed: int = 0) -> bytes:
    """Something that shrinks to about a third."""
    letters = random.Random(seed).choices(b"abcdefgh ", k=size)
    return bytes(letters)


def expanded(frames: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(frames, read_across_frames=True) as reader:
        return reader.read()


def large(
    content: bytes, *, path: bytes = b"large", sealed: bool = False, compression: str = ZSTD
) -> LargeUpload:
    return LargeUpload(
        entry=Entry(path=path, kind=Kind.FILE, mode=0o100644, size=len(content)),
        pending=Pending.NEW,
        run=RUN,
        key="files/" + path.decode(),
        part_size=PART,
        stored_size=0,
        sealed=sealed,
        resumed=None,
        compression=compression,
    )


class Compressing:
    """Two compressor tasks and what came out of them; leases are taken as the reader takes them."""

    def __init__(self) -> None:
        self.budget = ByteBudget(LIMIT)
        self.done: list[Payload] = []

    async def run(self, payloads: Sequence[Payload], *, tasks: int = 2) -> None:
        gate = ThreadGate("compress", 2)
        compressor = Compressor(3, self.budget, gate)
        payloads_in: Sender[Payload]
        payloads_in, taken = open_channel("payloads", 1000)
        done_in: Sender[Payload]
        done: Receiver[Payload]
        done_in, done = open_channel("compressed", 1000)
        try:
            with payloads_in:
                await payloads_in.send_all(payloads)
            async with asyncio.TaskGroup() as group:
                with taken, done_in:
                    for _ in range(tasks):
                        group.create_task(compressor.run(taken.clone(), done_in.clone()))
            self.done = [payload async for payload in done]
        finally:
            gate.close()

    async def blocks(self, upload: LargeUpload, content: bytes) -> list[Payload]:
        found: list[Payload] = []
        for number, start in enumerate(range(0, len(content), BLOCK), start=1):
            block = bytearray(content[start : start + BLOCK])
            await self.budget.acquire(len(block))
            found.append(PartPayload(upload=upload, number=number, body=block, sha256=b"", leased=len(block)))
        return found

    def parts(self, upload: LargeUpload) -> list[PartPayload]:
        return [p for p in self.done if isinstance(p, PartPayload) and p.upload is upload]


def end(upload: LargeUpload, content: bytes) -> UploadEnd:
    return UploadEnd(upload=upload, entry=upload.entry, part_count=-1, bytes_read=len(content))


@pytest.mark.parametrize("content", [text(10 * BLOCK + 7), text(100), os.urandom(5 * BLOCK)])
async def test_the_parts_are_frames_that_expand_to_the_file(content: bytes) -> None:
    upload = large(content)
    work = Compressing()
    await work.run([*await work.blocks(upload, content), end(upload, content)])
    parts = work.parts(upload)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert all(len(part.body) == PART for part in parts[:-1])
    assert 0 < len(parts[-1].body) <= PART
    for part in parts:
        assert part.sha256 == hashlib.sha256(part.body).digest()
    assert expanded(b"".join(bytes(part.body) for part in parts)) == content
    ending = work.done[-1]
    assert isinstance(ending, UploadEnd)
    assert (ending.part_count, ending.bytes_read) == (len(parts), len(content))


async def test_every_block_is_a_frame_that_tells_its_size() -> None:
    content = text(3 * BLOCK + 5)
    upload = large(content)
    work = Compressing()
    await work.run([*await work.blocks(upload, content), end(upload, content)])
    stored = b"".join(bytes(part.body) for part in work.parts(upload))
    sizes = []
    while stored:
        sizes.append(zstandard.frame_content_size(stored))
        opened = zstandard.ZstdDecompressor().decompressobj()
        opened.decompress(stored)
        stored = opened.unused_data
    assert sizes == [BLOCK, BLOCK, BLOCK, 5]


async def test_uploads_beside_each_other_do_not_mix() -> None:
    contents = [text(6 * BLOCK + 1 + seed, seed) for seed in range(3)]
    uploads = [large(content, path=b"f%d" % number) for number, content in enumerate(contents)]
    work = Compressing()
    lines = [
        [*await work.blocks(upload, content), end(upload, content)]
        for upload, content in zip(uploads, contents, strict=True)
    ]
    await work.run([item for items in zip(*lines, strict=True) for item in items])
    for upload, content in zip(uploads, contents, strict=True):
        assert expanded(b"".join(bytes(part.body) for part in work.parts(upload))) == content


@pytest.mark.parametrize("content", [text(20 * BLOCK), os.urandom(6 * BLOCK)], ids=["text", "noise"])
async def test_leases_are_what_is_held_and_none_is_lost(content: bytes) -> None:
    upload = large(content)
    work = Compressing()
    await work.run([*await work.blocks(upload, content), end(upload, content)])
    parts = work.parts(upload)
    held = sum(part.leased for part in parts)
    assert work.budget.in_use_bytes == held
    stored = sum(len(part.body) for part in parts)
    assert held <= stored
    assert held == min(stored, len(content)), (
        "noise grows by the heads of its frames; only that is not leased"
    )
    for part in parts:
        work.budget.release(part.leased)
    assert work.budget.in_use_bytes == 0


async def test_an_abandoned_upload_gives_its_leases_along() -> None:
    content = text(BLOCK)
    upload = large(content)
    work = Compressing()
    await work.run([*await work.blocks(upload, content), AbandonUpload(upload=upload)])
    [given_up] = work.done
    assert isinstance(given_up, AbandonUpload)
    assert 0 < given_up.leased == work.budget.in_use_bytes < PART


async def test_pieces_for_the_encryptor_are_what_becomes_one_part_each() -> None:
    content = text(20 * BLOCK)
    upload = large(content, sealed=True)
    work = Compressing()
    await work.run([*await work.blocks(upload, content), end(upload, content)])
    parts = work.parts(upload)
    assert {len(part.body) for part in parts[:-1]} == {3 * CHUNK_SIZE}
    assert {part.sha256 for part in parts} == {b""}


async def test_everything_else_passes_through() -> None:
    content = os.urandom(100)
    upload = large(content, compression="")
    work = Compressing()
    link = CopyPayload(
        entry=upload.entry,
        pending=Pending.NEW,
        key="files/link",
        source=Extent(run=RUN, key=upload.key, length=100),
        first_path=b"large",
    )
    part = PartPayload(upload=upload, number=1, body=content, sha256=b"digest", leased=0)
    items: list[Payload] = [link, part, end(upload, content)]
    await work.run(items, tasks=1)
    assert work.done == items


# Whether it pays


@pytest.mark.parametrize(("size", "left", "worth"), [(1000, 900, True), (1000, 901, False), (10, 9, True)])
def test_a_tenth_is_the_least_that_pays(size: int, left: int, worth: bool) -> None:
    assert pays(size, left) is worth


def test_samples_decide_together() -> None:
    noise, words = os.urandom(65536), text(65536)
    assert sample_pays([words, words, words])
    assert not sample_pays([noise, noise, noise])
    assert sample_pays([noise, words, noise]), "a third that shrinks to a third is worth it"


def test_a_small_content_is_compressed_only_if_it_pays() -> None:
    compressor = FrameCompressor(level=3)
    words = text(BLOCK_BYTES * 2 + 10)
    frames = compressed(words, compressor)
    assert frames is not None
    assert expanded(frames) == words
    assert zstandard.frame_content_size(frames) == BLOCK_BYTES
    assert compressed(os.urandom(10_000), compressor) is None
    assert compressed(b"abc", compressor) is None


# Room in the budget


@pytest.mark.parametrize(
    ("limit", "part", "packed", "readable", "compressible"),
    [
        (64, 8, False, 48, 16),
        (64, 8, True, 32, 16),
        (32, 8, False, None, None),
        (5, 5, False, 5, 0),
        (8, 5, False, 8, 0),
    ],
)
def test_what_waits_leaves_room_for_every_read(
    limit: int, part: int, packed: bool, readable: int | None, compressible: int | None
) -> None:
    settings = msgspec.structs.replace(
        transfer_settings(b"/", part_size_bytes=part * MIB, memory_limit_bytes=limit * MIB),
        zstd_level=3,
        packed=packed,
        pack_size_bytes=limit * MIB // 8 if packed else 0,
    )
    largest = LargestParts.of(settings, limit * MIB)
    if readable is None:
        assert largest.compressible >= part * MIB + SEALED_CHUNK_BYTES, "also a sealed part fits"
        assert largest.readable + largest.compressible == limit * MIB
    else:
        assert (largest.readable, largest.compressible) == (readable * MIB, (compressible or 0) * MIB)
    assert largest.readable >= MIN_PART_BYTES


def test_without_compression_and_packs_a_read_may_take_all() -> None:
    assert LargestParts.of(transfer_settings(b"/"), 20 * MIB) == LargestParts(
        readable=20 * MIB, compressible=0
    )


async def test_parts_that_will_be_sealed_are_passed_on_in_their_order() -> None:
    content = os.urandom(2 * BLOCK)
    upload, other = (
        large(content, sealed=True, compression=""),
        large(b"other", path=b"other", compression=""),
    )
    work = Compressing()
    gate = ThreadGate("compress", 2)
    compressor = Compressor(3, work.budget, gate)
    payloads_in: Sender[Payload]
    payloads_in, taken = open_channel("payloads", 10)
    done_in: Sender[Payload]
    done: Receiver[Payload]
    done_in, done = open_channel("compressed", 1)
    beside = done_in.clone()
    found: list[Payload] = []
    try:
        async with asyncio.TaskGroup() as group:
            with taken, done_in:
                for _ in range(2):
                    group.create_task(compressor.run(taken.clone(), done_in.clone()))
            with payloads_in, beside:
                await beside.send(end(other, b"other"))
                await payloads_in.send_all([*await work.blocks(upload, content), end(upload, content)])
                for _ in range(10):  # Both tasks wait for room.
                    await asyncio.sleep(0)
                found.append(await done.receive())
                # Whoever was woken finds the channel full again, and has lost its place in the queue.
                await beside.send(end(other, b"other"))
            found += [payload async for payload in done]
    finally:
        gate.close()
    numbers = [payload.number for payload in found if isinstance(payload, PartPayload)]
    assert numbers == [1, 2]
    ends = [payload for payload in found if isinstance(payload, UploadEnd) and payload.upload is upload]
    assert found[-1] is ends[-1]
