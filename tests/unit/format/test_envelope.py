from __future__ import annotations

import pytest

from asyncbackup.errors import AuthenticationError, FormatError
from asyncbackup.format.envelope import (
    CHUNK_SIZE,
    HEADER_SIZE,
    MAGIC,
    MAX_SIZE,
    PREAMBLE_SIZE,
    SEALED_CHUNK_SIZE,
    UNKNOWN_SIZE,
    Opener,
    Sealer,
    context,
    sealed_size,
    unsealed_size,
)
from asyncbackup.format.keyslots import RepositoryKey, new_master_key
from tests.unit.format import independent_reader
from tests.unit.format.vectors import content

KEY = RepositoryKey(b"k" * 32)
PLACE = {"repository": "8f14e45fceea167a5a36dedd4bea2543", "section": "home", "object_key": "home/data/x"}
SIZES = [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE, 33_000]
HEAD = HEADER_SIZE + PREAMBLE_SIZE


def seal(plain: bytes, *, size: int | None = None, key: RepositoryKey = KEY, **place: str) -> bytes:
    sealer = Sealer(key, size=len(plain) if size is None else size, **(PLACE | place))
    return sealer.start() + sealer.update(plain) + sealer.finalize()


def opened(stored: bytes, *, key: RepositoryKey = KEY, step: int = 1 << 20, **place: str) -> bytes:
    opener = Opener(key, **(PLACE | place))
    pieces = [opener.feed(stored[start : start + step]) for start in range(0, len(stored), step)]
    return b"".join(pieces) + opener.finish()


def read_into(given: bytearray, opener: Opener, stored: bytes, *, step: int = 1000) -> None:
    """Opens ``stored`` in small pieces, so that everything that may come out does come out."""
    for start in range(0, len(stored), step):
        given += opener.feed(stored[start : start + step])
    given += opener.finish()


def given_out_before_failure(stored: bytes, **place: str) -> bytes:
    where = PLACE | place
    given = bytearray()
    with pytest.raises(AuthenticationError) as caught:
        read_into(given, Opener(KEY, **where), stored)
    assert repr(where["object_key"]) in str(caught.value)
    return bytes(given)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [997, CHUNK_SIZE, SEALED_CHUNK_SIZE, 1 << 20])
def test_what_was_sealed_opens(size: int, step: int) -> None:
    plain = content(size)
    sealer = Sealer(KEY, size=size, **PLACE)
    stored = bytearray(sealer.start())
    for start in range(0, size, step):
        stored += sealer.update(plain[start : start + step])
    stored += sealer.finalize()
    assert len(stored) == sealed_size(size)
    assert unsealed_size(len(stored)) == size
    assert stored[:HEADER_SIZE] == MAGIC + size.to_bytes(8, "big")
    assert opened(bytes(stored), step=step) == plain


@pytest.mark.parametrize("size", SIZES)
def test_the_independent_reader_opens_what_was_sealed(size: int) -> None:
    assert independent_reader.open_sealed(
        KEY.reveal(), PLACE["repository"], PLACE["section"], PLACE["object_key"], seal(content(size))
    ) == content(size)


def test_one_byte_at_a_time() -> None:
    plain = content(20_000)
    assert opened(seal(plain), step=1) == plain


def test_buffers_of_every_kind() -> None:
    plain = content(40_000)
    sealer = Sealer(KEY, size=len(plain), **PLACE)
    room = bytearray(sealer.room_for(len(plain)))
    count = sealer.update_into(memoryview(plain), memoryview(room))
    stored = sealer.start() + room[:count] + sealer.finalize()
    opener = Opener(KEY, **PLACE)
    assert opener.feed(memoryview(stored)) + opener.finish() == plain


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, 5 * CHUNK_SIZE + 3])
def test_room_for_is_enough_at_every_fill(size: int) -> None:
    for before in (0, 1, CHUNK_SIZE - 1):
        sealer = Sealer(KEY, size=before + size, **PLACE)
        sealer.update(content(before))
        sealer.update_into(content(size), bytearray(sealer.room_for(size)))


