"""Measuring real endpoints: what is done, what is counted, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.bench.measurement import GET, HEAD, LIST, MULTIPART, PUT, Measurement
from asyncbackup.bench.runner import BenchCounters, run_bench
from asyncbackup.bench.schedule import MIB, BenchSettings
from asyncbackup.config import S3Settings
from asyncbackup.errors import AccessDeniedError, StoreError
from asyncbackup.traces import Traces
from tests.servers.proxy import FaultProxy, answering, error_body

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import S3Endpoint

SMALL = BenchSettings(
    sizes=(100, 70_000), part_sizes=(5 * MIB,), concurrencies=(1, 4), repeats=2, max_bytes=80 * MIB
)


@pytest.fixture(params=["rclone_s3", "seaweed_s3", "moto_s3"])
def endpoint(request: pytest.FixtureRequest) -> S3Endpoint:
    found: S3Endpoint = request.getfixturevalue(request.param)
    return found


def keys_of(endpoint: S3Endpoint, bucket: str) -> list[str]:
    """What an independent client sees in the bucket, unfinished uploads among it."""
    client = endpoint.client()
    try:
        keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
        return keys + [
            item["Key"] for item in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        ]
    finally:
        client.close()


def check_all(measurements: tuple[Measurement, ...]) -> None:
    by_cell = {(each.operation, each.size, each.concurrency): each for each in measurements}
    assert set(by_cell) == {
        (operation, size, level)
        for level in (1, 4)
        for operation, size in [
            (PUT, 100),
            (PUT, 70_000),
            (GET, 100),
            (GET, 70_000),
            (HEAD, 0),
            (LIST, 0),
            (MULTIPART, 5 * MIB),
        ]
    }
    for each in measurements:
        assert each.repeats == 2
        assert each.per_second > 0
        assert 0 < each.p50 <= each.p90 <= each.p99
        assert each.slowest_per_second <= each.per_second <= each.fastest_per_second
        assert not each.errors
    assert by_cell[PUT, 70_000, 4].count == 2 * 4
    assert by_cell[PUT, 100, 4].count == by_cell[GET, 100, 4].count == 2 * 32
    assert by_cell[GET, 70_000, 4].bytes == by_cell[GET, 70_000, 4].count * 70_000
    assert by_cell[MULTIPART, 5 * MIB, 4].bytes == 2 * 4 * 5 * MIB


async def test_everything_is_measured_and_nothing_stays(endpoint: S3Endpoint) -> None:
    bucket = endpoint.fresh_bucket()
    traces, counters, seen = Traces("bench"), BenchCounters(), list[Measurement]()
    result = await run_bench(
        f"s3://{bucket}/x",
        s3=endpoint.settings(),
        settings=SMALL,
        traces=traces,
        counters=counters,
        on_measurement=seen.append,
    )
    check_all(result.measurements)
    assert seen == list(result.measurements)
    assert (counters.cells, counters.cells_total) == (6, 6)
    assert result.bytes <= SMALL.max_bytes
    assert traces.left == []
    assert keys_of(endpoint, bucket) == []


async def test_a_folder(folder_destination: Path) -> None:
    traces = Traces("bench")
    result = await run_bench(f"file://{folder_destination}", s3=S3Settings(), settings=SMALL, traces=traces)
    check_all(result.measurements)
    assert list(folder_destination.iterdir()) == []


async def test_time_is_bounded(folder_destination: Path) -> None:
    """Each look at this clock takes a second."""
    now = iter(range(1_000_000))
    result = await run_bench(
        f"file://{folder_destination}",
        s3=S3Settings(),
        settings=msgspec.structs.replace(SMALL, max_seconds=10.0),
        traces=Traces("bench"),
        clock=lambda: float(next(now)),
    )
    # The first is measured, though with fewer operations than planned; all others are out of time.
    assert result.measurements[0].count < 2 * 32
    assert {(each.size, each.concurrency) for each in result.measurements} == {(100, 1), (0, 1)}
    assert len(result.out_of_time) == 5
    assert list(folder_destination.iterdir()) == []


async def test_interrupted_it_removes_what_it_wrote(seaweed_s3: S3Endpoint) -> None:
    bucket = seaweed_s3.fresh_bucket()
    async with FaultProxy(seaweed_s3.url) as proxy:
        reached = asyncio.Event()

        async def hold(exchange: object) -> None:
            reached.set()
            await asyncio.Event().wait()

        # In the middle of a multipart upload, with parts of it at the endpoint.
        proxy.plan("UploadPart", hold, skip=1)
        traces = Traces("bench")
        task = asyncio.ensure_future(
            run_bench(
                f"s3://{bucket}",
                s3=seaweed_s3.settings(endpoint_url=proxy.url),
                settings=SMALL,
                traces=traces,
            )
        )
        waiting = asyncio.ensure_future(reached.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert waiting.done(), f"it ended before that: {task}"
        assert keys_of(seaweed_s3, bucket) != []
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert traces.left == []
    assert keys_of(seaweed_s3, bucket) == []


async def test_what_cannot_be_removed_is_named(moto_s3: S3Endpoint) -> None:
    bucket = moto_s3.fresh_bucket()
    async with FaultProxy(moto_s3.url) as proxy:
        refused = answering(403, error_body("AccessDenied"))
        proxy.plan("DeleteObjects", refused, times=0)
        traces = Traces("bench")
        settings = BenchSettings(sizes=(100,), part_sizes=(), concurrencies=(2,), repeats=1)
        result = await run_bench(
            f"s3://{bucket}", s3=moto_s3.settings(endpoint_url=proxy.url), settings=settings, traces=traces
        )
    assert len(result.measurements) == 4
    assert traces.left == sorted(keys_of(moto_s3, bucket))
    assert len(traces.left) == 32 + 2
    assert "may not do this" in traces.reasons[0]


async def test_errors_and_throttling_are_counted(moto_s3: S3Endpoint) -> None:
    bucket = moto_s3.fresh_bucket()
    async with FaultProxy(moto_s3.url) as proxy:
        proxy.plan("GetObject", answering(503, error_body("SlowDown")), times=2)
        proxy.plan("HeadObject", answering(410), times=3)
        settings = BenchSettings(sizes=(100,), part_sizes=(), concurrencies=(4,), repeats=1)
        result = await run_bench(
            f"s3://{bucket}",
            s3=moto_s3.settings(endpoint_url=proxy.url),
            settings=settings,
            traces=Traces("bench"),
        )
    found = {each.operation: each for each in result.measurements}
    assert (found[GET].count, found[GET].retries, found[GET].throttled) == (32, 2, 2)
    assert found[GET].errors == {}
    assert (found[HEAD].count, found[HEAD].errors) == (29, {"410": 3})


async def test_nothing_is_measured_without_credentials_or_bucket(
    moto_s3: S3Endpoint, seaweed_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="no-such-bucket"):
        await run_bench(
            "s3://no-such-bucket", s3=moto_s3.settings(), settings=SMALL, traces=(traces := Traces("bench"))
        )
    assert traces.prefix.startswith("asyncbackup-bench-")
    assert traces.left == []
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDeniedError):
        await run_bench(
            f"s3://{seaweed_s3.fresh_bucket()}",
            s3=seaweed_s3.settings(),
            settings=SMALL,
            traces=Traces("bench"),
        )
