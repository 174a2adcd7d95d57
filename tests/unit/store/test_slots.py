"""Request slots: fair, never leaked, and closing while the endpoint fails."""

from __future__ import annotations

import asyncio

import pytest

from asyncbackup.store.slots import CREDIT, Outcome, RequestSlots
from tests.unit.store.virtual_time import VirtualClock


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_first_come_first_served() -> None:
    slots = RequestSlots(2)
    order: list[int] = []

    async def use(number: int) -> None:
        await slots.acquire()
        order.append(number)
        await asyncio.sleep(0)
        slots.release(Outcome.ANSWERED)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(use(number))

    assert order == list(range(10))
    assert slots.peak == 2
    assert slots.in_use == 0


async def test_cancelled_waiters_leave_no_trace() -> None:
    slots = RequestSlots(1)
    await slots.acquire()
    waiters = [asyncio.ensure_future(slots.acquire()) for _ in range(3)]
    await _settle()
    waiters[0].cancel()
    await _settle()

    slots.release(Outcome.ANSWERED)  # Hands the slot to the second …
    waiters[1].cancel()  # … which is cancelled before it can take it.
    await _settle()

    assert [waiter.cancelled() for waiter in waiters[:2]] == [True, True]
    assert waiters[2].done()
    assert slots.in_use == 1
    slots.release(Outcome.ANSWERED)
    await slots.acquire()
    assert slots.in_use == 1


async def test_cancelling_the_holder_and_a_waiter_in_one_turn() -> None:
    slots = RequestSlots(1)
    await slots.acquire()
    waiter = asyncio.ensure_future(slots.acquire())
    await _settle()
    waiter.cancel()
    slots.release(Outcome.UNKNOWN)
    await _settle()
    assert slots.in_use == 0
    await asyncio.wait_for(slots.acquire(), 1)


async def test_trouble_closes_all_slots_but_one_and_success_opens_them() -> None:
    clock = VirtualClock()
    slots = RequestSlots(8, clock=clock, jitter=lambda: 1.0)

    async def one(outcome: Outcome) -> None:
        await slots.acquire()
        slots.release(outcome)

    for _ in range(int(CREDIT) - 1):
        await one(Outcome.TROUBLE)
    assert slots.window == 8
    await one(Outcome.TROUBLE)
    assert slots.window == 1

    spacings = []
    for _ in range(6):
        before = clock.now()
        await clock.run(one(Outcome.TROUBLE))
        spacings.append(clock.now() - before)
    assert spacings == pytest.approx([0.5, 1.0, 2.0, 4.0, 5.0, 5.0])

    for expected in (2, 3, 4, 5, 6, 7, 8, 8):
        await clock.run(one(Outcome.ANSWERED))
        assert slots.window == expected


async def test_a_call_that_was_given_up_says_nothing_about_the_endpoint() -> None:
    slots = RequestSlots(4)
    for _ in range(100):
        await slots.acquire()
        slots.release(Outcome.UNKNOWN)
    assert slots.window == 4


def test_there_is_at_least_one_slot() -> None:
    with pytest.raises(ValueError, match="at least one"):
        RequestSlots(0)
