from __future__ import annotations

import tracemalloc

import pytest

from asyncbackup.errors import AuthenticationError, FormatError
from asyncbackup.format.envelope import CHUNK_SIZE, SEALED_CHUNK_SIZE, UNKNOWN_SIZE, Sealer
from asyncbackup.format.keyslots import RepositoryKey
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener, RangeStream, SpanReader
from asyncbackup.format.stretch import Stretch
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


EDGES = (0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE, 40_000, 50_000)


@pytest.mark.parametrize(("begin", "end"), [(begin, end) for begin in EDGES for end in EDGES if begin <= end])
@pytest.mark.parametrize("step", [1000, SEALED_CHUNK_SIZE, 100_000])
def test_a_range_as_it_arrives(begin: int, end: int, step: int) -> None:
    plain = content(50_000)
    stored = seal(plain)
    opener = ranges_of(stored)
    offset, length = opener.stored_range(begin, end - begin)
    stream = RangeStream(opener, begin, end - begin)
    opened = b"".join(
        stream.feed(stored[start : min(start + step, offset + length)])
        for start in range(offset, offset + length, step)
    )
    assert opened + stream.finish() == plain[begin:end]


def test_a_range_that_is_cut_or_changed_on_the_way() -> None:
    stored = seal(content(50_000))
    opener = ranges_of(stored)
    offset, length = opener.stored_range(100, 40_000)
    whole = stored[offset : offset + length]
    stream = RangeStream(opener, 100, 40_000)
    stream.feed(whole[: 2 * SEALED_CHUNK_SIZE])
    with pytest.raises(AuthenticationError, match=r"home/data/x.*ends \d+ bytes early"):
        stream.finish()
    with pytest.raises(AuthenticationError, match="home/data/x"):
        RangeStream(opener, 100, 40_000).feed(bytes([whole[0] ^ 1]) + whole[1:])
    stream = RangeStream(opener, 100, 40_000)
    stream.feed(whole[:-1])
    with pytest.raises(AuthenticationError, match="home/data/x"):
        stream.finish()


@pytest.mark.parametrize("step", [1000, SEALED_CHUNK_SIZE, 10**6])
def test_members_of_a_span_fail_alone(step: int) -> None:
    plain = content(10 * CHUNK_SIZE + 77)
    stored = seal(plain)
    opener = ranges_of(stored)
    begin, size = CHUNK_SIZE + 500, len(plain) - CHUNK_SIZE - 500
    offset, length = opener.stored_range(begin, size)
    span = bytearray(stored[offset : offset + length])
    span[4 * SEALED_CHUNK_SIZE] ^= 1  # chunk 5 of the object
    pieces = [span[start : start + step] for start in range(0, length, step)]
    reader = SpanReader(opener, begin, size, Stretch(pieces))
    assert reader.read(begin, 100) == plain[begin : begin + 100]
    assert not reader.read(begin, 0)
    assert reader.read(begin + 100, 3 * CHUNK_SIZE) == plain[begin + 100 : begin + 100 + 3 * CHUNK_SIZE]
    with pytest.raises(AuthenticationError, match="home/data/x"):
        reader.read(4 * CHUNK_SIZE + 100, CHUNK_SIZE)
    assert reader.read(4 * CHUNK_SIZE + 100, 10) == plain[4 * CHUNK_SIZE + 100 : 4 * CHUNK_SIZE + 110]
    assert reader.read(6 * CHUNK_SIZE, 10) == plain[6 * CHUNK_SIZE : 6 * CHUNK_SIZE + 10]
    assert reader.read(begin + size - 80, 80) == plain[-80:]
    with pytest.raises(ValueError, match="belong to this range"):
        SpanReader(opener, begin, size, Stretch([span[:-1]]))


def test_a_span_opens_each_chunk_once_and_into_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = content(40 * CHUNK_SIZE)
    stored = seal(plain)
    opener = ranges_of(stored)
    offset, length = opener.stored_range(0, len(plain))
    opened: list[int] = []
    open_chunk_into = RangeOpener.open_chunk_into

    def counted(self: RangeOpener, number: int, stored: memoryview, content: memoryview) -> None:
        opened.append(number)
        open_chunk_into(self, number, stored, content)

    monkeypatch.setattr(RangeOpener, "open_chunk_into", counted)
    reader = SpanReader(opener, 0, len(plain), Stretch([stored[offset : offset + length]]))
    step = 5 * CHUNK_SIZE - 1000
    reader.read(0, step)
    tracemalloc.start()
    for begin in range(step, len(plain) - step, step):
        assert reader.read(begin, step) == plain[begin : begin + step]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * (step + 2 * CHUNK_SIZE)
    assert opened == sorted(set(opened))
