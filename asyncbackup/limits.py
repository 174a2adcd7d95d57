"""What limited a run: an account of where its time went, by what waited for what.

Channels, the byte budget and the request slots time themselves (``flow/stopwatch.py``). Every
twentieth of a second, and at the end, the time since the last look is divided among the causes by
what these stopwatches have run meanwhile. Whatever waits in front of a stage waits for that stage,
so the causes are asked from the end of the data's way to its beginning, and each gets what those
before it have left: when bodies wait for a request, it does not matter that the readers wait too.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncbackup.flow.channel import ChannelWatches, Receiver, Sender
    from asyncbackup.flow.load import RequestLoad
    from asyncbackup.flow.stopwatch import Stopwatch
    from asyncbackup.model import Change
    from asyncbackup.pipeline.results import Outcome

LOOK_SECONDS = 0.05
BUSY_SHARE = 0.85
"""Of one core: above it the interpreter itself is what everything waits for."""

WALK = "walk"
READ = "read"
CPU = "cpu"
LATENCY = "request latency"
THROTTLING = "throttling"
BUDGET = "memory budget"
DATABASE = "database"


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """What the clocks and stopwatches of a run show at one moment, in seconds.

    ``wall`` and ``cpu`` are of the process. The others are how long it was the case so far that:
    failures held requests back; receipts waited for the database; bodies waited for a request;
    something waited for one of the stages that compute; a reader waited for memory; a reader had
    something to read; something was being sent; one of the stages that compute had work. ``walked``
    is whether nothing more will come.
    """

    wall: float = 0.0
    cpu: float = 0.0
    held_back: float = 0.0
    receipts_waiting: float = 0.0
    bodies_waiting: float = 0.0
    stages_waiting: tuple[float, ...] = ()
    budget_short: float = 0.0
    reading: float = 0.0
    sending: float = 0.0
    stages_working: tuple[float, ...] = ()
    walked: bool = False


def divide(before: Readings, after: Readings) -> dict[str, float]:
    """The seconds between two looks by what they were spent on; they add up to all of them."""
    wall = max(0.0, after.wall - before.wall)
    busy = after.cpu - before.cpu >= BUSY_SHARE * wall
    waited_for = _longest(before.stages_waiting, after.stages_waiting)
    computing = _longest(before.stages_working, after.stages_working)
    claims = [
        (THROTTLING, after.held_back - before.held_back),
        (CPU, wall if busy else 0.0),
        (DATABASE, after.receipts_waiting - before.receipts_waiting),
        (LATENCY, after.bodies_waiting - before.bodies_waiting),
        (CPU, waited_for),
        (BUDGET, after.budget_short - before.budget_short),
        (READ, after.reading - before.reading),
        # Without more to come, what is still under way is what the end waits for.
        (LATENCY, after.sending - before.sending if after.walked else 0.0),
        (CPU, computing if after.walked else 0.0),
        (WALK, wall),
    ]
    spent: dict[str, float] = {}
    left = wall
    for cause, seconds in claims:
        if (part := min(left, max(0.0, seconds))) > 0.0:
            spent[cause] = spent.get(cause, 0.0) + part
            left -= part
    return spent


def _longest(before: tuple[float, ...], after: tuple[float, ...]) -> float:
    # Before the first change there were no stages.
    before = before or (0.0,) * len(after)
    return max((now - then for then, now in zip(before, after, strict=True)), default=0.0)


class TimedTransfer(Protocol):
    """What is read of a transfer."""

    @property
    def bodies_waiting(self) -> Stopwatch: ...

    @property
    def stages(self) -> Mapping[str, ChannelWatches]:
        """Those that compute; none as long as nothing came."""

    @property
    def memory_short(self) -> Stopwatch: ...

    @property
    def sending(self) -> Stopwatch: ...


class LimitAccount:
    """The account of one run. ``shares`` gives each cause's part of the time, which add up to 1."""

    def __init__(self, transfer: TimedTransfer, load: RequestLoad) -> None:
        self._transfer = transfer
        self._load = load
        self._changes: Receiver[list[Change]] | None = None
        self._outcomes: Sender[Outcome] | None = None
        self._spent: dict[str, float] = {}
        self._last = self._read()

    def watch(self, changes: Receiver[list[Change]], outcomes: Sender[Outcome]) -> None:
        """Account for the work that goes through these channels from now on."""
        self._look()
        self._changes, self._outcomes = changes, outcomes
        self._last = self._read()

    async def run(self) -> None:
        """Keep the account until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                self._look()
        finally:
            self._look()

    def _look(self) -> None:
        now = self._read()
        for cause, seconds in divide(self._last, now).items():
            self._spent[cause] = self._spent.get(cause, 0.0) + seconds
        self._last = now

    def _read(self) -> Readings:
        transfer, changes, outcomes = self._transfer, self._changes, self._outcomes
        return Readings(
            wall=time.monotonic(),
            cpu=time.process_time(),
            held_back=self._load.held_back.seconds,
            receipts_waiting=outcomes.statistics.blocked.seconds if outcomes is not None else 0.0,
            bodies_waiting=transfer.bodies_waiting.seconds,
            stages_waiting=tuple(stage.filled.seconds for stage in transfer.stages.values()),
            stages_working=tuple(stage.working.seconds for stage in transfer.stages.values()),
            budget_short=transfer.memory_short.seconds,
            reading=changes.statistics.working.seconds if changes is not None else 0.0,
            sending=transfer.sending.seconds,
            walked=changes is not None and changes.ended,
        )

    @property
    def shares(self) -> dict[str, float]:
        total = sum(self._spent.values())
        return {cause: round(self._spent[cause] / total, 3) for cause in self._by_time()}

    @property
    def limited_by(self) -> str:
        """The cause that most of the time was spent on; ``walk`` where no time passed."""
        return next(iter(self._by_time()), WALK)

    def _by_time(self) -> list[str]:
        return sorted(self._spent, key=lambda cause: -self._spent[cause])
