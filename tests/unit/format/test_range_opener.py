from __future__ import annotations

import pytest

from asyncbackup.errors import AuthenticationError, FormatError
from asyncbackup.format.envelope import CHUNK_SIZE, SEALED_CHUNK_SIZE, UNKNOWN_SIZE, Sealer
from asyncbackup.format.keyslots import RepositoryKey
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener
from tests.unit.format.vectors import content

KEY = RepositoryKey(b"k" * 32)
PLACE = {"repository": "8f14e45fceea167a5a36dedd4bea2543", "section": "home", "object_key": "home/data/x"}


def seal(plain: bytes, *, size: int | None = None) -> bytes:
    sealer = Sealer(KEY, size=len(plain) if size is None else size, **PLACE)
    return sealer.start() + sealer.update(plain) + sealer.finalize()


def ranges_of(stored: bytes, **place: str) -> RangeOpener:
    return RangeOpener(KEY, head=stored[:HEAD_SIZE], stored_size=len(stored), **(PLACE | place))


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE, 50_000])
@pytest.mark.parametrize("stream", [False, True])
def test_every_kind_of_range(size: int, stream: bool) -> None:
    plain = content(size)
    stored = seal(plain, size=UNKNOWN_SIZE if stream else size)
    ranges = ranges_of(stored)
    assert ranges.size == size
    edges = {0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE, 40_000, size - 1, size}
    places = sorted(place for place in edges if 0 <= place <= size)
    for begin in places:
        for end in places:
            if begin <= end:
                offset, length = ranges.stored_range(begin, end - begin)
                assert offset + length <= len(stored)
                assert ranges.open(begin, end - begin, stored[offset : offset + length]) == plain[begin:end]


def test_no_more_is_read_than_the_chunks_of_the_range() -> None:
    ranges = ranges_of(seal(content(10 * CHUNK_SIZE)))
    assert ranges.stored_range(3 * CHUNK_SIZE, 1) == (HEAD_SIZE + 3 * SEALED_CHUNK_SIZE, SEALED_CHUNK_SIZE)
    assert ranges.stored_range(3 * CHUNK_SIZE - 1, 2) == (
        HEAD_SIZE + 2 * SEALED_CHUNK_SIZE,
        2 * SEALED_CHUNK_SIZE,
    )


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 101), (101, 0), (100, 1), (0, -1)])
def test_ranges_beyond_the_content_are_refused(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="not within 100"):
        ranges_of(seal(content(100))).stored_range(offset, length)


@pytest.mark.parametrize("place", range(HEAD_SIZE))
def test_a_changed_head_fails_at_once(place: int) -> None:
    stored = bytearray(seal(content(100)))
    stored[place] ^= 1
    with pytest.raises(AuthenticationError, match="home/data/x"):
        ranges_of(bytes(stored))


def test_another_place_fails_at_once() -> None:
    for place in ({"object_key": "home/data/y"}, {"section": "work"}, {"repository": "0" * 32}):
        with pytest.raises(AuthenticationError):
            ranges_of(seal(content(100)), **place)


@pytest.mark.parametrize("change", [-1, 1, -CHUNK_SIZE, SEALED_CHUNK_SIZE])
def test_another_length_than_announced_fails_at_once(change: int) -> None:
    stored = seal(content(20_000))
    with pytest.raises(AuthenticationError, match="its header says"):
        RangeOpener(KEY, head=stored[:HEAD_SIZE], stored_size=len(stored) + change, **PLACE)


def test_a_stream_cut_at_a_chunk_is_of_no_possible_length() -> None:
    stored = seal(content(20_000), size=UNKNOWN_SIZE)
    with pytest.raises(FormatError, match="truncated"):
        ranges_of(stored[: HEAD_SIZE + SEALED_CHUNK_SIZE])


def test_changed_and_exchanged_chunks_fail() -> None:
    stored = seal(content(3 * CHUNK_SIZE))
    ranges = ranges_of(stored)
    offset, length = ranges.stored_range(CHUNK_SIZE, 10)
    chunk = bytearray(stored[offset : offset + length])
    chunk[5] ^= 1
    with pytest.raises(AuthenticationError):
        ranges.open(CHUNK_SIZE, 10, chunk)
    with pytest.raises(AuthenticationError):
        ranges.open(CHUNK_SIZE, 10, stored[HEAD_SIZE : HEAD_SIZE + length])


@pytest.mark.parametrize("missing", [1, SEALED_CHUNK_SIZE])
def test_a_short_answer_is_refused(missing: int) -> None:
    stored = seal(content(3 * CHUNK_SIZE))
    ranges = ranges_of(stored)
    offset, length = ranges.stored_range(0, 2 * CHUNK_SIZE)
    with pytest.raises(AuthenticationError, match="were asked for"):
        ranges.open(0, 2 * CHUNK_SIZE, stored[offset : offset + length - missing])


def test_a_head_has_72_bytes() -> None:
    with pytest.raises(ValueError, match="72 bytes"):
        RangeOpener(KEY, head=b"", stored_size=100, **PLACE)
