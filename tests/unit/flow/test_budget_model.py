"""The byte budget against a model: a line of requests, served from its front as far as they fit."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.flow.budget import ByteBudget
from tests.unit.flow.turns import settle

LIMIT = 10
STEPS = ("ask", "ask", "ask", "cancel", "release", "release", "turn", "settle", "settle")


class Model:
    """Requests are numbered in the order of asking; ``granted`` are those that came back with bytes."""

    def __init__(self) -> None:
        self.budget = ByteBudget(LIMIT)
        self.sizes: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.granted: set[int] = set()
        self.held: list[int] = []
        self.most = 0

    async def step(self, what: str, which: int) -> None:
        waiting = [number for number, task in enumerate(self.tasks) if not task.done()]
        match what:
            case "ask":
                self.sizes.append(which)
                self.tasks.append(asyncio.create_task(self.acquire(len(self.tasks), which)))
            case "cancel" if waiting:
                self.tasks[waiting[which % len(waiting)]].cancel()
            case "release" if self.held:
                self.budget.release(self.held.pop(which % len(self.held)))
            case "turn":
                await asyncio.sleep(0)
            case "settle":
                await settle()
                self.check_settled()
            case _:
                pass
        self.most = max(self.most, self.budget.in_use_bytes)
        assert sum(self.held) <= self.budget.in_use_bytes <= LIMIT
        assert self.budget.peak_bytes >= self.most

    async def acquire(self, number: int, size: int) -> None:
        assert await self.budget.acquire(size) == size
        self.granted.add(number)
        self.held.append(size)

    def check_settled(self) -> None:
        waiting = [number for number, task in enumerate(self.tasks) if not task.done()]
        assert self.budget.in_use_bytes == sum(self.held), "bytes were lost or made"
        assert self.budget.waiting == bool(waiting)
        if waiting:
            first = self.sizes[waiting[0]]
            assert self.budget.in_use_bytes + first > LIMIT, "the first in line fits and is not served"
            assert max(self.granted, default=-1) < waiting[0], "somebody jumped the line"

    async def end(self) -> None:
        """Once everything is given back, everybody is served."""
        await settle()
        self.check_settled()
        while self.held:
            self.budget.release(self.held.pop())
            await settle()
        assert all(task.done() for task in self.tasks)
        assert not any(task.exception() for task in self.tasks if not task.cancelled())
        assert self.budget.in_use_bytes == 0


@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, LIMIT)), min_size=12, max_size=30))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_a_budget_keeps_its_promises(steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        model = Model()
        for what, which in steps:
            await model.step(what, which)
        await model.end()

    asyncio.run(play())
