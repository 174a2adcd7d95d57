"""Whole runs on real S3 servers: saved, unchanged, restored, stopped in the middle."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import Interrupted
from asyncbackup.flow.stop import StopRequest
from tests.servers.proxy import Exchange, FaultProxy
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import S3Endpoint


def fill(bench: Workbench) -> None:
    for number in range(30):
        bench.write(f"d{number % 3}/f{number}", os.urandom(number * 1000))
    bench.write("large", os.urandom(11 * MIB))
    bench.write(b"odd \xff name%41", b"odd")
    first = bench.write("linked", b"one content")
    os.link(first, bench.tree / "d1/linked too")
    (bench.tree / "to large").symlink_to("large")


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("server", ["rclone_s3", "seaweed_s3"])
async def test_saved_and_restored(
    request: pytest.FixtureRequest, tmp_path: Path, server: str, encrypted: bool
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server)
    bench = Workbench(
        tmp_path, f"s3://{endpoint.fresh_bucket()}/some/prefix", s3=endpoint.settings(), encrypted=encrypted
    )
    await bench.initialise()
    fill(bench)
    first = await bench.run()
    assert first.files_new == first.files_scanned == 34
    second = await bench.run()
    assert second.files_unchanged == 34
    assert sum(second.requests.values()) <= 5, "none a file"
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_never_more_requests_at_once_than_asked_for(tmp_path: Path, rclone_s3: S3Endpoint) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        bench = Workbench(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(endpoint_url=proxy.url)
        )
        bench.settings = msgspec.structs.replace(bench.settings, concurrency=3)
        await bench.initialise()
        fill(bench)
        await bench.run()
        assert proxy.peak == 3


async def test_a_stop_keeps_what_was_done_and_the_next_run_goes_on(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    stop = StopRequest()

    async def ask_to_stop(exchange: Exchange) -> None:
        stop.request()
        await exchange.pass_on(await exchange.forward())

    async with FaultProxy(rclone_s3.url) as proxy:
        bench = Workbench(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(endpoint_url=proxy.url)
        )
        await bench.initialise()
        fill(bench)
        bench.write("huge", os.urandom(40 * MIB))
        proxy.plan("UploadPart", ask_to_stop)
        with pytest.raises(Interrupted):
            await bench.run(stop=stop)
        assert await bench.snapshots() == []
        sent = proxy.requests["UploadPart"]
        summary = await bench.run()
        assert summary.files_new == summary.files_scanned == 35
        assert sent + summary.requests["UploadPart"] == 3 + 8, "no part was sent twice"
        assert picture(await bench.restored()) == picture(bench.tree)


async def test_a_stop_begins_no_further_request(tmp_path: Path, rclone_s3: S3Endpoint) -> None:
    stop = StopRequest()

    async def ask_to_stop(exchange: Exchange) -> None:
        stop.request()
        await exchange.pass_on(await exchange.forward())

    async with FaultProxy(rclone_s3.url) as proxy:
        bench = Workbench(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(endpoint_url=proxy.url)
        )
        await bench.initialise()
        for number in range(100):
            bench.write(f"f{number}", b"content")
        before = proxy.requests["PutObject"]
        proxy.plan("PutObject", ask_to_stop, skip=5)
        with pytest.raises(Interrupted):
            await bench.run(stop=stop)
        sent = proxy.requests["PutObject"] - before
        assert sent <= 6 + bench.settings.concurrency, "those that were under way are finished"


async def test_an_endpoint_that_throttles_is_waited_for(tmp_path: Path, rclone_s3: S3Endpoint) -> None:
    async def slow_down(exchange: Exchange) -> None:
        await exchange.answer(503, b"<Error><Code>SlowDown</Code><Message>planned</Message></Error>")

    async with FaultProxy(rclone_s3.url) as proxy:
        bench = Workbench(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(endpoint_url=proxy.url)
        )
        await bench.initialise()
        fill(bench)
        proxy.plan("PutObject", slow_down, times=5, skip=5)
        summary = await bench.run()
        assert summary.files_failed == 0
        assert picture(await bench.restored()) == picture(bench.tree)


async def test_concurrency_that_adapts_is_lowered_when_the_endpoint_says_so(
    tmp_path: Path, rclone_s3: S3Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="asyncbackup.store.slots")

    async def slow_down(exchange: Exchange) -> None:
        await exchange.answer(503, b"<Error><Code>SlowDown</Code><Message>planned</Message></Error>")

    async with FaultProxy(rclone_s3.url) as proxy:
        bench = Workbench(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(endpoint_url=proxy.url)
        )
        bench.settings = bench.settings.with_concurrency(None)
        await bench.initialise()
        fill(bench)
        proxy.plan("PutObject", slow_down, skip=5)
        summary = await bench.run()
        assert summary.files_failed == 0
        # Where the server is slow enough, there is time to try a step up again.
        assert summary.concurrency["final"] in (8, 12)
        assert proxy.peak <= summary.concurrency["peak"] <= 16
        assert f"{proxy.url}: 8 requests at once instead of 16: halved: SlowDown" in caplog.text
        assert picture(await bench.restored()) == picture(bench.tree)


async def test_a_stop_begins_no_request_beyond_those_that_concurrency_allows_by_now(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    stop = StopRequest()

    async def ask_to_stop(exchange: Exchange) -> None:
        stop.request()
        await exchange.pass_on(await exchange.forward())

    async with FaultProxy(rclone_s3.url) as proxy:
        bench = Workbench(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(endpoint_url=proxy.url)
        )
        bench.settings = bench.settings.with_concurrency(None)
        await bench.initialise()
        for number in range(100):
            bench.write(f"f{number}", b"content")
        before = proxy.requests["PutObject"]
        proxy.plan("PutObject", ask_to_stop, skip=5)
        with pytest.raises(Interrupted):
            await bench.run(stop=stop)
        assert proxy.requests["PutObject"] - before <= 6 + 16, "not the 100 that there are tasks for"


async def test_concurrency_that_adapts_rises_while_more_comes_through(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    """An endpoint that answers many at once, late: what comes in waves fills the window all the same."""

    async def late(exchange: Exchange) -> None:
        await asyncio.sleep(0.2)
        await exchange.pass_on(await exchange.forward())

    async with FaultProxy(rclone_s3.url) as proxy:
        bench = Workbench(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(endpoint_url=proxy.url)
        )
        bench.settings = bench.settings.with_concurrency(None)
        await bench.initialise()
        for number in range(200):
            bench.write(f"f{number}", b"%d" % number)
        proxy.plan("PutObject", late, times=0, path="/data/")
        summary = await bench.run()
        assert summary.files_new == 200
        assert summary.concurrency["peak"] > 16
        assert summary.concurrency["peak"] >= proxy.peak > 16
