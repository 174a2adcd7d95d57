"""The thread gate: its limit, the order of those who wait, and cancelled calls that hold their place."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncbackup.flow.workers import ThreadGate
from tests.unit.flow.turns import settle

PATIENCE_SECONDS = 30.0


class Calls:
    """Calls that last until they are let go, and what was seen of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = 0
        self.most = 0
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.begins: dict[int, threading.Event] = {}
        self.ends: dict[int, threading.Event] = {}

    def plan(self, number: int) -> None:
        self.begins[number] = threading.Event()
        self.ends[number] = threading.Event()

    def call(self, number: int) -> int:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.begun.append(number)
        self.begins[number].set()
        assert self.ends[number].wait(PATIENCE_SECONDS)
        with self.lock:
            self.running -= 1
            self.ended.append(number)
        return number

    def start(self, gate: ThreadGate, number: int) -> asyncio.Task[int]:
        self.plan(number)
        return asyncio.create_task(gate.run(self.call, number))

    async def begun_in_a_thread(self, number: int) -> None:
        assert await asyncio.to_thread(self.begins[number].wait, PATIENCE_SECONDS)


async def test_results_and_errors_come_back() -> None:
    gate = ThreadGate("test", 2)
    try:
        assert await gate.run(divmod, 7, 3) == (2, 1)
        assert await gate.run(int, "ff", base=16) == 255
        with pytest.raises(ZeroDivisionError):
            await gate.run(divmod, 1, 0)
        name = await gate.run(lambda: threading.current_thread().name)
        assert name.startswith("asyncbackup-test")
        assert gate.hops == 4
    finally:
        gate.close()


async def test_never_more_calls_than_the_limit_and_the_rest_in_their_order() -> None:
    gate, calls = ThreadGate("test", 2), Calls()
    tasks = [calls.start(gate, number) for number in range(5)]
    try:
        for number in range(5):
            await calls.begun_in_a_thread(number)
            await settle()
            assert calls.running <= 2
            assert len(calls.begun) <= number + 2
            calls.ends[number].set()
            assert await tasks[number] == number
        assert calls.most == 2
        assert sorted(calls.begun[:2]) == [0, 1]
        assert calls.begun[2:] == [2, 3, 4]
    finally:
        gate.close()


async def test_a_cancelled_call_holds_its_place_until_its_thread_is_done() -> None:
    gate, calls = ThreadGate("test", 1), Calls()
    first = calls.start(gate, 1)
    await calls.begun_in_a_thread(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = calls.start(gate, 2)
    try:
        await settle()
        assert calls.begun == [1], "the place was given away while the thread still works"
        calls.ends[1].set()
        await calls.begun_in_a_thread(2)
        assert calls.ended == [1]
        calls.ends[2].set()
        assert await second == 2
        assert calls.most == 1
    finally:
        gate.close()


async def test_a_caller_cancelled_while_waiting_takes_no_place_and_never_runs() -> None:
    gate, calls = ThreadGate("test", 1), Calls()
    tasks = [calls.start(gate, number) for number in range(3)]
    try:
        await calls.begun_in_a_thread(0)
        tasks[1].cancel()
        await settle()
        assert tasks[1].cancelled()
        calls.ends[0].set()
        await calls.begun_in_a_thread(2)
        calls.ends[2].set()
        assert await tasks[2] == 2
        assert calls.begun == [0, 2]
    finally:
        gate.close()


async def test_a_caller_cancelled_in_the_turn_of_its_place_hands_it_on() -> None:
    gate, calls = ThreadGate("test", 1), Calls()
    tasks = [calls.start(gate, number) for number in range(3)]
    try:
        await calls.begun_in_a_thread(0)
        calls.ends[0].set()
        # The only thread takes this once it has told the loop that the place is free. The loop stands
        # still meanwhile, so the place is given and the caller cancelled in one turn.
        gate._executor.submit(int).result(PATIENCE_SECONDS)
        asyncio.get_running_loop().call_soon(tasks[1].cancel)
        await calls.begun_in_a_thread(2)
        calls.ends[2].set()
        assert await tasks[2] == 2
        assert tasks[1].cancelled()
        assert calls.begun == [0, 2]
    finally:
        gate.close()


async def test_closing_waits_for_the_call_under_way() -> None:
    gate, calls = ThreadGate("test", 1), Calls()
    task = calls.start(gate, 1)
    await calls.begun_in_a_thread(1)
    closing = asyncio.create_task(asyncio.to_thread(gate.close))
    await settle()
    assert not closing.done()
    calls.ends[1].set()
    await closing
    assert calls.ended == [1]
    assert await task == 1
    with pytest.raises(RuntimeError, match="shutdown"):
        await gate.run(int)


async def test_closing_without_waiting_leaves_the_call_to_its_end() -> None:
    gate, calls = ThreadGate("test", 1), Calls()
    task = calls.start(gate, 1)
    await calls.begun_in_a_thread(1)
    gate.close(wait=False)
    calls.ends[1].set()
    assert await task == 1


def test_a_call_that_outlives_its_loop_harms_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    calls = Calls()
    calls.plan(1)
    gates: list[ThreadGate] = []

    async def main() -> None:
        gate = ThreadGate("test", 1)
        gates.append(gate)
        task = asyncio.create_task(gate.run(calls.call, 1))
        await calls.begun_in_a_thread(1)
        task.cancel()

    asyncio.run(main())
    calls.ends[1].set()
    gates[0].close()
    assert calls.ended == [1]
    assert capfd.readouterr().err == ""
