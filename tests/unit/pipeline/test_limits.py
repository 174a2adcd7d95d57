"""What is said to have limited a run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup import limits
from asyncbackup.flow.channel import ChannelWatches, Receiver, Sender, open_channel
from asyncbackup.flow.load import RequestLoad
from asyncbackup.flow.stopwatch import Stopwatch
from asyncbackup.flow.window import Window
from asyncbackup.limits import LimitAccount, Readings, divide
from tests.unit.flow.turns import settle

if TYPE_CHECKING:
    from asyncbackup.model import Change
    from asyncbackup.pipeline.results import Outcome

START = Readings(wall=100.0, cpu=7.0, stages_waiting=(3.0, 2.0), stages_working=(1.0, 1.0))


def spent(**after: object) -> dict[str, float]:
    """What ten seconds went to; ``after`` are the readings at their end, wall time beside."""
    return divide(START, msgspec.structs.replace(START, wall=110.0, **after))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({}, {limits.WALK: 10}),
        ({"reading": 4.0}, {limits.READ: 4, limits.WALK: 6}),
        # Readers that wait for memory have something to read all the same.
        ({"reading": 10.0, "budget_short": 7.0}, {limits.BUDGET: 7, limits.READ: 3}),
        # More memory would not help where something waits for a stage …
        (
            {"reading": 10.0, "budget_short": 9.0, "stages_waiting": (5.0, 8.0)},
            {limits.CPU: 6, limits.BUDGET: 4},
        ),
        # … nor a faster stage where bodies wait for requests.
        (
            {"reading": 10.0, "budget_short": 9.0, "stages_waiting": (3.0, 12.0), "bodies_waiting": 8.0},
            {limits.LATENCY: 8, limits.CPU: 2},
        ),
        ({"bodies_waiting": 10.0, "receipts_waiting": 9.0}, {limits.DATABASE: 9, limits.LATENCY: 1}),
        ({"bodies_waiting": 10.0, "cpu": 16.0}, {limits.CPU: 10}),
        ({"bodies_waiting": 10.0, "cpu": 15.0}, {limits.LATENCY: 10}),
        ({"bodies_waiting": 10.0, "cpu": 17.0, "held_back": 6.0}, {limits.THROTTLING: 6, limits.CPU: 4}),
        # The last requests are latency, not the walk; before, an uploader with work is no bottleneck.
        ({"sending": 9.0}, {limits.WALK: 10}),
        ({"sending": 9.0, "walked": True}, {limits.LATENCY: 9, limits.WALK: 1}),
        ({"sending": 9.0, "walked": True, "reading": 10.0}, {limits.READ: 10}),
        # So is what is still computed; before, a stage that nothing waits for is no bottleneck either.
        ({"stages_working": (7.0, 1.0)}, {limits.WALK: 10}),
        ({"stages_working": (7.0, 1.0), "walked": True}, {limits.CPU: 6, limits.WALK: 4}),
    ],
)
def test_each_cause(after: dict[str, object], expected: dict[str, float]) -> None:
    assert spent(**after) == pytest.approx(expected)


times = st.floats(0, 20)


@given(
    st.builds(
        Readings,
        wall=st.floats(100, 200),
        cpu=st.floats(7, 300),
        held_back=times,
        receipts_waiting=times,
        bodies_waiting=times,
        stages_waiting=st.tuples(st.floats(3, 9), st.floats(2, 9)),
        stages_working=st.tuples(st.floats(1, 9), st.floats(1, 9)),
        budget_short=times,
        reading=times,
        sending=times,
        walked=st.booleans(),
    )
)
def test_no_time_is_lost_or_counted_twice(after: Readings) -> None:
    parts = divide(START, after)
    assert sum(parts.values()) == pytest.approx(after.wall - START.wall)
    assert all(seconds > 0 for seconds in parts.values())


class Transfer:
    def __init__(self) -> None:
        self.memory_short = Stopwatch()
        self.sending = Stopwatch()
        self.bodies_waiting = Stopwatch()
        self.stages = {"packer": ChannelWatches()}


class Bench:
    def __init__(self, *, bodies_wait: bool = False) -> None:
        self.transfer = Transfer()
        if bodies_wait:
            self.transfer.bodies_waiting.start()
        self.load = RequestLoad(Window(4))
        self.account = LimitAccount(self.transfer, self.load)
        self.changes: Receiver[list[Change]]
        self.changes_in: Sender[list[Change]]
        self.outcomes_in: Sender[Outcome]
        self.watch()

    def watch(self) -> None:
        self.changes_in, self.changes = open_channel("changes", 10)
        self.outcomes_in, _ = open_channel("outcomes", 10)
        self.account.watch(self.changes, self.outcomes_in)


async def test_an_account_that_ends_before_its_first_look_has_all_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BUSY_SHARE", float("inf"))
    bench = Bench(bodies_wait=True)
    task = asyncio.create_task(bench.account.run())
    await settle()
    task.cancel()
    await asyncio.wait({task})
    assert bench.account.limited_by == limits.LATENCY
    assert sum(bench.account.shares.values()) == pytest.approx(1, abs=0.01)


async def test_the_channels_of_a_later_part_of_the_run_are_read_from_their_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BUSY_SHARE", float("inf"))
    bench = Bench()
    receiving = asyncio.create_task(bench.changes.receive())
    await bench.changes_in.send([])
    await receiving
    bench.watch()
    waiting = asyncio.create_task(bench.changes.receive())
    await settle()
    bench.account.watch(bench.changes, bench.outcomes_in)
    assert set(bench.account.shares) <= {limits.READ, limits.WALK}
    waiting.cancel()
    await asyncio.wait({waiting})


def test_where_no_time_passed_it_was_the_walk() -> None:
    account = LimitAccount(Transfer(), RequestLoad(Window(4)))
    assert account.limited_by == limits.WALK
    assert account.shares == {}
