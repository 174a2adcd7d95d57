"""One thread writes, unless files take so long that several wait side by side."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from asyncbackup.flow.pace import SLOW_SECONDS, Pace
from asyncbackup.flow.workers import ThreadGate
from tests.unit.flow.turns import settle

PATIENCE_SECONDS = 30.0


@pytest.fixture
def gate() -> Iterator[ThreadGate]:
    opened = ThreadGate("test", 4)
    yield opened
    opened.close()


def test_it_follows_what_files_take(gate: ThreadGate) -> None:
    pace = Pace(gate, 3)
    seen = [pace.at_once]
    for files, waited in ((10, 10), (1, 1), (5, 50), (10, 9.9), (10, 10), (1000, 10)):
        pace.learn(files, waited * SLOW_SECONDS)
        seen.append(pace.at_once)
    assert seen == [1, 2, 3, 3, 1, 2, 1]


@pytest.mark.parametrize("at_once", [1, 3])
async def test_no_more_than_that_are_in_threads(gate: ThreadGate, at_once: int) -> None:
    pace = Pace(gate, 4)
    for _ in range(at_once - 1):
        pace.learn(1, SLOW_SECONDS)
    begun = threading.Semaphore(0)
    end = threading.Event()

    def write(number: int) -> int:
        begun.release()
        assert end.wait(PATIENCE_SECONDS)
        return number

    calls = [asyncio.create_task(pace.run(10**9, write, number)) for number in range(5)]
    for _ in range(at_once):
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE_SECONDS)
    await settle()
    assert gate.hops == at_once
    end.set()
    assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]


async def test_what_fails_gives_its_place_back(gate: ThreadGate) -> None:
    pace = Pace(gate, 4)

    def write() -> None:
        raise OSError("disk")

    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            await pace.run(1, write)
    assert pace.at_once == 1


async def test_from_what_waits_for_no_disk_nothing_is_learned(gate: ThreadGate) -> None:
    pace = Pace(gate, 3)
    pace.learn(1, SLOW_SECONDS)
    assert await pace.compute(sum, [1, 2]) == 3
    assert pace.at_once == 2
    with pytest.raises(ZeroDivisionError):
        await pace.compute(divmod, 1, 0)
    # It has given its places back.
    assert await asyncio.gather(*(pace.compute(sum, [number]) for number in range(4))) == [0, 1, 2, 3]