def test_a_buffer_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer"):
        Sealer(KEY, size=CHUNK_SIZE, **PLACE).update_into(content(CHUNK_SIZE), bytearray(CHUNK_SIZE))


def test_the_same_content_is_never_sealed_alike() -> None:
    first, second = seal(content(100)), seal(content(100))
    assert first[:HEADER_SIZE] == second[:HEADER_SIZE]
    assert first[HEADER_SIZE : HEADER_SIZE + 24] != second[HEADER_SIZE : HEADER_SIZE + 24]
    assert first[HEAD:] != second[HEAD:]


def test_a_stream_needs_no_size() -> None:
    plain = content(33_000)
    stored = seal(plain, size=UNKNOWN_SIZE)
    opener = Opener(KEY, **PLACE)
    assert opener.feed(stored) + opener.finish() == plain
    assert opener.size is None


def test_size_is_told_only_once_it_is_authentic() -> None:
    stored = seal(content(20_000))
    opener = Opener(KEY, **PLACE)
    for place in range(HEAD):
        opener.feed(stored[place : place + 1])
        assert opener.size == (20_000 if place == HEAD - 1 else None)


@pytest.mark.parametrize(("announced", "given"), [(10, 11), (0, 1), (CHUNK_SIZE, CHUNK_SIZE + 1)])
def test_more_than_announced_is_refused(announced: int, given: int) -> None:
    with pytest.raises(ValueError, match=f"{announced} bytes were announced"):
        seal(content(given), size=announced)


@pytest.mark.parametrize(("announced", "given"), [(10, 9), (1, 0), (CHUNK_SIZE + 1, CHUNK_SIZE)])
def test_less_than_announced_is_refused(announced: int, given: int) -> None:
    with pytest.raises(ValueError, match=f"{announced} bytes were announced and {given} sealed"):
        seal(content(given), size=announced)


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(ValueError, match="cannot be sealed"):
        Sealer(KEY, size=size, **PLACE)
    with pytest.raises(ValueError, match="cannot be sealed"):
        sealed_size(size)


def test_the_largest_size_is_the_specification_s() -> None:
    assert sealed_size(MAX_SIZE) == HEAD + MAX_SIZE + 2**38 * 16


@pytest.mark.parametrize("stored", [0, 16, 72, 87, HEAD + SEALED_CHUNK_SIZE, HEAD + SEALED_CHUNK_SIZE + 15])
def test_lengths_that_no_sealed_object_has(stored: int) -> None:
    with pytest.raises(FormatError, match="truncated or extended"):
        unsealed_size(stored)


@pytest.mark.parametrize("size", [33_000, UNKNOWN_SIZE])
def test_one_bit_flipped_in_any_byte_fails(size: int) -> None:
    """And nothing of the chunk that it is in, or of a later one, was given out before."""
    plain = content(33_000)
    stored = bytearray(seal(plain, size=size))
    for place in range(len(stored)):
        stored[place] ^= 1 << (place % 8)
        opener = Opener(KEY, **PLACE)
        given = b""
        try:
            given = opener.feed(stored[: HEAD + SEALED_CHUNK_SIZE])
            given += opener.feed(stored[HEAD + SEALED_CHUNK_SIZE : HEAD + 2 * SEALED_CHUNK_SIZE])
            given += opener.feed(stored[HEAD + 2 * SEALED_CHUNK_SIZE :])
            given += opener.finish()
        except AuthenticationError:
            chunk = max(0, place - HEAD) // SEALED_CHUNK_SIZE
            assert given == plain[: chunk * CHUNK_SIZE]
        else:
            pytest.fail(f"a flipped bit in byte {place} went unnoticed")
        stored[place] ^= 1 << (place % 8)
    assert opened(bytes(stored)) == plain


