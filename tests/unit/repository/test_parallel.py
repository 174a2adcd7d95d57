"""Doing the same for many things at once."""

from __future__ import annotations

import asyncio

import pytest

from asyncbackup.errors import StoreError
from asyncbackup.repository.parallel import in_parallel


async def test_results_come_in_the_order_of_the_items() -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def call(number: int) -> int:
        # The last to be asked is the first to answer.
        if number < 2:
            await gates[number + 1].wait()
        gates[number].set()
        return number * 10

    assert await in_parallel([0, 1, 2], call, limit=3) == [0, 10, 20]
    assert await in_parallel([], call, limit=3) == []


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_no_more_at_once_than_the_limit(limit: int) -> None:
    running = most = 0

    async def call(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(1 + number % 4):
            await asyncio.sleep(0)
        running -= 1
        return number

    assert await in_parallel(range(20), call, limit=limit) == list(range(20))
    assert most == min(limit, 20)


async def test_the_first_failure_ends_the_others_and_is_raised_alone() -> None:
    ended = []

    async def call(number: int) -> None:
        if number == 2:
            raise StoreError("HeadObject", "k", "refused")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with pytest.raises(StoreError, match="refused"):
        await in_parallel([0, 1, 2, 3], call, limit=3)
    assert sorted(ended) == [0, 1]
