"""Slots of a shared memory: taken as long as anything views them."""

from __future__ import annotations

import mmap

from asyncbackup.flow.shared_slots import SharedSlots, Slot

SLOT_BYTES = 4096


def test_a_slot_is_free_again_when_nobody_views_it() -> None:
    slots = SharedSlots(mmap.mmap(-1, 2 * SLOT_BYTES), slot_bytes=SLOT_BYTES)
    first, second = slots.take(10), slots.take(SLOT_BYTES)
    assert isinstance(first, Slot)
    assert isinstance(second, Slot)
    assert (first.offset, len(first.view)) == (0, 10)
    assert (second.offset, len(second.view)) == (SLOT_BYTES, SLOT_BYTES)
    assert slots.take(1) is None
    part = first.view[2:5]
    del first
    assert slots.take(1) is None
    del part
    third = slots.take(20)
    assert third is not None
    assert (third.offset, len(third.view)) == (0, 20)


def test_what_is_written_is_seen_in_the_memory() -> None:
    memory = mmap.mmap(-1, 2 * SLOT_BYTES)
    slots = SharedSlots(memory, slot_bytes=SLOT_BYTES)
    taken = [slots.take(5), slots.take(5)]
    assert taken[1] is not None
    taken[1].view[:] = b"hello"
    assert memory[SLOT_BYTES : SLOT_BYTES + 5] == b"hello"
    memory[SLOT_BYTES] = ord("j")
    assert bytes(taken[1].view) == b"jello"


def test_what_is_larger_than_a_slot_has_no_place() -> None:
    slots = SharedSlots(mmap.mmap(-1, SLOT_BYTES), slot_bytes=SLOT_BYTES)
    assert slots.take(SLOT_BYTES + 1) is None
    assert slots.take(SLOT_BYTES) is not None


def test_nothing_at_all_takes_a_slot_too() -> None:
    slots = SharedSlots(mmap.mmap(-1, SLOT_BYTES), slot_bytes=SLOT_BYTES)
    taken = slots.take(0)
    assert taken is not None
    assert len(taken.view) == 0
