"""Deadlines: one timer for all, and cancellations that stay what they are."""

from __future__ import annotations

import asyncio

import pytest

from asyncbackup.store.body import PIECE_BYTES
from asyncbackup.store.deadline import LOOKS, Deadline, Deadlines


class Loop:
    """Counts the timers that are set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timers = 0
        loop = asyncio.get_running_loop()
        real = loop.call_later

        def call_later(delay: float, callback: object, *args: object, **options: object) -> object:
            self.timers += 1
            return real(delay, callback, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(loop, "call_later", call_later, raising=False)


async def hold_up(deadlines: Deadlines, seconds: float) -> None:
    with Deadline(deadlines, seconds):
        await asyncio.Event().wait()


async def test_what_is_held_up_ends_with_a_time_out() -> None:
    deadlines = Deadlines(shortest_seconds=0.05)
    with pytest.raises(TimeoutError):
        await hold_up(deadlines, 0.05)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_request_sets_no_timer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch)
    deadlines = Deadlines(shortest_seconds=60.0)
    for _ in range(1000):
        with Deadline(deadlines, 60.0, size=5 * PIECE_BYTES) as deadline:
            deadline.progress()
    assert loop.timers == 1


async def test_each_ends_at_its_own_time() -> None:
    deadlines = Deadlines(shortest_seconds=0.05)
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def timed(seconds: float) -> float:
        with pytest.raises(TimeoutError):
            await hold_up(deadlines, seconds)
        return loop.time() - began

    early, late = await asyncio.gather(timed(0.05), timed(0.2))
    assert 0.05 <= early < late
    assert late >= 0.2


async def test_after_all_have_ended_the_next_is_watched_again() -> None:
    deadlines = Deadlines(shortest_seconds=0.01)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await hold_up(deadlines, 0.01)
        await asyncio.sleep(0.01 / LOOKS * 3)  # the timer finds nothing, and is not set again


async def test_a_cancellation_from_elsewhere_is_one() -> None:
    deadlines = Deadlines(shortest_seconds=60.0)
    task = asyncio.create_task(hold_up(deadlines, 60.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_comes_with_the_time_out_goes_on() -> None:
    deadlines = Deadlines(shortest_seconds=60.0)
    started: list[Deadline] = []

    async def held_up() -> None:
        with Deadline(deadlines, 60.0) as deadline:
            started.append(deadline)
            await asyncio.Event().wait()

    task = asyncio.create_task(held_up())
    await asyncio.sleep(0)
    started[0].expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_that_comes_with_the_time_out_is_told() -> None:
    deadlines = Deadlines(shortest_seconds=60.0)

    async def fails() -> None:
        with Deadline(deadlines, 60.0) as deadline:
            deadline.expire()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                raise ZeroDivisionError from None

    with pytest.raises(ZeroDivisionError):
        await fails()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
