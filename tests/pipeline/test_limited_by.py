"""What limited a run, each with its real cause: a server that answers late, one that throttles, little
memory, much to compute, nothing to do."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup import limits
from tests.servers.proxy import Action, Exchange, FaultProxy, answering, error_body
from tests.workbench import MIB, Workbench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.servers import S3Endpoint


@pytest.fixture(autouse=True)
def _machine_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is with other things, and this process with its own proxy: what is tested
    are the other causes. What a stage computes is told by what waits for it."""
    monkeypatch.setattr(limits, "BUSY_SHARE", float("inf"))


@pytest.fixture
async def proxy(rclone_s3: S3Endpoint) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(rclone_s3.url) as running:
        yield running


@pytest.fixture
async def bench(tmp_path: Path, rclone_s3: S3Endpoint, proxy: FaultProxy) -> Workbench:
    s3 = rclone_s3.settings(endpoint_url=proxy.url)
    bench = Workbench(tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=s3)
    await bench.initialise()
    return bench


def after(seconds: float) -> Action:
    """A server that takes its time."""

    async def act(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await exchange.pass_on(await exchange.forward())

    return act


@pytest.mark.parametrize("layout", ["mirror", "packed", "encrypted"])
async def test_a_server_that_answers_late(
    bench: Workbench, proxy: FaultProxy, tmp_path: Path, layout: str
) -> None:
    bench.settings = msgspec.structs.replace(bench.settings, concurrency=2)
    if layout == "packed":
        bench.configure(packed=True)
        for number in range(6):
            bench.write(f"f{number}", os.urandom(3 * MIB // 2))
    else:
        for number in range(24):
            bench.write(f"f{number}", os.urandom(1000))
    if layout == "encrypted":
        base = tmp_path / "encrypted"
        base.mkdir()
        other = Workbench(base, bench.section.destination + "/sealed", s3=bench.settings.s3, encrypted=True)
        await other.initialise()
        other.settings = msgspec.structs.replace(other.settings, concurrency=2)
        bench.tree.rename(base / "filled")
        other.configure(path=base / "filled")
        bench = other
    proxy.plan("PutObject", after(0.15 if layout != "packed" else 0.6), times=0, path="/data/")
    summary = await bench.run()
    assert summary.limited_by == limits.LATENCY
    assert summary.limited_by_shares[limits.LATENCY] > 0.5
    assert sum(summary.limited_by_shares.values()) == pytest.approx(1, abs=0.01)


async def test_a_server_that_throttles(bench: Workbench, proxy: FaultProxy) -> None:
    for number in range(20):
        bench.write(f"f{number}", os.urandom(1000))
    slow_down = answering(503, error_body("SlowDown"), Retry_After="2")
    proxy.plan("PutObject", slow_down, times=2, skip=4, path="/data/")
    summary = await bench.run()
    assert summary.files_new == 20
    assert summary.limited_by == limits.THROTTLING


async def test_little_memory(bench: Workbench, proxy: FaultProxy) -> None:
    bench.settings = msgspec.structs.replace(bench.settings, memory_limit_bytes=11 * MIB)
    bench.write("large", os.urandom(40 * MIB))
    proxy.plan("UploadPart", after(0.3), times=0)
    summary = await bench.run()
    assert summary.limited_by == limits.BUDGET


@pytest.mark.parametrize("packed", [False, True], ids=["large file", "pack"])
async def test_much_to_compute(bench: Workbench, packed: bool) -> None:
    source = random.Random(1)
    words = [source.randbytes(5).hex().encode() for _ in range(4000)]
    text = b" ".join(source.choices(words, k=600_000))
    bench.configure(packed=packed, zstd_level=19 if packed else 15)
    if packed:
        for number in range(10):
            bench.write(f"f{number}", text[number * 300_000 : (number + 1) * 300_000])
    else:
        bench.write("large", text)
    summary = await bench.run()
    assert summary.limited_by == limits.CPU
    assert summary.limited_by_shares[limits.CPU] > 0.5


async def test_nothing_to_do(bench: Workbench) -> None:
    for number in range(300):
        bench.write(f"d{number % 30}/f{number}", b"content")
    await bench.run()
    summary = await bench.run()
    assert summary.files_unchanged == 300
    assert summary.limited_by == limits.WALK
