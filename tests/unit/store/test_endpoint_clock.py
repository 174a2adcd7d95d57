"""The endpoint's time, by what its refusals tell."""

from __future__ import annotations

from asyncbackup.store.endpoint_clock import TOLERANCE_SECONDS, EndpointClock


def test_a_difference_that_matters_is_taken_over_once() -> None:
    machine = 1000.0
    clock = EndpointClock(lambda: machine)
    assert clock.now() == 1000
    assert not clock.correct(1000 + TOLERANCE_SECONDS - 1, seen=0)
    assert not clock.correct(0.0, seen=0), "the answer told no time"
    assert (clock.now(), clock.generation) == (1000, 0)

    assert clock.correct(8200.0, seen=0)
    assert (clock.now(), clock.generation) == (8200, 1)
    assert clock.correct(8200.0, seen=0), "that was signed before"
    assert clock.generation == 1
    assert not clock.correct(8200.0, seen=1), "that was signed with it, and is refused for another reason"
    machine = 1010.0
    assert clock.now() == 8210


def test_a_machine_whose_clock_is_set_meanwhile() -> None:
    machine = 1000.0
    clock = EndpointClock(lambda: machine)
    assert clock.correct(8200.0, seen=0)
    machine = 8300.0
    assert clock.now() == 15500
    assert clock.correct(8300.0, seen=1)
    assert clock.now() == 8300
