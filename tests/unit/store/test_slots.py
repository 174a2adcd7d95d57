"""Request slots: fair, never leaked, and closing while the endpoint fails."""

from __future__ import annotations

import asyncio
import logging

import pytest

from asyncbackup.store.adaptive import ConcurrencyController
from asyncbackup.store.retry import TransientError
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


async def test_a_controller_opens_and_closes_slots_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="asyncbackup.store.slots")
    clock = VirtualClock()
    slots = RequestSlots(64, controller=ConcurrencyController(bound=64), name="http://endpoint", clock=clock)
    assert (slots.window, slots.load.size) == (16, 16)
    refused = TransientError("PutObject", "key", "planned", code="SlowDown")
    answered_at: list[int] = []

    async def use(seconds: float, failure: TransientError | None = None) -> None:
        began = await slots.acquire()
        await clock.sleep(seconds)
        slots.release(
            Outcome.TROUBLE if failure else Outcome.ANSWERED, began=began, size=1000, failure=failure
        )
        answered_at.append(slots.window)

    async def many(count: int, seconds: float, failure: TransientError | None = None) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(use(seconds, failure))

    await clock.run(many(16 * 8, 0.3))
    assert slots.window == slots.load.callers.size == 24
    assert slots.peak == 24
    await clock.run(use(0.3, refused))
    assert slots.window == slots.load.callers.size == 12
    assert [record.getMessage() for record in caplog.records] == [
        "http://endpoint: 24 requests at once instead of 16: more may come through",
        "http://endpoint: 12 requests at once instead of 24: halved: SlowDown",
    ]


async def test_what_failures_have_closed_stays_closed_when_the_controller_halves() -> None:
    clock = VirtualClock()
    slots = RequestSlots(64, controller=ConcurrencyController(bound=64), clock=clock, jitter=lambda: 0.0)
    refused = TransientError("PutObject", "key", "planned", code="SlowDown")
    broken = TransientError("PutObject", "key", "planned", code="ConnectionBroken")

    async def use(failure: TransientError | None) -> None:
        began = await slots.acquire()
        clock.advance(0.1)
        slots.release(Outcome.TROUBLE if failure else Outcome.ANSWERED, began=began, failure=failure)

    for _ in range(int(CREDIT)):
        await clock.run(use(broken))
    assert (slots.window, slots.limit) == (1, 16), "a broken connection says nothing of the load"
    await clock.run(use(refused))
    assert (slots.window, slots.limit) == (1, 8)
    for expected in (2, 3, 4, 5, 6, 7, 8, 8):
        await clock.run(use(None))
        assert slots.window == expected


async def test_what_is_held_back_is_timed() -> None:
    clock = VirtualClock()
    slots = RequestSlots(4, clock=clock)
    held = slots.load.held_back
    began = [await slots.acquire() for _ in range(2)]
    for _ in range(2):
        slots.back_off_began()
    clock.advance(1)
    assert held.seconds == 0, "as many are under way as wait"
    slots.back_off_began()
    clock.advance(2)
    assert held.seconds == 2
    slots.back_off_ended()
    clock.advance(4)
    assert held.seconds == 2
    slots.release(Outcome.ANSWERED, began=began[0])
    clock.advance(8)
    assert held.seconds == 10, "one is under way, two wait"
    slots.back_off_ended()
    slots.back_off_ended()
    slots.release(Outcome.ANSWERED, began=began[1])
    clock.advance(16)
    assert held.seconds == 10, "nothing waits"
    slots.pause(32)
    await clock.run(slots.acquire())
    assert held.seconds == 42, "the endpoint asked for it"


def test_a_controller_needs_as_many_slots_as_it_may_open() -> None:
    with pytest.raises(ValueError, match="opens up to 64"):
        RequestSlots(32, controller=ConcurrencyController(bound=64))
