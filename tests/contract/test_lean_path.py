"""The lean transfer path in a store: regions, refusals before the body, what it leaves to the library."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import uvloop

from asyncbackup.errors import AccessDeniedError, ObjectRefusedError, StoreError
from asyncbackup.store.base import Store
from asyncbackup.store.lean.transport import EXPECT_BYTES
from asyncbackup.store.open import open_store
from tests.contract.backends import QUICK, Backend, digest, pattern, s3_backend
from tests.servers.process import free_ports
from tests.servers.proxy import Action, Exchange, FaultProxy, answering, error_body

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

LARGE = pattern(2 * EXPECT_BYTES)

OpenStore = Callable[..., AbstractAsyncContextManager[Store]]


@pytest.fixture
def backend(moto_s3: S3Endpoint, buckets: dict[str, str]) -> Backend:
    return s3_backend(moto_s3, buckets)


@pytest.fixture
async def proxy(moto_s3: S3Endpoint) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(moto_s3.url) as running:
        yield running


@pytest.fixture
def through(proxy: FaultProxy, backend: Backend, moto_s3: S3Endpoint) -> OpenStore:
    @asynccontextmanager
    async def opened(*, concurrency: int = 4, **settings: object) -> AsyncIterator[Store]:
        s3 = moto_s3.settings(endpoint_url=proxy.url, **settings)
        async with open_store(backend.destination, s3=s3, concurrency=concurrency, policy=QUICK) as store:
            yield store

    return opened


def in_region(region: str, refuse: Action) -> Action:
    """What an endpoint does that knows one region: requests signed for another one are refused."""

    async def act(exchange: Exchange) -> None:
        if f"/{region}/s3/aws4_request" in exchange.request.headers["authorization"]:
            await exchange.pass_on(await exchange.forward())
        else:
            await refuse(exchange)

    return act


MALFORMED = (
    b"<Error><Code>AuthorizationHeaderMalformed</Code>"
    b"<Message>the region is wrong</Message><Region>eu-west-1</Region></Error>"
)


@pytest.mark.parametrize(
    "refuse",
    [
        answering(400, MALFORMED),
        answering(301, error_body("PermanentRedirect"), x_amz_bucket_region="eu-west-1"),
        answering(
            307,
            error_body("TemporaryRedirect"),
            x_amz_bucket_region="eu-west-1",
            Location="http://192.0.2.1/",
        ),
    ],
    ids=["malformed", "moved", "redirected"],
)
async def test_the_right_region_is_found(proxy: FaultProxy, through: OpenStore, refuse: Action) -> None:
    proxy.plan("*", in_region("eu-west-1", refuse), times=0)
    async with through() as store:
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(store.put(f"k{number}", b"body", sha256=digest(b"body")))
        assert await store.get("k1", limit=9) == b"body"
        upload = await store.create_upload("big", metadata={})
        part = await store.upload_part("big", upload, 1, LARGE, sha256=digest(LARGE))
        await store.complete_upload("big", upload, [part])
        refused = proxy.requests["PutObject"] - 4
        assert 1 <= refused <= 4
        assert proxy.requests["GetObject"] == proxy.requests["UploadPart"] == 1, "the region is remembered"


async def test_a_region_that_a_read_finds_out(proxy: FaultProxy, through: OpenStore) -> None:
    async with through(region="eu-west-1") as store:
        await store.put("key", b"body", sha256=digest(b"body"))
    proxy.plan("*", in_region("eu-west-1", answering(400, MALFORMED)), times=0)
    async with through() as store:
        assert await store.get("key", limit=9) == b"body"


async def test_a_region_that_is_not_the_matter(proxy: FaultProxy, through: OpenStore) -> None:
    proxy.plan("PutObject", answering(400, error_body("AuthorizationHeaderMalformed")), times=0)
    async with through() as store:
        for _ in range(3):
            with pytest.raises(StoreError, match="AuthorizationHeaderMalformed"):
                await store.put("key", b"x", sha256=digest(b"x"))
        assert proxy.requests["PutObject"] == 3
        assert proxy.requests["ListObjectsV2"] <= 1


@pytest.mark.parametrize("transfer", ["lean"], indirect=True)
async def test_a_region_is_looked_for_once_also_by_who_may_not_list(
    proxy: FaultProxy, through: OpenStore
) -> None:
    proxy.plan("PutObject", answering(400, error_body("AuthorizationHeaderMalformed")), times=3)
    proxy.plan("ListObjectsV2", answering(503, error_body("SlowDown")))
    proxy.plan("ListObjectsV2", answering(403, error_body("AccessDenied")))
    async with through() as store:
        for _ in range(3):
            with pytest.raises(StoreError, match="AuthorizationHeaderMalformed"):
                await store.put("key", b"x", sha256=digest(b"x"))
        assert proxy.requests["ListObjectsV2"] == 2


@pytest.mark.parametrize("transfer", ["lean"], indirect=True)
async def test_bodies_wait_until_one_was_welcome(proxy: FaultProxy, through: OpenStore) -> None:
    expected: list[bool] = []

    async def look(exchange: Exchange) -> None:
        expected.append("expect" in exchange.request.headers)
        if expected[-1]:
            await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await exchange.pass_on(await exchange.forward())

    async def refuse(exchange: Exchange) -> None:
        assert exchange.request.headers["expect"] == "100-continue"
        body = error_body("AccessDenied")
        await exchange.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await exchange.read_body()
        received.append(caught.value.partial)

    received: list[bytes] = []
    async with through() as store:
        proxy.plan("PutObject", refuse)
        with pytest.raises(AccessDeniedError):
            await store.put("large", LARGE, sha256=digest(LARGE))
        proxy.plan("PutObject", look, times=3)
        for body in (LARGE, LARGE, b"small"):
            await store.put("key", body, sha256=digest(body))
        proxy.plan("PutObject", answering(507))
        proxy.plan("PutObject", look)
        with pytest.raises(StoreError, match="full"):
            await store.put("key", b"x", sha256=digest(b"x"))
        await store.put("key", LARGE, sha256=digest(LARGE))
    assert expected == [True, False, False, True]
    assert received == [b""]


@pytest.mark.parametrize("transfer", ["lean"], indirect=True)
async def test_an_endpoint_that_does_not_know_expect(proxy: FaultProxy, through: OpenStore) -> None:
    expected: list[bool] = []

    async def refuse(exchange: Exchange) -> None:
        expected.append("expect" in exchange.request.headers)
        if expected[-1]:
            await exchange.send(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
            exchange.reset()
        else:
            await exchange.pass_on(await exchange.forward())

    proxy.plan("PutObject", refuse, times=2)
    async with through() as store:
        await store.put("key", LARGE, sha256=digest(LARGE))
        assert await store.get("key", limit=len(LARGE)) == LARGE
    assert expected == [True, False]


@pytest.mark.parametrize("transfer", ["lean"], indirect=True)
async def test_a_success_with_an_error_in_it_is_none(proxy: FaultProxy, through: OpenStore) -> None:
    etag = '"00000000000000000000000000000000"'
    proxy.plan("PutObject", answering(200, error_body("InternalError"), ETag=etag))
    async with through() as store:
        await store.put("key", b"x", sha256=digest(b"x"))
        assert store.requests["PutObject"] == 2
        assert await store.get("key", limit=9) == b"x"


async def test_a_checksum_of_other_bytes_is_no_success(proxy: FaultProxy, through: OpenStore) -> None:
    wrong = answering(200, ETag='"0"', x_amz_checksum_sha256="AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    proxy.plan("PutObject", wrong)
    async with through() as store:
        await store.put("key", b"x", sha256=digest(b"x"))
        assert store.requests["PutObject"] == 2


@pytest.mark.parametrize("transfer", ["lean"], indirect=True)
@pytest.mark.parametrize(
    ("name", "value"), [("a", "two\r\nx-amz-acl: public-read"), ("a b", "x"), ("a", "é")]
)
async def test_metadata_that_cannot_stand_in_a_header(
    through: OpenStore, proxy: FaultProxy, name: str, value: str
) -> None:
    async with through() as store:
        with pytest.raises(ObjectRefusedError, match="cannot stand in a header"):
            await store.put("key", b"x", sha256=digest(b"x"), metadata={name: value})
        assert not proxy.requests["PutObject"]


@pytest.mark.parametrize("key", ["a b", "ä€😀", "100%", "a+b&c=d?e#f", "~-._!*'()", "x" * 900, "a//b/./c"])
async def test_keys_of_every_kind(through: OpenStore, key: str) -> None:
    async with through() as store:
        await store.put(key, key.encode(), sha256=digest(key.encode()), metadata={"of": "it"})
        assert await store.get(key, limit=2000) == key.encode()
        info = await store.head(key)
        async with store.open(key) as reader:
            assert reader.info == info
            assert [chunk async for chunk in reader] == [key.encode()]


@pytest.mark.parametrize("transfer", ["lean"], indirect=True)
async def test_a_proxy_is_left_to_the_library(
    moto_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:hidden@127.0.0.1:{port}")
    caplog.set_level(logging.INFO)
    async with open_store("s3://bucket", s3=moto_s3.settings(), concurrency=2, policy=QUICK) as store:
        for _ in range(2):
            with pytest.raises(StoreError, match="no connection"):
                await store.put("key", b"x", sha256=digest(b"x"))
        with pytest.raises(StoreError, match="no connection"):
            await store.get("key", limit=1)
    (told,) = [record for record in caplog.records if "contents go through the S3 library" in record.message]
    assert f"127.0.0.1:{port}" in told.getMessage()
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("server", ["rclone_s3", "seaweed_s3", "moto_s3"])
def test_on_uvloop(
    server: str, transfer: str, request: pytest.FixtureRequest, buckets: dict[str, str]
) -> None:
    """What the command runs on; the other tests use asyncio's own loop."""
    backend = s3_backend(request.getfixturevalue(server), buckets)

    async def there_and_back() -> None:
        async with open_store(backend.destination, s3=backend.s3, concurrency=4, policy=QUICK) as store:

            async def one(number: int) -> None:
                body = pattern(number * 500_000, seed=number)
                await store.put(f"k{number}", [body[:1000], body[1000:]], sha256=digest(body))
                assert await store.get(f"k{number}", limit=len(body)) == body

            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    group.create_task(one(number))
            upload = await store.create_upload("big", metadata={})
            part = await store.upload_part("big", upload, 1, LARGE, sha256=digest(LARGE))
            await store.complete_upload("big", upload, [part])
            assert await store.get("big", limit=len(LARGE)) == LARGE

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(there_and_back())