@pytest.mark.parametrize("size", [33_000, UNKNOWN_SIZE])
def test_cut_around_every_boundary_fails(size: int) -> None:
    plain = content(33_000)
    stored = seal(plain, size=size)
    boundaries = [0, 8, HEADER_SIZE, HEADER_SIZE + 24, HEAD, HEAD + 16]
    boundaries += [HEAD + number * SEALED_CHUNK_SIZE for number in (1, 2)] + [len(stored)]
    cuts = {cut + off for cut in boundaries for off in (-1, 0, 1) if 0 <= cut + off < len(stored)}
    assert len(cuts) > 20
    for cut in sorted(cuts):
        assert plain.startswith(given_out_before_failure(stored[:cut]))


@pytest.mark.parametrize("size", [2 * CHUNK_SIZE, 33_000])
@pytest.mark.parametrize("stream", [False, True])
def test_extended_anywhere_fails(size: int, stream: bool) -> None:
    plain = content(size)
    stored = seal(plain, size=UNKNOWN_SIZE if stream else size)
    for added in (1, 15, 16, 17, SEALED_CHUNK_SIZE - 1, SEALED_CHUNK_SIZE, SEALED_CHUNK_SIZE + 1):
        given_out_before_failure(stored + b"\0" * added)
        given_out_before_failure(stored + stored[HEAD : HEAD + added])
    for place in (0, 8, HEADER_SIZE, HEAD, HEAD + SEALED_CHUNK_SIZE, HEAD + 2 * SEALED_CHUNK_SIZE):
        for off in (-1, 0, 1):
            if place + off >= 0:
                cut = place + off
                given_out_before_failure(stored[:cut] + b"\0" + stored[cut:])


def test_chunks_dropped_doubled_or_exchanged_fail() -> None:
    stored = seal(content(33_000))
    head, body = stored[:HEAD], stored[HEAD:]
    first, second, last = (
        body[:SEALED_CHUNK_SIZE],
        body[SEALED_CHUNK_SIZE : 2 * SEALED_CHUNK_SIZE],
        body[32800:],
    )
    for chunks in (
        [second, last],
        [first, last],
        [first, second],
        [first, first, last],
        [second, first, last],
        [first, second, second, last],
        [last],
    ):
        given_out_before_failure(head + b"".join(chunks))


def test_objects_stand_for_nothing_but_themselves() -> None:
    plain = content(100)
    stored = seal(plain)
    places: list[dict[str, str]] = [
        {"object_key": "home/data/y"},
        {"section": "work"},
        {"repository": "0" * 32},
        {"section": "", "object_key": "home/data/xhome"},
    ]
    for place in places:
        assert given_out_before_failure(stored, **place) == b""
    with pytest.raises(AuthenticationError):
        Opener(new_master_key(), **PLACE).feed(stored)


def test_parts_of_two_objects_do_not_mix() -> None:
    """Also two sealings of one content for one key: each has its own keys."""
    first, second = seal(content(33_000)), seal(content(33_000))
    given_out_before_failure(first[:HEAD] + second[HEAD:])
    cut = HEAD + SEALED_CHUNK_SIZE
    assert given_out_before_failure(first[:cut] + second[cut:]) == content(CHUNK_SIZE)


def test_context_frames_every_field() -> None:
    header = MAGIC + b"\0" * 8
    fields = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("", "ab", "c"), ("", "", "abc")]
    assert len({context(*names, header) for names in fields}) == len(fields)


def test_a_newer_version_is_said_to_be_one() -> None:
    stored = bytearray(seal(b"x"))
    stored[7] = 2
    with pytest.raises(AuthenticationError, match="sealed in version 2"):
        opened(bytes(stored))


def test_a_failed_opener_stays_failed() -> None:
    stored = bytearray(seal(content(33_000)))
    stored[HEAD] ^= 1
    opener = Opener(KEY, **PLACE)
    with pytest.raises(AuthenticationError):
        opener.feed(stored)
    with pytest.raises(AuthenticationError):
        opener.feed(b"")
    with pytest.raises(AuthenticationError):
        opener.finish()
