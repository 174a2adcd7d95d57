"""Buffers that are used again: never while anybody views them, and no more than are to be kept."""

from __future__ import annotations

from asyncbackup.flow.buffers import IDLE_TAKES, SpareBuffers


def test_a_buffer_is_given_out_again_once_its_views_are_gone() -> None:
    spare = SpareBuffers(keep=2)
    for size in (1000, 1000, 800, 0, 1100):
        view = spare.take(size)
        assert len(view) == size
        view[:] = b"x" * size
        del view
    assert spare.made == 1


def test_a_part_of_a_view_keeps_the_buffer() -> None:
    spare = SpareBuffers(keep=1)
    part = spare.take(100)[10:20]
    part[:] = b"0123456789"
    spare.take(100)[:] = bytes(100)
    assert bytes(part) == b"0123456789"
    assert spare.made == 2
    del part
    spare.take(100)
    assert spare.made == 2


def test_no_two_views_share_a_buffer() -> None:
    spare = SpareBuffers(keep=2)
    views = [spare.take(10) for _ in range(4)]
    for number, view in enumerate(views):
        view[:] = bytes([number]) * 10
    assert [view[0] for view in views] == [0, 1, 2, 3]


def test_those_beyond_what_is_kept_are_made_anew() -> None:
    spare = SpareBuffers(keep=2)
    for made in (3, 4):
        views = [spare.take(10) for _ in range(3)]
        assert spare.made == made
        del views


def test_one_that_is_too_small_makes_way() -> None:
    spare = SpareBuffers(keep=1)
    spare.take(10)
    assert len(spare.take(1000)) == 1000
    spare.take(1000)
    assert spare.made == 2


def test_nothing_can_be_asked_for() -> None:
    spare = SpareBuffers(keep=1)
    assert [len(spare.take(size)) for size in (0, 0, 1)] == [0, 0, 1]


def test_one_that_is_not_needed_for_long_is_let_go() -> None:
    spare = SpareBuffers(keep=3)
    both = [spare.take(10), spare.take(10)]
    del both
    for _ in range(IDLE_TAKES * 3 - 1):
        spare.take(10)
    both = [spare.take(10), spare.take(10)]
    assert spare.made == 2, "now and then is often enough"
    del both
    for _ in range(IDLE_TAKES * 3 + 1):
        spare.take(10)
    both = [spare.take(10), spare.take(10)]
    assert (len(both), spare.made) == (2, 3)


def test_what_is_forgotten_stays_with_those_who_view_it() -> None:
    spare = SpareBuffers(keep=1)
    view = spare.take(10)
    view[:] = b"0123456789"
    spare.forget()
    spare.take(10)[:] = bytes(10)
    assert bytes(view) == b"0123456789"
    assert spare.made == 2
