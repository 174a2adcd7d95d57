"""Command lines as processes of several machines: each with a state folder and a proxy of its own.

A proxy can hold a request of one process while another runs to its end, so that what happens at once
happens in the same order every time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from tests.battery.score import Score, ScoredProxy
from tests.servers.proxy import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.servers import S3Endpoint
    from tests.servers.proxy import Action
    from tests.workbench import Workbench

PROGRAM = (sys.executable, "-m", "asyncbackup")


class Ended:
    """How a command line ended, and what it said."""

    def __init__(self, code: int, said: str) -> None:
        self.code = code
        self.said = said

    def __repr__(self) -> str:
        return f"it ended with {self.code}: {self.said}"


class Machine:
    """The command lines of one workbench, whose requests go through ``proxy``."""

    def __init__(self, bench: Workbench, proxy: ScoredProxy, name: str) -> None:
        self.bench = bench
        self.proxy = proxy
        self._name = name
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, *arguments: str, program: Sequence[str] = PROGRAM) -> asyncio.subprocess.Process:
        """Start one command line in a process group of its own."""
        config = self.bench.config_file(endpoint_url=self.proxy.url, name=self._name)
        process = await asyncio.create_subprocess_exec(
            *program, "-c", str(config), *arguments,
            start_new_session=True, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        self._processes.append(process)
        return process

    async def run(self, *arguments: str, program: Sequence[str] = PROGRAM) -> Ended:
        """Run one command line to its end."""
        return await end_of(await self.start(*arguments, program=program))

    async def held(
        self,
        *arguments: str,
        operation: str = "*",
        request: int = 0,
        path: str = "",
        then: Action | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> Held:
        """Start one command line and wait until its request with that number (from 0) stands still.
        Let go it passes, or meets ``then``."""
        gate = Gate(then)
        self.proxy.plan(operation, gate.hold, skip=request, path=path)
        process = await self.start(*arguments, program=program)
        ended = asyncio.ensure_future(process.wait())
        reached = asyncio.ensure_future(gate.reached.wait())
        await asyncio.wait((ended, reached), return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if not gate.reached.is_set():
            raise AssertionError(f"before that request came, {await end_of(process)}")
        ended.cancel()
        return Held(process, gate, self.proxy.score)

    async def aclose(self) -> None:
        """Kill what a test that failed has left."""
        for process in self._processes:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.communicate()


class Held:
    """A process one of whose requests stands still."""

    def __init__(self, process: asyncio.subprocess.Process, gate: Gate, score: Score) -> None:
        self.process = process
        self._gate = gate
        self._score = score

    def kill(self) -> None:
        """Kill its process group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self._score.kills += 1

    async def let_go(self) -> Ended:
        """Let it run to its end."""
        self._gate.open()
        return await end_of(self.process)


async def end_of(process: asyncio.subprocess.Process) -> Ended:
    """Wait for a process and what it said."""
    said, _ = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, said.decode())


async def first_to_end(
    processes: Sequence[asyncio.subprocess.Process],
) -> tuple[asyncio.subprocess.Process, asyncio.subprocess.Process]:
    """Wait until one of two processes ends: that one, and the other."""
    waiting = [asyncio.ensure_future(process.wait()) for process in processes]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    first = next(number for number, each in enumerate(waiting) if each.done())
    waiting[1 - first].cancel()
    return processes[first], processes[1 - first]


@asynccontextmanager
async def machines(endpoint: S3Endpoint, score: Score, *benches: Workbench) -> AsyncIterator[list[Machine]]:
    """A machine for each workbench. Planned faults that do not happen fail the test."""
    async with AsyncExitStack() as stack:
        all_of_them = []
        for number, bench in enumerate(benches):
            proxy = await stack.enter_async_context(ScoredProxy(endpoint.url, score))
            all_of_them.append(Machine(bench, proxy, f"machine-{number}"))
            stack.push_async_callback(all_of_them[-1].aclose)
        yield all_of_them
