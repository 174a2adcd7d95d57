"""Runs in processes of their own, in front of a proxy that kills them at a chosen request."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.servers.proxy import FaultProxy
from tests.workbench import MIB, Workbench

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.servers import S3Endpoint
    from tests.servers.proxy import Action, Exchange


class KilledRun:
    """One ``asyncbackup run`` whose process group dies at a request."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.process: asyncio.subprocess.Process | None = None

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)

    async def at_part(
        self, endpoint: S3Endpoint, number: int, *, operation: str = "UploadPart"
    ) -> dict[str, int]:
        """Run until the n-th part (from 1) and kill before it is forwarded."""
        return await self._run(endpoint, operation, number - 1, self._before)

    async def at(self, endpoint: S3Endpoint, request: int, moment: str) -> dict[str, int]:
        """Run until the request with that number (from 0) and kill ``before`` it is forwarded,
        ``within`` its body, or ``after`` it was applied. Returns the requests that had arrived."""
        action = {"before": self._before, "within": self._within, "after": self._after}[moment]
        return await self._run(endpoint, "*", request, action)

    async def _run(self, endpoint: S3Endpoint, operation: str, skip: int, action: Action) -> dict[str, int]:
        async with FaultProxy(endpoint.url) as proxy:
            proxy.plan(operation, action, skip=skip)
            config = self.bench.config_file(endpoint_url=proxy.url)
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "asyncbackup", "-c", str(config), "--quiet", "run",
                start_new_session=True, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            assert await self.process.wait() == -signal.SIGKILL
            return dict(proxy.requests)

    async def _before(self, exchange: Exchange) -> None:
        self.kill()
        exchange.reset()

    async def _within(self, exchange: Exchange) -> None:
        await exchange.read_body(exchange.request.length // 2)
        self.kill()
        exchange.reset()

    async def _after(self, exchange: Exchange) -> None:
        await exchange.forward()
        self.kill()
        exchange.reset()


@pytest.fixture
def crash_bench(tmp_path: Path, rclone_s3: S3Endpoint) -> Callable[[], Awaitable[Workbench]]:
    """An initialised section on a real S3 server: small files, folders, a link, a file in three parts."""

    async def make() -> Workbench:
        bench = Workbench(tmp_path, f"s3://{rclone_s3.fresh_bucket()}/prefix", s3=rclone_s3.settings())
        for number in range(20):
            bench.write(f"d{number % 4}/f{number:02}", b"%d" % number * (number + 1))
        first = bench.write("linked", b"one content, two names")
        os.link(first, bench.tree / "d0/linked too")
        bench.write("large", os.urandom(11 * MIB))
        await bench.initialise()
        return bench

    return make
