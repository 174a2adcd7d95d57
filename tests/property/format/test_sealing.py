from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.errors import AuthenticationError
from asyncbackup.format.envelope import Opener, Sealer, context, sealed_size, unsealed_size
from asyncbackup.format.keyslots import RepositoryKey
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener
from tests.property.format.strategies import fixed
from tests.unit.format import independent_reader
from tests.unit.format.vectors import content

KEY = RepositoryKey(b"k" * 32)
REPOSITORY, SECTION, NAME = "8f14e45fceea167a5a36dedd4bea2543", "home", "home/data/x"
PLACE = {"repository": REPOSITORY, "section": SECTION, "object_key": NAME}

sizes = st.integers(0, 70_000) | st.builds(
    lambda chunks, off: max(0, chunks * 16384 + off), st.integers(0, 4), st.integers(-2, 2)
)
steps = st.integers(100, 40_000)


def seal(plain: bytes, step: int) -> bytes:
    sealer = Sealer(KEY, size=len(plain), **PLACE)
    stored = bytearray(sealer.start())
    for start in range(0, len(plain), step):
        stored += sealer.update(plain[start : start + step])
    return bytes(stored + sealer.finalize())


def opened(stored: bytes, step: int) -> bytes:
    opener = Opener(KEY, **PLACE)
    pieces = [opener.feed(stored[start : start + step]) for start in range(0, len(stored), step)]
    return b"".join(pieces) + opener.finish()


@fixed
@given(sizes, steps, steps)
def test_steps_do_not_matter(size: int, sealing: int, opening: int) -> None:
    plain = content(size)
    stored = seal(plain, sealing)
    assert len(stored) == sealed_size(size)
    assert unsealed_size(len(stored)) == size
    assert opened(stored, opening) == plain
    assert independent_reader.open_sealed(KEY.reveal(), REPOSITORY, SECTION, NAME, stored) == plain


@fixed
@given(sizes, st.data())
def test_any_range_is_that_of_the_content(size: int, data: st.DataObject) -> None:
    plain = content(size)
    stored = seal(plain, 1 << 20)
    begin = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - begin))
    ranges = RangeOpener(KEY, head=stored[:HEAD_SIZE], stored_size=len(stored), **PLACE)
    offset, count = ranges.stored_range(begin, length)
    assert ranges.open(begin, length, stored[offset : offset + count]) == plain[begin : begin + length]


@fixed
@given(st.integers(0, 40_000), st.data())
def test_any_edit_is_noticed(size: int, data: st.DataObject) -> None:
    stored = seal(content(size), 1 << 20)
    begin = data.draw(st.integers(0, len(stored)))
    end = data.draw(st.integers(begin, min(len(stored), begin + 20_000)))
    edited = stored[:begin] + data.draw(st.binary(max_size=40)) + stored[end:]
    if edited == stored:
        return
    with pytest.raises(AuthenticationError):
        opened(edited, len(edited) or 1)


fields = st.tuples(
    st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.binary(min_size=16, max_size=16)
)


@fixed
@given(fields, fields)
def test_contexts_are_equal_only_for_equal_fields(
    first: tuple[str, str, str, bytes], second: tuple[str, str, str, bytes]
) -> None:
    assert (context(*first) == context(*second)) == (first == second)
