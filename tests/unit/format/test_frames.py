"""Frames: each expands by itself, and what does not shrink goes out as it came."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.format.frames import MAX_FRAME_BYTES, Buffer, FrameCompressor, raw_frame
from tests.unit.format.vectors import content

KIB = 1024
BLOCK = 128 * KIB


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def expanded(frame: list[Buffer]) -> bytes:
    """What one frame, and nothing but one frame, expands to."""
    stored = b"".join(frame)
    parameters = zstandard.get_frame_parameters(stored)
    expansion = zstandard.ZstdDecompressor().decompressobj()
    data = expansion.decompress(stored)
    assert expansion.eof
    assert expansion.unused_data == b""
    assert parameters.content_size == len(data)
    assert parameters.window_size <= 8 * KIB * KIB
    assert parameters.dict_id == 0
    return data


def is_raw(frame: list[Buffer], size: int) -> bool:
    """Whether the frame is what ``size`` bytes in raw blocks are."""
    return sum(map(len, frame)) == 10 + 3 * max(1, -(-size // BLOCK)) + size


@pytest.mark.parametrize("size", [0, 1, 255, 256, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 700_001])
def test_raw_blocks(size: int) -> None:
    data = noise(size)
    frame = raw_frame([data])
    assert expanded(frame) == data
    assert is_raw(frame, size)


@given(st.lists(st.integers(0, 2 * BLOCK), max_size=6))
def test_raw_blocks_of_pieces(sizes: list[int]) -> None:
    pieces = [content(size) for size in sizes]
    assert expanded(raw_frame(pieces)) == b"".join(pieces)


def test_raw_blocks_refer_to_the_pieces() -> None:
    large = bytearray(noise(3 * BLOCK))
    frame = raw_frame([b"head", large, b"tail"])
    shared = [part for part in frame if isinstance(part, memoryview) and part.obj is large]
    assert sum(map(len, shared)) == len(large)


@pytest.mark.parametrize("seed", range(8))
def test_into_how_many_pieces_a_content_is_cut_makes_no_difference(seed: int) -> None:
    chance = random.Random(seed)
    pieces: list[Buffer] = []
    for _ in range(50):
        size = chance.randrange(20_000)
        pieces += [bytes(1536), chance.randbytes(size) if chance.random() < 0.85 else content(size)]
    whole = b"".join(pieces)
    compressor = FrameCompressor(level=3)
    assert b"".join(compressor.frame(pieces)) == b"".join(compressor.frame([whole]))


def test_the_zstd_tool_takes_raw_blocks() -> None:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed (Debian: zstd)")
    pieces: list[Buffer] = [noise(1000), memoryview(noise(300_000)), b""]
    stored = b"".join(b"".join(raw_frame(part)) for part in ([], pieces, [b"x"], [noise(BLOCK)]))
    subprocess.run(["zstd", "-tq"], input=stored, check=True)
    done = subprocess.run(["zstd", "-dcq"], input=stored, check=True, capture_output=True)
    assert done.stdout == noise(1000) + noise(300_000) + b"x" + noise(BLOCK)


@pytest.mark.parametrize("level", [1, 3, 19, 20, 22])
def test_every_level_keeps_to_the_window(level: int) -> None:
    data = content(MAX_FRAME_BYTES if level in (1, 22) else KIB * KIB)
    frame = FrameCompressor(level=level).frame([data[:100], data[100:]])
    assert expanded(frame) == data
    assert sum(map(len, frame)) < len(data) // 100


@pytest.mark.parametrize("size", [0, 10, 1000, 64 * KIB, 64 * KIB + 1, 600_000])
def test_what_does_not_shrink_is_raw(size: int) -> None:
    data = noise(size)
    frame = FrameCompressor(level=3).frame([data])
    assert expanded(frame) == data
    assert is_raw(frame, size)


def test_what_shrinks_is_compressed() -> None:
    compressor = FrameCompressor(level=3)
    for size in (1000, 64 * KIB, 600_000):
        assert len(b"".join(compressor.frame([content(size)]))) < size // 2


@pytest.mark.parametrize("where", range(4))
def test_samples_are_spread(where: int) -> None:
    # A quarter shrinks, whichever it is: one that is not looked at would be stored raw.
    quarters = [noise(150_000 + number) for number in range(4)]
    quarters[where] = content(150_000)
    frame = FrameCompressor(level=3).frame(quarters)
    assert expanded(frame) == b"".join(quarters)
    assert sum(map(len, frame)) < 500_000


def test_samples_of_many_pieces() -> None:
    pieces = [content(997) for _ in range(1000)]
    frame = FrameCompressor(level=3).frame(pieces)
    assert expanded(frame) == b"".join(pieces)
    assert len(frame) == 1


def test_a_compressor_serves_many_frames() -> None:
    compressor = FrameCompressor(level=3)
    frames = [compressor.frame([content(size)]) for size in (70_000, 3, 100_000)]
    assert [len(expanded(frame)) for frame in frames] == [70_000, 3, 100_000]
