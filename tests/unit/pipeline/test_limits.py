"""What is said to have limited a run."""

from __future__ import annotations

import asyncio

import pytest

from asyncbackup import limits
from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.channel import Sender, open_channel
from asyncbackup.limits import LimitSampler
from asyncbackup.model import Change, RunCounters
from tests.unit.flow.turns import settle


class Queue:
    payloads_waiting = 0


class Bench:
    def __init__(self) -> None:
        self.budget = ByteBudget(10)
        self.counters = RunCounters()
        self.queue = Queue()
        self.sender: Sender[list[Change]]
        self.sender, receiver = open_channel("changes", 10)
        self.sampler = LimitSampler(self.budget, self.counters)
        self.sampler.watch(receiver, self.queue)

    def cause(self, *, busy: float = 0.1, throttled: bool = False) -> str:
        return self.sampler._cause(busy=busy, throttled=throttled)


async def test_each_cause() -> None:
    bench = Bench()
    assert bench.cause() == limits.WALK
    await bench.sender.send([])
    assert bench.cause() == limits.READ
    await bench.budget.acquire(8)
    assert bench.cause() == limits.READ
    waiting = asyncio.create_task(bench.budget.acquire(8))
    await settle()
    assert bench.cause() == limits.BUDGET
    bench.queue.payloads_waiting = 1
    assert bench.cause() == limits.LATENCY
    assert bench.cause(busy=0.9) == limits.CPU
    assert bench.cause(busy=0.9, throttled=True) == limits.THROTTLING
    waiting.cancel()


async def test_the_last_requests_are_latency_not_the_walk() -> None:
    bench = Bench()
    await bench.budget.acquire(8)
    assert bench.cause() == limits.LATENCY


def test_before_the_first_look_it_was_the_walk() -> None:
    bench = Bench()
    assert bench.sampler.limited_by == limits.WALK
    assert bench.sampler.shares == {}


async def test_shares_add_up_and_the_most_frequent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SAMPLE_SECONDS", 0)
    bench = Bench()
    bench.queue.payloads_waiting = 1
    monkeypatch.setattr(limits, "BUSY_SHARE", float("inf"))
    task = asyncio.create_task(bench.sampler.run())
    await settle(turns=50)
    bench.counters.retries += 1
    await settle(turns=3)
    task.cancel()
    await asyncio.wait({task})
    shares = bench.sampler.shares
    assert set(shares) == {limits.LATENCY, limits.THROTTLING}
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)
    assert bench.sampler.limited_by == limits.LATENCY
