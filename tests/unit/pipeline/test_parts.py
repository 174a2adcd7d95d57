"""Into which parts a large file is cut: S3's limits hold for every size."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncbackup.errors import SourceError
from asyncbackup.format.envelope import CHUNK_SIZE, sealed_size
from asyncbackup.pipeline.parts import (
    MAX_PARTS,
    MIN_PART_BYTES,
    SEALED_CHUNK_BYTES,
    PartPlan,
    plan_like,
    plan_parts,
)

MIB = 1024 * 1024
TIB = 2**40
LARGEST = 48 * TIB
"""Nearly the most that S3 takes: 10,000 parts of 5 GiB."""
NO_LIMIT = 2**63
MAX_PART_BYTES = 5 * 2**30

sizes = st.one_of(
    st.integers(1, LARGEST),
    st.integers(1, 200 * MIB),
    st.integers(-3, 3).map(lambda off: MAX_PARTS * 8 * MIB + off),
    st.integers(-3, 3).map(lambda off: MAX_PARTS * MIN_PART_BYTES + off),
)
part_sizes = st.integers(MIN_PART_BYTES, 64 * MIB)


def plan(size: int, *, sealed: bool, part_size: int = 8 * MIB, limit: int = NO_LIMIT) -> PartPlan:
    return plan_parts(size, sealed=sealed, part_size_bytes=part_size, limit_bytes=limit, path=b"f")


@given(size=sizes, part_size=part_sizes, sealed=st.booleans())
@example(size=MAX_PARTS * 8 * MIB, part_size=8 * MIB, sealed=False)
@example(size=MAX_PARTS * 8 * MIB + 1, part_size=8 * MIB, sealed=False)
@example(size=1, part_size=MIN_PART_BYTES, sealed=True)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_never_too_many_nor_too_small_nor_too_large_parts(size: int, part_size: int, sealed: bool) -> None:
    made = plan(size, sealed=sealed, part_size=part_size)
    stored = sealed_size(size) if sealed else size
    count = -(-stored // made.part_size)
    assert count <= MAX_PARTS
    assert made.part_size >= max(MIN_PART_BYTES, part_size)
    assert made.part_size <= MAX_PART_BYTES
    if count < MAX_PARTS // 2:
        assert made.part_size - part_size < MIB, "no larger than asked for without need"


@given(size=st.integers(1, 300 * MIB), part_size=part_sizes)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_is_read_at_once_becomes_one_part(size: int, part_size: int) -> None:
    """Plain: the very bytes. Sealed: whole chunks, so that all parts but the last are of one size and
    no read has to wait for the next to fill its part."""
    plain = plan(size, sealed=False, part_size=part_size)
    assert plain.read_size == plain.part_size
    sealed = plan(size, sealed=True, part_size=part_size)
    chunks, rest = divmod(sealed.part_size, SEALED_CHUNK_BYTES)
    assert rest == 0
    assert sealed.read_size == chunks * CHUNK_SIZE
    assert sealed.read_size <= sealed.part_size


@given(size=st.integers(1, LARGEST), limit=st.integers(MIN_PART_BYTES, 100 * MIB), sealed=st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_part_always_fits_the_budget_or_the_setting_to_raise_is_named(
    size: int, limit: int, sealed: bool
) -> None:
    needed = plan(size, sealed=sealed, part_size=MIN_PART_BYTES)
    if needed.read_size <= limit:
        assert plan(size, sealed=sealed, part_size=MIN_PART_BYTES, limit=limit) == needed
    else:
        with pytest.raises(SourceError, match="raise memory_limit") as caught:
            plan(size, sealed=sealed, part_size=MIN_PART_BYTES, limit=limit)
        assert caught.value.path == b"f"


def test_the_message_names_both_figures() -> None:
    with pytest.raises(SourceError) as caught:
        plan(10_000 * 100 * MIB, sealed=False, limit=64 * MIB)
    assert caught.value.reason == (
        "its 1,048,576,000,000 bytes need parts of 100 MiB, more than the 64 MiB that memory_limit "
        "leaves for one; raise memory_limit"
    )


@pytest.mark.parametrize("sealed", [False, True])
def test_usual_sizes_keep_the_part_size_that_was_asked_for(sealed: bool) -> None:
    in_chunks = -(-8 * MIB // SEALED_CHUNK_BYTES) * SEALED_CHUNK_BYTES
    assert plan(100 * MIB, sealed=sealed).part_size == (in_chunks if sealed else 8 * MIB)


@pytest.mark.parametrize(
    ("part_size", "size", "fits"),
    [
        (8 * MIB, 100 * MIB, True),
        (8 * MIB, 80_000 * MIB, True),
        (8 * MIB, 80_000 * MIB + 1, False),
        (5 * MIB, 100 * MIB, True),
        (5 * MIB - 1, 100 * MIB, False),
        (64 * MIB, 100 * MIB, True),
        (64 * MIB + 1, 100 * MIB, False),
    ],
)
def test_the_parts_of_an_earlier_object_are_kept_where_they_can_be(
    part_size: int, size: int, fits: bool
) -> None:
    kept = plan_like(part_size, size, limit_bytes=64 * MIB)
    assert kept == (PartPlan(part_size=part_size, read_size=part_size) if fits else None)
