"""The byte budget: its bound, first come first served, and what cancelling gives back."""

from __future__ import annotations

import asyncio

import pytest

from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.stopwatch import Stopwatch
from tests.unit.flow.turns import settle


def asked(budget: ByteBudget, *sizes: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(budget.acquire(size)) for size in sizes]


def states(tasks: list[asyncio.Task[int]]) -> str:
    """One letter a task: granted, waiting or cancelled."""
    return "".join("w" if not t.done() else "c" if t.cancelled() else "g" for t in tasks)


async def test_what_fits_is_granted_at_once_and_counted() -> None:
    budget = ByteBudget(100)
    assert await budget.acquire(60) == 60
    assert await budget.acquire(40) == 40
    assert (budget.in_use_bytes, budget.peak_bytes, budget.waiting) == (100, 100, False)
    budget.release(60)
    assert (budget.in_use_bytes, budget.peak_bytes) == (40, 100)


async def test_a_large_request_is_not_starved_by_small_ones() -> None:
    budget = ByteBudget(100)
    await budget.acquire(50)
    tasks = asked(budget, 80, 10, 10)
    await settle()
    assert states(tasks) == "www", "the small ones would fit, but stand behind the large one"
    assert budget.waiting
    budget.release(50)
    await settle()
    assert states(tasks) == "ggg"
    assert budget.in_use_bytes == 100


async def test_the_time_in_which_somebody_waits_is_told() -> None:
    now = 0.0
    budget = ByteBudget(10)
    budget.short = Stopwatch(lambda: now)
    await budget.acquire(10)
    now = 1.0
    assert budget.short.seconds == 0
    tasks = asked(budget, 6, 6)
    await settle()
    now = 3.0
    budget.release(10)
    await settle()
    assert states(tasks) == "gw"
    now = 4.0
    assert budget.short.seconds == 3, "one of them waits still"
    budget.release(6)
    await settle()
    assert states(tasks) == "gg"
    now = 9.0
    assert budget.short.seconds == 3


async def test_grants_go_in_the_order_of_asking() -> None:
    budget = ByteBudget(10)
    await budget.acquire(10)
    tasks = asked(budget, 6, 6, 4)
    await settle()
    budget.release(10)
    await settle()
    assert states(tasks) == "gww"
    budget.release(6)
    await settle()
    assert states(tasks) == "ggg"


async def test_whoever_asks_after_a_release_still_stands_behind_those_who_wait() -> None:
    budget = ByteBudget(10)
    await budget.acquire(8)
    tasks = asked(budget, 5)
    await settle()
    budget.release(8)  # granted to the waiting one in this very call
    tasks += asked(budget, 6)
    await settle()
    assert states(tasks) == "gw"
    budget.release(5)
    await settle()
    assert states(tasks) == "gg"


async def test_cancelling_the_first_in_line_lets_those_behind_pass() -> None:
    budget = ByteBudget(100)
    await budget.acquire(50)
    tasks = asked(budget, 80, 30, 20)
    await settle()
    tasks[0].cancel()
    await settle()
    assert states(tasks) == "cgg"
    assert budget.in_use_bytes == 100


async def test_cancelling_in_the_middle_of_the_line_keeps_its_order() -> None:
    budget = ByteBudget(100)
    await budget.acquire(100)
    tasks = asked(budget, 60, 30, 40)
    await settle()
    tasks[1].cancel()
    await settle()
    budget.release(100)
    await settle()
    assert states(tasks) == "gcg"
    assert budget.in_use_bytes == 100


async def test_bytes_granted_to_a_task_that_is_cancelled_in_the_same_turn_come_back() -> None:
    budget = ByteBudget(100)
    await budget.acquire(100)
    tasks = asked(budget, 70, 90)
    await settle()
    budget.release(100)  # grants 70 to the first
    tasks[0].cancel()
    await settle()
    assert states(tasks) == "cg"
    assert budget.in_use_bytes == 90


async def test_a_request_before_the_cancelled_first_had_its_turn_is_not_forgotten() -> None:
    budget = ByteBudget(100)
    await budget.acquire(50)
    tasks = asked(budget, 80)
    await settle()
    tasks[0].cancel()
    tasks += asked(budget, 40)
    await settle()
    assert states(tasks) == "cg"


async def test_nothing_at_all_costs_nothing_but_waits_its_turn() -> None:
    budget = ByteBudget(10)
    await budget.acquire(10)
    assert await budget.acquire(0) == 0
    tasks = asked(budget, 5, 0)
    await settle()
    assert states(tasks) == "ww"
    budget.release(10)
    await settle()
    assert states(tasks) == "gg"


async def test_more_than_the_whole_budget_can_never_be_granted() -> None:
    budget = ByteBudget(10)
    assert await budget.acquire(10) == 10
    with pytest.raises(ValueError, match="11 bytes asked of a budget of 10"):
        await budget.acquire(11)
    assert budget.in_use_bytes == 10


async def test_figures_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="never grant"):
        ByteBudget(0)
    budget = ByteBudget(10)
    await budget.acquire(4)
    with pytest.raises(ValueError, match="5 bytes released, 4 in use"):
        budget.release(5)
    with pytest.raises(ValueError, match="-1 bytes"):
        await budget.acquire(-1)
    with pytest.raises(ValueError, match="-1 bytes"):
        budget.release(-1)
    assert budget.in_use_bytes == 4
