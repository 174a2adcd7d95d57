"""The tree that the crash group backs up, and runs of it in processes that die at a request."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from typing import TYPE_CHECKING

import msgspec

from tests.battery.score import Score, ScoredProxy
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.battery.invariants import Picture
    from tests.servers import S3Endpoint
    from tests.servers.proxy import Action, Exchange

FILES = 200
CONCURRENCY = 2
LAYOUTS = ("mirror", "packed", "sealed packed")
MOMENTS = ("before", "within", "after")


async def make_bench(base: Path, endpoint: S3Endpoint, layout: str) -> tuple[Workbench, dict[str, Picture]]:
    """A section with one committed snapshot, whose tree then grew to ``FILES`` small files, links and
    three files that go up in parts; and the picture of that snapshot."""
    bench = Workbench(
        base,
        f"s3://{endpoint.fresh_bucket()}/prefix",
        s3=endpoint.settings(),
        encrypted=layout.startswith("sealed"),
    )
    if layout.endswith("packed"):
        bench.configure(packed=True, zstd_level=1)
    bench.settings = msgspec.structs.replace(
        bench.settings, concurrency=CONCURRENCY, memory_limit_bytes=24 * MIB
    )
    chosen = random.Random(layout)
    for number in range(10):
        bench.write(f"old/{number}", chosen.randbytes(500))
    await bench.initialise()
    earlier = {(await bench.run()).snapshot: picture(bench.tree)}
    for number in range(5):
        bench.write(f"old/{number}", chosen.randbytes(501))
    (bench.tree / "old/9").unlink()
    for number in range(FILES):
        bench.write(f"d{number % 7}/f{number:03}", chosen.randbytes(number * 180))
    first = bench.write("linked", b"one content, two names")
    os.link(first, bench.tree / "d0/linked too")
    (bench.tree / "symlink").symlink_to("d0/f000")
    for number in range(3):
        bench.write(f"large{number}", chosen.randbytes(5 * MIB + 1000 * (number + 1)))
    return bench, earlier


class DoomedProcess:
    """One command line whose process group dies at a request."""

    def __init__(self, bench: Workbench, score: Score, *arguments: str) -> None:
        self._bench = bench
        self._score = score
        self._arguments = arguments or ("run",)
        self._process: asyncio.subprocess.Process | None = None

    async def at(self, endpoint: S3Endpoint, request: int, moment: str) -> dict[str, int]:
        """Run until the request with that number (from 0) and kill ``before`` it is forwarded,
        ``within`` its body (or its answer's), or ``after`` it was applied. Returns what had arrived."""
        actions: dict[str, Action] = {"before": self._before, "within": self._within, "after": self._after}
        async with ScoredProxy(endpoint.url, self._score) as proxy:
            proxy.plan("*", actions[moment], skip=request)
            config = self._bench.config_file(endpoint_url=proxy.url)
            self._process = await start(["-c", str(config), "--quiet", *self._arguments])
            code = await self._process.wait()
            assert code == -signal.SIGKILL, f"it ended with {code} before request {request} came"
            return dict(proxy.requests)

    def _kill(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._score.kills += 1

    async def _before(self, exchange: Exchange) -> None:
        self._kill()
        exchange.reset()

    async def _within(self, exchange: Exchange) -> None:
        if exchange.request.length:
            await exchange.read_body(exchange.request.length // 2)
        elif exchange.request.method == "GET":
            response = await exchange.forward()
            await exchange.send(response.head + response.body[: len(response.body) // 2])
        self._kill()
        exchange.reset()

    async def _after(self, exchange: Exchange) -> None:
        await exchange.forward()
        self._kill()
        exchange.reset()


async def start(arguments: Sequence[str], *, prefix: Sequence[str] = ()) -> asyncio.subprocess.Process:
    """One command line as the leader of a process group of its own."""
    return await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-m", "asyncbackup", *arguments,
        start_new_session=True, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
