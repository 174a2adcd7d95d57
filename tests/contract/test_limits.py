"""Bounds that hold whatever is asked for: requests at once, and what a cancelled call leaves behind."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import ObjectMissingError
from asyncbackup.store.local import LocalStore
from asyncbackup.store.open import open_store
from tests.contract.backends import QUICK, Backend, digest, pattern, s3_backend
from tests.servers.proxy import Exchange, FaultProxy

if TYPE_CHECKING:
    from asyncbackup.store.base import Store
    from tests.servers import S3Endpoint


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_requests_at_once_than_allowed(
    seaweed_s3: S3Endpoint, buckets: dict[str, str], concurrency: int
) -> None:
    backend = s3_backend(seaweed_s3, buckets)
    async with FaultProxy(seaweed_s3.url) as proxy:
        s3 = seaweed_s3.settings(endpoint_url=proxy.url)
        async with open_store(backend.destination, s3=s3, concurrency=concurrency, policy=QUICK) as store:
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(store.put(f"n/{number}", b"x", sha256=digest(b"x")))

            async def read(number: int) -> None:
                async with store.open(f"n/{number}") as reader:
                    assert [chunk async for chunk in reader] == [b"x"]

            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(read(number))

        assert proxy.peak == concurrency
        assert proxy.requests["PutObject"] == proxy.requests["GetObject"] == 20


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
async def test_cancelling_a_put_leaves_the_store_usable(store: Store, backend: Backend, turns: int) -> None:
    body = pattern(8 * 1024 * 1024)

    for _ in range(5):  # One more than there are request slots.
        task = asyncio.ensure_future(store.put("cancelled", body, sha256=digest(body)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await store.put("other", body, sha256=digest(body))
    assert await store.get("other", limit=len(body)) == body
    # Whether the write happened is unknown; half of it never is.
    with suppress(ObjectMissingError):
        assert (await store.head("cancelled")).size == len(body)


async def test_cancelling_in_mid_body_frees_the_slot(seaweed_s3: S3Endpoint, buckets: dict[str, str]) -> None:
    body = pattern(4 * 1024 * 1024)
    backend = s3_backend(seaweed_s3, buckets)
    reached = asyncio.Event()

    async def stall(exchange: Exchange) -> None:
        await exchange.read_body(100_000)
        reached.set()
        await exchange.silence()

    async with FaultProxy(seaweed_s3.url) as proxy:
        proxy.plan("PutObject", stall)
        s3 = seaweed_s3.settings(endpoint_url=proxy.url)
        async with open_store(backend.destination, s3=s3, concurrency=1, policy=QUICK) as store:
            task = asyncio.ensure_future(store.put("stalled", body, sha256=digest(body)))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            await store.put("next", body, sha256=digest(body))
            with pytest.raises(ObjectMissingError):
                await store.head("stalled")


@pytest.mark.parametrize("named_temporaries", [False, True])
async def test_a_cancelled_put_leaves_no_temporary_file(tmp_path: Path, named_temporaries: bool) -> None:
    body = pattern(8 * 1024 * 1024)
    store = await LocalStore.connect(tmp_path, concurrency=2, named_temporaries=named_temporaries)
    upload = await store.create_upload("multipart", metadata={})
    for turns in range(12):
        calls = [
            asyncio.ensure_future(store.put(f"sub/{turns}", body, sha256=digest(body))),
            asyncio.ensure_future(store.upload_part("multipart", upload, 1, body, sha256=digest(body))),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await store.abort_upload("multipart", upload)
    await store.aclose()

    files = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    assert {path.parent for path in files} <= {tmp_path / "sub"}
    assert {path.stat().st_size for path in files} <= {len(body)}
    assert not [path for path in files if path.name.startswith(".")]
    assert not (tmp_path / ".asyncbackup-uploads").exists()
