"""Restoring from real S3 servers, and through a proxy that spoils what they answer."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import AccessDeniedError
from asyncbackup.restore import section
from asyncbackup.restore.large import LargeSettings
from tests.servers.proxy import Exchange, FaultProxy, answering, error_body, reset_in_response
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

KIB = 1024


def bench_at(base: Path, endpoint: S3Endpoint, *, url: str = "", encrypted: bool = False) -> Workbench:
    settings = endpoint.settings(endpoint_url=url or endpoint.url)
    return Workbench(base, f"s3://{endpoint.fresh_bucket()}/p", s3=settings, encrypted=encrypted)


async def flip_a_bit(exchange: Exchange) -> None:
    """The right answer, but for one bit of its last byte."""
    response = await exchange.forward()
    body = bytearray(response.body)
    body[-1] ^= 1
    response.body = bytes(body)
    await exchange.pass_on(response)


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files from 1 MiB on count as very large."""
    small = functools.partial(LargeSettings, ranged_from_bytes=MIB, range_bytes=256 * KIB)
    monkeypatch.setattr(section, "LargeSettings", small)


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("server", ["rclone_s3", "seaweed_s3"])
async def test_ranges_of_a_file_in_several_parts(
    request: pytest.FixtureRequest, tmp_path: Path, server: str
) -> None:
    bench = bench_at(tmp_path, request.getfixturevalue(server))
    await bench.initialise()
    bench.write("large", os.urandom(11 * MIB + 12_345))
    bench.write("exact", os.urandom(8 * 256 * KIB))
    await bench.run()
    summary = await bench.restore(tmp_path / "restored")
    assert summary.failures == ()
    assert summary.requests["GetObject"] == 2 + 45 + 8
    assert picture(tmp_path / "restored") == picture(bench.tree)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_a_bit_that_flipped_on_the_way_is_fetched_again(
    tmp_path: Path, rclone_s3: S3Endpoint, encrypted: bool, size: int
) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        bench = bench_at(tmp_path, rclone_s3, url=proxy.url, encrypted=encrypted)
        await bench.initialise()
        for name in ("a", "b", "c"):
            bench.write(name, os.urandom(size))
        await bench.run()
        proxy.plan("GetObject", flip_a_bit, path="/files/b")
        summary = await bench.restore(tmp_path / "restored")
    assert summary.failures == ()
    assert picture(tmp_path / "restored") == picture(bench.tree)


@pytest.mark.usefixtures("small_ranges")
async def test_a_range_that_is_spoilt_for_good_is_a_named_failure(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        bench = bench_at(tmp_path, rclone_s3, url=proxy.url)
        await bench.initialise()
        for name in ("a", "b", "c"):
            bench.write(name, os.urandom(2 * MIB))
        await bench.run()
        proxy.plan("GetObject", flip_a_bit, path="/files/b", times=0)
        summary = await bench.restore(tmp_path / "restored")
    assert [failure.path for failure in summary.failures] == [b"b"]
    assert "/files/b' is damaged: the SHA-256 differs" in summary.failures[0].reason
    assert sorted(os.listdir(tmp_path / "restored")) == ["a", "c"]


@pytest.mark.usefixtures("small_ranges")
async def test_broken_connections_are_gone_on_with(tmp_path: Path, rclone_s3: S3Endpoint) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        bench = bench_at(tmp_path, rclone_s3, url=proxy.url)
        await bench.initialise()
        for name in ("a", "b", "c"):
            bench.write(name, os.urandom(2 * MIB))
        bench.write("small", os.urandom(50_000))
        await bench.run()
        proxy.plan("GetObject", reset_in_response(100 * KIB), path="/files/a", times=2)
        proxy.plan("GetObject", reset_in_response(10_000), path="/files/small")
        proxy.plan("GetObject", answering(503, error_body("SlowDown")), path="/files/c", times=2)
        summary = await bench.restore(tmp_path / "restored")
    assert summary.failures == ()
    assert picture(tmp_path / "restored") == picture(bench.tree)


async def test_an_archived_object_is_a_named_failure(tmp_path: Path, rclone_s3: S3Endpoint) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        bench = bench_at(tmp_path, rclone_s3, url=proxy.url)
        await bench.initialise()
        bench.write("archived", b"1")
        bench.write("there", b"2")
        await bench.run()
        archived = answering(403, error_body("InvalidObjectState"))
        proxy.plan("GetObject", archived, path="/files/archived", times=0)
        summary = await bench.restore(tmp_path / "restored")
    assert [failure.path for failure in summary.failures] == [b"archived"]
    assert "archived; restore it to a readable storage class" in summary.failures[0].reason
    assert os.listdir(tmp_path / "restored") == ["there"]


async def test_lost_credentials_end_the_restore_and_the_next_goes_on(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        bench = bench_at(tmp_path, rclone_s3, url=proxy.url)
        bench.settings = msgspec.structs.replace(bench.settings, concurrency=2)
        await bench.initialise()
        for number in range(30):
            bench.write(f"f{number}", os.urandom(2000))
        await bench.run()
        denied = answering(403, error_body("AccessDenied"))
        proxy.plan("GetObject", denied, path="/files/", skip=15, times=0)
        with pytest.raises(AccessDeniedError):
            await bench.restore(tmp_path / "restored")
        assert len(os.listdir(tmp_path / "restored")) <= 15
        assert proxy.requests["GetObject"] < 25, "not every file meets the same refusal"
        proxy.heal()
        summary = await bench.restore(tmp_path / "restored")
        assert summary.files_resumed >= 10
        assert summary.files_restored + summary.files_resumed == 30
    assert picture(tmp_path / "restored") == picture(bench.tree)
