"""Servers that stand still in the midst of something: noticed, sent again on another connection, and gone on
with once they move. Real servers, stopped by SIGSTOP, and woken when the store has told that it noticed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import StoreError
from asyncbackup.store.open import open_store
from tests.contract.backends import QUICK, digest, pattern
from tests.servers import S3Endpoint, run_rclone
from tests.servers.relay import Relay
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from asyncbackup.config import S3Settings
    from tests.servers.process import ServerProcess

PATIENT = msgspec.structs.replace(QUICK, max_attempts=20)
LARGE = pattern(40 * MIB)
"""More than the sockets on the way buffer."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[S3Endpoint, ServerProcess]]:
    """A server of the test's own: no other test stands still with it."""
    with run_rclone(tmp_path / "server") as running:
        yield running
        running[1].thaw()


@pytest.fixture(params=["lean", "library"])
def transfer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def relay(server: tuple[S3Endpoint, ServerProcess]) -> AsyncIterator[Relay]:
    async with Relay(server[0].url) as running:
        yield running


@pytest.fixture
def s3(server: tuple[S3Endpoint, ServerProcess], relay: Relay, transfer: str) -> S3Settings:
    return server[0].settings(endpoint_url=relay.url, timeout_seconds=1.0, transfer=transfer)


async def test_in_mid_put(server: tuple[S3Endpoint, ServerProcess], relay: Relay, s3: S3Settings) -> None:
    endpoint, process = server
    told: list[str] = []

    def noticed(line: str) -> None:
        told.append(line)
        process.thaw()

    destination = f"s3://{endpoint.fresh_bucket()}"
    async with open_store(destination, s3=s3, concurrency=2, policy=PATIENT, on_retry=noticed) as store:
        relay.after(2 * MIB, process.freeze)
        await store.put("key", LARGE, sha256=digest(LARGE))
        assert store.requests["PutObject"] == 1 + len(told)
        assert await store.get("key", limit=len(LARGE)) == LARGE
    assert "no answer for 1 s; attempt 2" in told[0], "the body's time to be sent is not waited for"
    assert relay.connections >= 2


async def test_in_mid_get(server: tuple[S3Endpoint, ServerProcess], relay: Relay, s3: S3Settings) -> None:
    endpoint, process = server
    told: list[str] = []

    def noticed(line: str) -> None:
        told.append(line)
        process.thaw()

    destination = f"s3://{endpoint.fresh_bucket()}"
    async with open_store(destination, s3=endpoint.settings(), concurrency=2) as store:
        await store.put("key", LARGE, sha256=digest(LARGE))
    async with open_store(destination, s3=s3, concurrency=2, policy=PATIENT, on_retry=noticed) as store:
        relay.after(2 * MIB, process.freeze)
        got = hashlib.sha256()
        async with store.open("key") as reader:
            async for chunk in reader:
                got.update(chunk)
        assert got.digest() == digest(LARGE)
    assert "no byte came for 1 s" in told[0]
    assert relay.connections >= 2


async def test_one_that_never_moves_again(
    server: tuple[S3Endpoint, ServerProcess], relay: Relay, s3: S3Settings
) -> None:
    endpoint, process = server
    destination = f"s3://{endpoint.fresh_bucket()}"
    async with open_store(destination, s3=s3, concurrency=2, policy=QUICK) as store:
        relay.after(2 * MIB, process.freeze)
        with pytest.raises(StoreError, match=r"'key' failed: no answer for 1 s \(given up after 3 attempts"):
            await store.put("key", LARGE, sha256=digest(LARGE))


async def test_a_run_goes_on_when_the_server_does(
    server: tuple[S3Endpoint, ServerProcess],
    relay: Relay,
    s3: S3Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint, process = server
    base = tmp_path / "bench"
    base.mkdir()
    bench = Workbench(base, f"s3://{endpoint.fresh_bucket()}", s3=s3)
    bench.settings = msgspec.structs.replace(
        bench.settings, memory_limit_bytes=200 * MIB, part_size_bytes=50 * MIB
    )
    await bench.initialise()
    for number in range(10):
        bench.write(f"f{number}", pattern(1000, seed=number))
    bench.write("large", LARGE)

    class Wake:
        """Wakes the server when a request is sent again."""

        def filter(self, record: object) -> bool:
            process.thaw()
            return True

    caplog.set_level("INFO", logger="asyncbackup.engine")
    caplog.handler.addFilter(wake := Wake())
    try:
        relay.after(2 * MIB, process.freeze)
        summary = await bench.run()
    finally:
        caplog.handler.removeFilter(wake)
    assert summary.files_failed == 0
    assert "no answer for 1 s" in caplog.text
    bench.settings = msgspec.structs.replace(bench.settings, s3=endpoint.settings())
    assert picture(await bench.restored()) == picture(bench.tree)
