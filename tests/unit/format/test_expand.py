"""Expanding frames: whatever they are, no more than was asked for is expanded."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from collections.abc import Iterator
from random import Random

import pytest
import zstandard

from asyncbackup.errors import FormatError
from asyncbackup.format.expand import MAX_FRAME_BYTES, PIECE_BYTES, Expander, FrameExpander

MIB = 1024 * 1024
NAME = "home/data/RUN/packs/000001.tar.zst"


def frame(content: bytes, *, write_checksum: bool = False, write_content_size: bool = True) -> bytes:
    compressor = zstandard.ZstdCompressor(
        level=3, write_checksum=write_checksum, write_content_size=write_content_size
    )
    return compressor.compress(content)


def expand(stored: bytes, size: int) -> bytes:
    content, error = FrameExpander().prefix(stored, size, name=NAME)
    if error is not None:
        raise error
    return bytes(content)


def bomb(blocks: int) -> bytes:
    """A frame of run-length blocks, four bytes each, that expand to 128 KiB each."""
    # Magic; descriptor without content size; a window of 8 MiB.
    head = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([13 << 3])
    block = struct.pack("<I", (PIECE_BYTES << 3) | (1 << 1))[:3] + b"\0"
    last = struct.pack("<I", (PIECE_BYTES << 3) | (1 << 1) | 1)[:3] + b"\0"
    return head + block * (blocks - 1) + last


@pytest.fixture
def peak() -> Iterator[None]:
    """Fails a test that held more than 24 MiB at once."""
    tracemalloc.start()
    yield
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 24 * MIB


def content_of(seed: int, size: int) -> bytes:
    """Half noise, half zeros."""
    random = Random(seed)
    return b"".join(random.randbytes(5000) + bytes(5000) for _ in range(size // 10_000 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, 1000, 400_000])
def test_the_first_bytes_of_a_frame(size: int) -> None:
    content = content_of(1, 400_000)
    assert expand(frame(content), size) == content[:size]


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("step", [1, 777, 300_000, 10 * MIB])
def test_frames_however_they_arrive(checksum: bool, sized: bool, step: int) -> None:
    parts = [
        content_of(seed, size) for seed, size in enumerate((100_000, 0, 1, 128 * 1024, 300_000, 131_073))
    ]
    stored = b"".join(frame(part, write_checksum=checksum, write_content_size=sized) for part in parts)
    assert expand(stored, sum(map(len, parts))) == b"".join(parts)
    expander = Expander(name=NAME)
    pieces: list[bytes] = []
    for start in range(0, len(stored), step):
        pieces += expander.feed(stored[start : start + step])
    assert b"".join(pieces) == b"".join(parts)
    assert max(map(len, pieces)) <= PIECE_BYTES


def damaged_frames() -> Iterator[tuple[str, bytes, str]]:
    content = content_of(7, 100_000)
    good = frame(content, write_checksum=True)
    yield "nothing", b"", "0 bytes are in it"
    yield "cut", good[: len(good) // 2], "bytes are in it where 100001 belong"
    yield "no frame", b"no frame at all, certainly", "Unknown frame descriptor"
    flipped = bytearray(good)
    flipped[-1] ^= 1
    yield "checksum", bytes(flipped), "doesn't match checksum"
    wrong_size = bytearray(good)
    wrong_size[5] ^= 1  # the announced size follows magic and descriptor
    yield "announced size", bytes(wrong_size), "."
    window = zstandard.ZstdCompressionParameters.from_level(19, window_log=24)
    compressor = zstandard.ZstdCompressor(compression_params=window)
    wide = compressor.compressobj()
    yield "window", wide.compress(content) + wide.flush(), "too much memory"
    dictionary = zstandard.ZstdCompressionDict(content_of(8, 1000) * 3)
    yield "dictionary", zstandard.ZstdCompressor(dict_data=dictionary).compress(content), "."


@pytest.mark.parametrize(
    ("stored", "reason"),
    [pytest.param(stored, reason, id=name) for name, stored, reason in damaged_frames()],
)
def test_damage_names_the_object(stored: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        # One byte more than is in it: it has to be expanded to its end.
        expand(stored, 100_001)
    assert NAME in str(caught.value)


def test_what_stands_before_the_damage_is_told() -> None:
    content = Random(3).randbytes(300_000)  # blocks of 128 KiB, stored as they are
    stored = bytearray(frame(content, write_checksum=True))
    stored[-1] ^= 1
    expander = FrameExpander()
    prefix, error = expander.prefix(stored, 300_001, name=NAME)
    assert prefix == content[: len(prefix)]
    assert len(prefix) >= 2 * PIECE_BYTES
    assert "checksum" in str(error)
    prefix, error = expander.prefix(frame(content), 300_001, name=NAME)
    assert prefix == content
    assert "300000 bytes are in it where 300001 belong" in str(error)
    for size in (100_000, 299_000):
        prefix, error = expander.prefix(stored, size, name=NAME)
        assert (bytes(prefix), error) == (content[:size], None)


def test_frames_are_expanded_into_the_same_memory() -> None:
    content = content_of(4, 3 * MIB)
    stored = frame(content)
    expander = FrameExpander()
    expander.prefix(stored, len(content) - 512, name=NAME)
    tracemalloc.start()
    for size in (len(content) - 512, len(content), 1000):
        prefix, error = expander.prefix(stored, size, name=NAME)
        assert prefix == memoryview(content)[:size]
        assert error is None
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MIB


def test_damage_shows_in_a_stream_too() -> None:
    stored = bytearray(frame(content_of(7, 100_000), write_checksum=True))
    stored[-1] ^= 1
    with pytest.raises(FormatError, match="checksum") as caught:
        list(Expander(name=NAME).feed(stored))
    assert NAME in str(caught.value)


def test_frames_that_announce_too_much_are_not_begun() -> None:
    with pytest.raises(FormatError, match="to more than 16777216 bytes"):
        expand(frame(bytes(MAX_FRAME_BYTES + 1)), 10)
    with pytest.raises(FormatError, match="to more than 16777216 bytes"):
        expand(frame(b"small"), MAX_FRAME_BYTES + 1)


@pytest.mark.usefixtures("peak")
def test_a_bomb_gives_what_was_asked_for() -> None:
    stored = bomb(256 * 1024)  # 1 MiB, 32 GiB expanded
    assert len(stored) == pytest.approx(MIB, abs=10)
    assert expand(stored, 3 * MIB + 1) == bytes(3 * MIB + 1)
    pieces = Expander(name=NAME).feed(stored)
    digest = hashlib.sha256()
    for _ in range(100):
        piece = next(pieces)
        assert len(piece) <= PIECE_BYTES
        digest.update(piece)
    assert digest.digest() == hashlib.sha256(bytes(100 * PIECE_BYTES)).digest()
