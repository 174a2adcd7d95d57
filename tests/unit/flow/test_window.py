"""Places whose number changes: fair, never leaked, never more holders than were allowed when they came."""

from __future__ import annotations

import asyncio

import pytest

from asyncbackup.flow.window import Window
from tests.unit.flow.turns import settle


async def test_a_window_that_grows_lets_those_in_who_wait() -> None:
    window = Window(1)
    entered: list[int] = []

    async def enter(number: int) -> None:
        await window.acquire()
        entered.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(enter(number))
        await settle()
        assert entered == [0]
        window.resize(3)
        await settle()
        assert entered == [0, 1, 2]
        assert window.peak == window.in_use == 3
        window.release()
    assert entered == [0, 1, 2, 3]


async def test_a_window_that_shrinks_takes_no_place_away() -> None:
    window = Window(3)
    for _ in range(3):
        await window.acquire()
    window.resize(1)
    waiting = asyncio.create_task(window.acquire())
    for left in (2, 1):
        window.release()
        await settle()
        assert window.in_use == left
        assert not waiting.done(), "there are still as many holders as places"
    window.release()
    await waiting
    assert window.in_use == 1


async def test_cancelled_waiters_leave_no_trace() -> None:
    window = Window(1)
    await window.acquire()
    waiters = [asyncio.create_task(window.acquire()) for _ in range(3)]
    await settle()
    waiters[0].cancel()
    await settle()
    window.release()  # Hands the place to the second …
    waiters[1].cancel()  # … which is cancelled before it can take it.
    await settle()
    assert [waiter.cancelled() for waiter in waiters[:2]] == [True, True]
    await waiters[2]
    assert window.in_use == 1


async def test_a_newcomer_does_not_pass_those_who_wait() -> None:
    window = Window(1)
    await window.acquire()
    first = asyncio.create_task(window.acquire())
    await settle()
    window.release()
    second = asyncio.create_task(window.acquire())
    await settle()
    assert (first.done(), second.done()) == (True, False)
    window.release()
    await second


def test_there_is_at_least_one_place() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Window(0)
    window = Window(2)
    window.resize(0)
    assert window.size == 1
