"""Reads through connections that break: the bytes are those of one object, all of them, or an error."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import StoreError
from asyncbackup.store.base import Store
from asyncbackup.store.open import open_store
from tests.contract.backends import QUICK, Backend, digest, pattern, s3_backend
from tests.servers.proxy import (
    Exchange,
    FaultProxy,
    Response,
    answering,
    error_body,
    reset_in_response,
    silence,
)

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

BODY = pattern(1_000_017)

OpenStore = Callable[..., AbstractAsyncContextManager[Store]]
Read = Callable[..., Awaitable[bytes]]


@pytest.fixture
def backend(moto_s3: S3Endpoint, buckets: dict[str, str]) -> Backend:
    """moto, which checks no signatures: the proxy may change what it forwards."""
    return s3_backend(moto_s3, buckets)


@pytest.fixture
async def proxy(moto_s3: S3Endpoint) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(moto_s3.url) as running:
        yield running


@pytest.fixture
def through(proxy: FaultProxy, backend: Backend, moto_s3: S3Endpoint) -> OpenStore:
    @asynccontextmanager
    async def opened(**settings: object) -> AsyncIterator[Store]:
        s3 = moto_s3.settings(endpoint_url=proxy.url, **settings)
        async with open_store(backend.destination, s3=s3, concurrency=2, policy=QUICK) as store:
            await store.put("key", BODY, sha256=digest(BODY))
            yield store

    return opened


async def _read(store: Store, offset: int = 0, length: int | None = None) -> bytes:
    async with store.open("key", offset=offset, length=length) as reader:
        return b"".join([chunk async for chunk in reader])


async def _fetch(store: Store) -> bytes:
    return b"".join(await store.fetch("key", size=len(BODY)))


async def _fill(store: Store, offset: int = 0, length: int | None = None) -> bytes:
    async with store.open("key", offset=offset, length=length) as reader:
        buffer = memoryview(bytearray(len(BODY) + 1))
        return bytes(buffer[: await reader.fill(buffer)])


@pytest.mark.parametrize("read", [_read, _fetch, _fill])
@pytest.mark.parametrize("after", [0, 1, 700_000, len(BODY) - 1])
async def test_a_broken_connection_is_resumed(
    proxy: FaultProxy, through: OpenStore, after: int, read: Read
) -> None:
    ranges = []

    async def look(exchange: Exchange) -> None:
        ranges.append((exchange.request.headers["range"], exchange.request.headers["if-match"]))
        await exchange.pass_on(await exchange.forward())

    proxy.plan("GetObject", reset_in_response(after))
    proxy.plan("GetObject", look)
    async with through() as store:
        etag = (await store.head("key")).etag

        assert await read(store) == BODY

    (asked,) = ranges
    start = re.fullmatch(r"bytes=(\d+)-(\d+)", asked[0])
    assert start is not None
    assert int(start[1]) <= after
    assert int(start[2]) == len(BODY) - 1
    assert asked[1] == etag


@pytest.mark.parametrize("read", [_read, _fill])
async def test_a_range_is_resumed_within_itself(proxy: FaultProxy, through: OpenStore, read: Read) -> None:
    proxy.plan("GetObject", reset_in_response(300_000))
    proxy.plan("GetObject", reset_in_response(100_000))
    async with through() as store:
        assert await read(store, 1000, 900_000) == BODY[1000:901_000]
        assert store.requests["GetObject"] == 3


@pytest.mark.parametrize("read", [_read, _fill])
async def test_breaks_without_end_are_given_up(proxy: FaultProxy, through: OpenStore, read: Read) -> None:
    proxy.plan("GetObject", reset_in_response(1000), times=0)
    async with through() as store:
        with pytest.raises(StoreError, match="given up after 3 attempts"):
            await read(store)
        assert store.requests["GetObject"] == 3
        proxy.heal()
        assert await read(store) == BODY


@pytest.mark.parametrize("read", [_read, _fill])
async def test_two_objects_are_never_mixed(proxy: FaultProxy, through: OpenStore, read: Read) -> None:
    async with through() as store:

        async def change_then_reset(exchange: Exchange) -> None:
            response = await exchange.forward()
            await exchange.send(response.head + response.body[:500_000])
            other = pattern(len(BODY), seed=5)
            await store.put("key", other, sha256=digest(other))
            exchange.reset()

        proxy.plan("GetObject", change_then_reset)
        with pytest.raises(StoreError, match="GetObject of 'key'"):
            await read(store)


@pytest.mark.parametrize("read", [_read, _fill])
async def test_a_body_that_ends_early_is_resumed(proxy: FaultProxy, through: OpenStore, read: Read) -> None:
    async def claim_less(exchange: Exchange) -> None:
        response = await exchange.forward()
        head = re.sub(rb"(?i)content-length: \d+", b"Content-Length: 500", response.head)
        await exchange.send(head + response.body[:500])

    proxy.plan("GetObject", claim_less)
    async with through() as store:
        # A ranged answer says how much there should have been; a whole one is believed.
        assert await read(store, 10, 100_000) == BODY[10:100_010]


@pytest.mark.parametrize("read", [_read, _fill])
async def test_more_bytes_than_asked_for_are_not_passed_on(
    proxy: FaultProxy, through: OpenStore, read: Read
) -> None:
    async def claim_more(exchange: Exchange) -> None:
        response = await exchange.forward()
        extra = response.body + b"extra bytes"
        head = re.sub(rb"(?i)content-length: \d+", b"Content-Length: %d" % len(extra), response.head)
        await exchange.send(head + extra)

    proxy.plan("GetObject", claim_more)
    async with through() as store:
        assert await read(store, 10, 100_000) == BODY[10:100_010]


def _as_200(response: Response) -> Response:
    head = re.sub(rb"^HTTP/1.1 206 [^\r]*", b"HTTP/1.1 200 OK", response.head)
    head = re.sub(rb"(?i)content-range: [^\r]*\r\n", b"", head)
    return Response(head, response.body)


@pytest.mark.parametrize("read", [_read, _fill])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1000), (1000, 500_000), (len(BODY) - 5, 5), (0, len(BODY)), (77, None)]
)
async def test_a_server_that_ignores_ranges(
    proxy: FaultProxy, through: OpenStore, offset: int, length: int | None, read: Read
) -> None:
    async def whole(exchange: Exchange) -> None:
        exchange.request.head = re.sub(rb"(?i)range: [^\r]*\r\n", b"", exchange.request.head)
        await exchange.pass_on(await exchange.forward())

    proxy.plan("GetObject", whole)
    async with through() as store:
        expected = BODY[offset:] if length is None else BODY[offset : offset + length]
        assert await read(store, offset, length) == expected


@pytest.mark.parametrize("read", [_read, _fill])
@pytest.mark.parametrize(("offset", "length"), [(1000, 500_000), (len(BODY) - 5, 5)])
async def test_a_server_that_calls_a_part_the_whole(
    proxy: FaultProxy, through: OpenStore, offset: int, length: int, read: Read
) -> None:
    async def part_as_whole(exchange: Exchange) -> None:
        await exchange.pass_on(_as_200(await exchange.forward()))

    proxy.plan("GetObject", part_as_whole)
    async with through() as store:
        assert await read(store, offset, length) == BODY[offset : offset + length]


@pytest.mark.parametrize("read", [_read, _fill])
async def test_a_server_that_sends_another_range(proxy: FaultProxy, through: OpenStore, read: Read) -> None:
    async def shifted(exchange: Exchange) -> None:
        exchange.request.head = exchange.request.head.replace(b"bytes=1000-1999", b"bytes=1001-2000")
        await exchange.pass_on(await exchange.forward())

    proxy.plan("GetObject", shifted)
    async with through() as store:
        with pytest.raises(StoreError, match="sent bytes from 1001 on where 1000 was asked for"):
            await read(store, 1000, 1000)


@pytest.mark.parametrize("read", [_read, _fill])
async def test_silence_in_mid_body_is_noticed(proxy: FaultProxy, through: OpenStore, read: Read) -> None:
    async def fall_silent(exchange: Exchange) -> None:
        response = await exchange.forward()
        await exchange.send(response.head + response.body[:1000])
        await exchange.silence()

    proxy.plan("GetObject", fall_silent)
    proxy.plan("GetObject", silence)
    async with through(timeout_seconds=0.6) as store:
        assert await read(store) == BODY
        assert store.requests["GetObject"] == 3


def _page(*keys: str, token: str = "", prefix: str = "") -> bytes:
    contents = "".join(f"<Contents><Key>{prefix}/{key}</Key><Size>1</Size></Contents>" for key in keys)
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        f"<ListBucketResult><Name>b</Name><IsTruncated>{'true' if token else 'false'}</IsTruncated>"
        f"{more}{contents}</ListBucketResult>"
    ).encode()


@pytest.mark.parametrize("tokens", [["t", "t"], ["t", "u", "t"], ["t", " "]])
async def test_a_listing_that_loops_ends(
    proxy: FaultProxy, through: OpenStore, backend: Backend, tokens: list[str]
) -> None:
    prefix = backend.destination.removeprefix("s3://").partition("/")[2]
    for number, token in enumerate(tokens):
        proxy.plan("ListObjectsV2", answering(200, _page(f"k{number}", token=token, prefix=prefix)))
    async with through() as store:
        keys: list[str] = []

        async def collect() -> None:
            async for page in store.list(""):
                keys.extend(info.key for info in page)

        with pytest.raises(StoreError, match="listing"):
            await collect()
    assert keys == [f"k{number}" for number in range(len(tokens))]


async def test_keys_elsewhere_are_not_listed(proxy: FaultProxy, through: OpenStore, backend: Backend) -> None:
    prefix = backend.destination.removeprefix("s3://").partition("/")[2]
    body = _page("docs/a", "other", prefix=prefix).replace(
        b"<Contents>", b"<Contents><Key>foreign</Key><Size>1</Size></Contents><Contents>", 1
    )
    proxy.plan("ListObjectsV2", answering(200, body))
    async with through() as store:
        assert [info.key async for page in store.list("docs/") for info in page] == ["docs/a"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "no listing"),
        (b"<html><body>hello</body></html>", "web page"),
        (b"<Unexpected/>", "no listing"),
        (b"<ListBucketResult><Name>b</Name>", "no listing|Internal Server Error"),
        (b"{} is not xml", "something came instead of an S3 answer: {} is not xml"),
    ],
)
async def test_a_listing_that_is_none(proxy: FaultProxy, through: OpenStore, body: bytes, text: str) -> None:
    proxy.plan("ListObjectsV2", answering(200, body), times=0)
    async with through() as store:
        with pytest.raises(StoreError, match=text):
            await anext(store.list(""))


@pytest.mark.parametrize("read", [_read, _fill])
async def test_an_archived_object_says_so(proxy: FaultProxy, through: OpenStore, read: Read) -> None:
    proxy.plan("GetObject", answering(403, error_body("InvalidObjectState")))
    async with through() as store:
        with pytest.raises(StoreError, match="archived; restore it"):
            await read(store)


@pytest.mark.parametrize(
    "header", [b"x-amz-meta-bad: \xff\xfe\r\n", b"Last-Modified: yesterday\r\n", b"Content-Length: x\r\n"]
)
async def test_headers_that_make_no_sense(proxy: FaultProxy, through: OpenStore, header: bytes) -> None:
    async def spoil(exchange: Exchange) -> None:
        response = await exchange.forward()
        name = header.partition(b":")[0]
        head = re.sub(rb"(?i)" + name + rb": [^\r]*\r\n", b"", response.head)
        await exchange.send(head[:-2] + header + b"\r\n" + response.body)

    proxy.plan("HeadObject", spoil, times=0)
    async with through() as store:
        with pytest.raises(StoreError, match="HeadObject of 'key'"):
            await store.head("key")
