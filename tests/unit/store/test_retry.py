"""The retry policy, and what a whole store sends while its endpoint fails: all on a virtual clock."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import ObjectMissingError, StoreError
from asyncbackup.store.body import PIECE_BYTES
from asyncbackup.store.retry import RetryPolicy, TransientError
from asyncbackup.store.s3_requests import SLOWEST_BYTES_PER_SECOND, S3Requests
from asyncbackup.store.slots import RequestSlots
from tests.unit.store.virtual_time import VirtualClock

if TYPE_CHECKING:
    from asyncbackup.store.deadline import Deadline


def failure(*, retry_after: float = 0.0, unreachable: bool = False) -> TransientError:
    return TransientError(
        "PutObject",
        "key",
        "planned",
        code="SlowDown",
        retry_after_seconds=retry_after,
        unreachable=unreachable,
    )


def test_delays_grow_and_are_capped() -> None:
    shortest = RetryPolicy(jitter=lambda: 0.0)
    longest = RetryPolicy(jitter=lambda: 1.0)

    assert [round(longest.delay(attempt), 2) for attempt in range(1, 8)] == [0.2, 0.6, 1.8, 5.4, 16.2, 20, 20]
    for attempt in range(1, 8):
        assert shortest.delay(attempt) == longest.delay(attempt) / 2
    assert sum(shortest.delay(attempt) for attempt in range(1, 8)) > 30, "an outage of 30 s is outlasted"


def test_what_the_endpoint_asks_for_is_a_minimum_and_bounded() -> None:
    policy = RetryPolicy(jitter=lambda: 1.0)
    assert policy.delay(1, retry_after_seconds=7.0) == 7.0
    assert policy.delay(6, retry_after_seconds=7.0) == 20.0
    assert policy.delay(1, retry_after_seconds=1e9) == policy.retry_after_cap_seconds


class Harness:
    """An endpoint that fails while ``failing(now)`` says so, answering after 20 ms."""

    def __init__(self, *, concurrency: int, seed: int = 1, max_attempts: int = 8) -> None:
        source = random.Random(seed)
        self.clock = VirtualClock()
        self.told: list[str] = []
        self.slots = RequestSlots(concurrency, clock=self.clock, jitter=source.random)
        self.requests = S3Requests(
            slots=self.slots,
            policy=RetryPolicy(max_attempts=max_attempts, jitter=source.random),
            timeout_seconds=60.0,
            clock=self.clock,
            on_retry=self.told.append,
        )
        self.outage = (0.0, 0.0)
        self.retry_after = 0.0
        self.sent_at: list[float] = []

    async def put(self, number: int = 0) -> int:
        async def send(_: Deadline) -> int:
            self.sent_at.append(self.clock.now())
            await self.clock.sleep(0.02)
            if self.outage[0] <= self.clock.now() < self.outage[1]:
                raise failure(retry_after=self.retry_after)
            return number

        return await self.requests.run("PutObject", f"key {number}", send)

    async def put_all(self, count: int, *, workers: int) -> None:
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                assert await self.put(number) == number

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("concurrency", "workers"), [(1, 1), (4, 4), (16, 16), (16, 64), (32, 32)])
async def test_a_storm_of_30_seconds_costs_few_requests(concurrency: int, workers: int, seed: int) -> None:
    harness = Harness(concurrency=concurrency, seed=seed)
    start = harness.clock.now()
    harness.outage = (start + 0.1, start + 30.1)

    await harness.clock.run(harness.put_all(400, workers=workers))

    sent = harness.requests.counts["PutObject"]
    assert sent == len(harness.sent_at)
    assert 400 < sent <= 400 * 1.3, f"{sent} requests"
    assert harness.slots.window == concurrency, "when all is well again all slots are open"
    assert harness.slots.in_use == 0
    assert harness.clock.now() < start + 30.5 + 60


async def test_a_server_that_fails_now_and_then_is_not_held_back() -> None:
    harness = Harness(concurrency=8)
    fails = random.Random(3)

    async def send(_: Deadline) -> None:
        await harness.clock.sleep(0.02)
        if fails.random() < 0.05:
            raise failure()

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(400):
                group.create_task(harness.requests.run("PutObject", f"{number}", send))

    await harness.clock.run(work())

    assert harness.slots.window == 8
    assert harness.requests.counts["PutObject"] < 400 * 1.1


async def test_an_endpoint_that_stays_away_is_given_up() -> None:
    harness = Harness(concurrency=1)
    harness.outage = (0.0, float("inf"))

    with pytest.raises(StoreError, match=r"planned \(given up after 8 attempts\)") as caught:
        await harness.clock.run(harness.put())

    assert caught.value.retryable
    assert caught.value.code == "SlowDown"
    assert len(harness.sent_at) == 8
    assert harness.requests.retries == len(harness.told) == 7
    assert "attempt 2 of 8" in harness.told[0]


async def test_an_address_that_never_answered_is_given_up_at_once() -> None:
    harness = Harness(concurrency=1)

    async def nobody(_: Deadline) -> None:
        raise failure(unreachable=True)

    with pytest.raises(StoreError, match="given up after 2 attempts"):
        await harness.clock.run(harness.requests.run("PutObject", "key", nobody))
    assert await harness.clock.run(harness.put(5)) == 5
    with pytest.raises(StoreError, match="given up after 8 attempts"):
        await harness.clock.run(harness.requests.run("PutObject", "key", nobody))


async def test_final_errors_are_not_repeated() -> None:
    harness = Harness(concurrency=1)
    calls = []

    async def missing(_: Deadline) -> None:
        calls.append(1)
        raise ObjectMissingError("GetObject", "key", "there is no such object")

    with pytest.raises(ObjectMissingError):
        await harness.clock.run(harness.requests.run("GetObject", "key", missing))
    assert len(calls) == 1
    assert harness.slots.in_use == 0


async def test_retry_after_holds_everybody_back() -> None:
    harness = Harness(concurrency=4)
    start = harness.clock.now()
    harness.outage, harness.retry_after = (start, start + 0.03), 9.0

    await harness.clock.run(harness.put_all(8, workers=4))

    assert [at for at in harness.sent_at if start + 0.03 < at < start + 9.0] == []
    assert len(harness.sent_at) == 12


async def test_no_slot_is_held_while_waiting_to_try_again() -> None:
    harness = Harness(concurrency=1)
    seen: list[int] = []

    async def fails_once(_: Deadline) -> None:
        if not seen:
            seen.append(harness.slots.in_use)
            raise failure()

    async def watch() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(harness.requests.run("PutObject", "first", fails_once))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert seen == [1]
            seen.append(harness.slots.in_use)
            group.create_task(harness.put(2))

    await harness.clock.run(watch())
    assert seen == [1, 0]
    assert len(harness.clock.slept) == 2


async def test_a_deadline_moves_on_with_progress() -> None:
    requests = S3Requests(slots=RequestSlots(1), policy=RetryPolicy(max_attempts=1), timeout_seconds=0.2)
    loop = asyncio.get_running_loop()

    async def slow_but_moving(deadline: Deadline) -> float:
        started = loop.time()
        for _ in range(8):
            await asyncio.sleep(0.05)
            deadline.progress()
        return loop.time() - started

    assert await requests.run("PutObject", "key", slow_but_moving) >= 0.4

    async def stuck(_: Deadline) -> None:
        await asyncio.Event().wait()

    with pytest.raises(StoreError, match="no answer for 0 s"):
        await requests.run("PutObject", "key", stuck)
    assert requests.slots.in_use == 0


async def test_a_body_that_stands_still_is_noticed_before_an_answer_that_is_late() -> None:
    """What the kernel has buffered of a whole body takes its time; a body that does not move has none."""
    requests = S3Requests(slots=RequestSlots(1), policy=RetryPolicy(max_attempts=1), timeout_seconds=0.2)
    loop = asyncio.get_running_loop()
    pieces = 4

    async def stand_still(deadline: Deadline) -> None:
        for _ in range(pieces - 1):
            deadline.progress()
        await asyncio.Event().wait()

    started = loop.time()
    with pytest.raises(StoreError, match="no answer for 0 s"):
        await requests.run("PutObject", "key", stand_still, size=pieces * PIECE_BYTES)
    assert loop.time() - started >= 0.2

    when: list[float] = []

    async def all_taken(deadline: Deadline) -> None:
        for _ in range(pieces):
            deadline.progress()
        when.append(deadline.waited_for)

    await requests.run("PutObject", "key", all_taken, size=pieces * PIECE_BYTES)
    assert when == [pytest.approx(0.2 + pieces * PIECE_BYTES / SLOWEST_BYTES_PER_SECOND)]
