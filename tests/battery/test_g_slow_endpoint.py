"""(g) An endpoint that takes a byte at a time: what was read and not yet taken stays within its bounds.

It serves one request after the other, however many there are, so everything before it fills up and waits.
No time is looked at: what counts is how far the reading is ahead.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.engine import run_section
from tests.battery.invariants import check_invariants
from tests.battery.measured import CEILING_BYTES, measured
from tests.battery.score import ScoredProxy
from tests.battery.selection import FULL, selected
from tests.workbench import MIB, Workbench

if TYPE_CHECKING:
    from tests.battery.score import Score
    from tests.servers import S3Endpoint
    from tests.servers.proxy import Exchange

LAYOUTS = ("mirror", "packed", "sealed", "sealed packed")
BYTE_BY_BYTE = 300
"""So much of each body is taken in pieces of one byte; then nobody waits for the rest."""
ELSE_BYTES = 2 * MIB
"""What a run reads beside the tree: its database, the rest of the program."""
FILES, FILE_BYTES = (3000, 20_000) if FULL else (400, 40_000)


def read_bytes() -> int:
    """What this process has read from files so far; sockets do not count."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


class SlowEndpoint:
    """Takes one request at a time, and its body byte by byte. At every body it looks how far the reading of
    this process is ahead of what was taken."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._before = read_bytes()
        self.taken_bytes = 0
        self.most_ahead_bytes = 0

    async def take(self, exchange: Exchange) -> None:
        async with self._turn:
            for _ in range(min(BYTE_BY_BYTE, exchange.request.length)):
                await exchange.read_body(1)
            ahead = read_bytes() - self._before - self.taken_bytes
            self.most_ahead_bytes = max(self.most_ahead_bytes, ahead)
            self.taken_bytes += exchange.request.length
            await exchange.pass_on(await exchange.forward())


def make_bench(base: Path, endpoint: S3Endpoint, layout: str, *, memory_limit_bytes: int) -> Workbench:
    """A section whose tree is many times as large as what may be in memory."""
    bench = Workbench(
        base,
        f"s3://{endpoint.fresh_bucket()}",
        s3=endpoint.settings(),
        encrypted=layout.startswith("sealed"),
    )
    bench.configure(packed=layout.endswith("packed"))
    bench.settings = msgspec.structs.replace(bench.settings, memory_limit_bytes=memory_limit_bytes)
    chosen = random.Random(layout)
    for number in range(FILES):
        bench.write(f"d{number % 7}/f{number:05}", chosen.randbytes(FILE_BYTES))
    bench.write("large", chosen.randbytes(11 * MIB))
    return bench


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="slow reading"))
async def test_no_more_is_read_than_memory_is_allowed(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str
) -> None:
    limit = 8 * MIB
    bench = make_bench(tmp_path, memory_s3, layout, memory_limit_bytes=limit)
    await bench.initialise()
    async with ScoredProxy(memory_s3.url, score) as proxy:
        slow = msgspec.structs.replace(bench.settings, s3=memory_s3.settings(endpoint_url=proxy.url))
        await run_section(slow, bench.section, dry_run=True)  # loads what a run needs of the program
        endpoint = SlowEndpoint()
        for operation in ("PutObject", "UploadPart"):
            proxy.plan(operation, endpoint.take, times=0)
        summary = await run_section(slow, bench.section)
    assert summary.failures == ()
    assert endpoint.taken_bytes > 2 * limit
    assert limit / 4 < endpoint.most_ahead_bytes <= limit + ELSE_BYTES
    assert summary.peak_inflight_bytes <= limit
    await check_invariants(bench)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="slow memory"))
async def test_a_process_that_waits_takes_no_more_than_one_that_does_not(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str
) -> None:
    bench = make_bench(tmp_path, memory_s3, layout, memory_limit_bytes=16 * MIB)
    await bench.initialise()
    endpoint = SlowEndpoint()
    async with ScoredProxy(memory_s3.url, score) as proxy:
        for operation in ("PutObject", "UploadPart"):
            proxy.plan(operation, endpoint.take, times=0)
        ended = await asyncio.to_thread(measured, bench, "run", endpoint_url=proxy.url)
    assert ended.code == 0, ended.said
    assert endpoint.taken_bytes > 16 * MIB
    assert ended.peak_bytes < CEILING_BYTES
    await check_invariants(bench)
