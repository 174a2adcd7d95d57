"""Writes through an endpoint that fails: what is said to be saved is saved, and nothing is sent for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from asyncbackup.errors import (
    AccessDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectRefusedError,
    StoreError,
    UnsupportedError,
)
from asyncbackup.store.base import Store
from asyncbackup.store.open import open_store
from asyncbackup.store.retry import RetryPolicy
from tests.contract.backends import QUICK, Backend, digest, pattern, s3_backend
from tests.servers import ACCESS_KEY, SECRET_KEY, S3Endpoint, run_rclone
from tests.servers.proxy import (
    Action,
    Exchange,
    FaultProxy,
    answering,
    applied_but_answering,
    applied_unanswered,
    error_body,
    reset,
    reset_in_request,
    silence,
)

BODY = pattern(600_000)
PART = pattern(700_000, seed=1)
"""The only part of its upload: the last one may be as small as it likes."""
HTML = b"<!DOCTYPE html><html><title>Hotel WLAN</title>Please log in</html>"
UPLOADED = b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"

OpenStore = Callable[..., AbstractAsyncContextManager[Store]]


@pytest.fixture
def backend(seaweed_s3: S3Endpoint, buckets: dict[str, str]) -> Backend:
    """SeaweedFS, which checks signatures, digests and conditions."""
    return s3_backend(seaweed_s3, buckets)


@pytest.fixture
async def proxy(seaweed_s3: S3Endpoint) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(seaweed_s3.url) as running:
        yield running


@pytest.fixture
def through(proxy: FaultProxy, backend: Backend, seaweed_s3: S3Endpoint) -> OpenStore:
    """Opens a store whose requests go through the proxy; keywords are fields of ``S3Settings``."""

    @asynccontextmanager
    async def opened(*, concurrency: int = 4, **settings: object) -> AsyncIterator[Store]:
        s3 = seaweed_s3.settings(endpoint_url=proxy.url, **settings)
        async with open_store(backend.destination, s3=s3, concurrency=concurrency, policy=QUICK) as store:
            yield store

    return opened


TRANSIENT: dict[str, Action] = {
    "internal error": answering(500, error_body("InternalError")),
    "bad gateway": answering(502, b"<html>bad gateway</html>", Content_Type="text/html"),
    "slow down": answering(503, error_body("SlowDown")),
    "unavailable without a body": answering(503),
    "too many requests": answering(429, error_body("TooManyRequests")),
    "request timeout": answering(400, error_body("RequestTimeout")),
    "damaged on the way": answering(400, error_body("BadDigest")),
    "conflict": answering(409, error_body("OperationAborted")),
    "reset": reset,
    "reset in mid-body": reset_in_request(300_000),
    "applied, unanswered": applied_unanswered,
    "applied, 500": applied_but_answering(500, error_body("InternalError")),
    "a web page": answering(200, HTML, Content_Type="text/html"),
    "an empty 200": answering(200),
}


@pytest.mark.parametrize("fault", TRANSIENT)
async def test_a_put_survives(proxy: FaultProxy, through: OpenStore, fault: str) -> None:
    proxy.plan("PutObject", TRANSIENT[fault], times=2)
    async with through() as store:
        await store.put("key", [BODY[:100], BODY[100:]], sha256=digest(BODY), metadata={"mtime": "1.0"})

        assert await store.get("key", limit=len(BODY)) == BODY
        assert (await store.head("key")).metadata == {"mtime": "1.0"}
        assert store.requests["PutObject"] == proxy.requests["PutObject"] == 3


@pytest.mark.parametrize("fault", TRANSIENT)
async def test_a_part_survives(proxy: FaultProxy, through: OpenStore, fault: str) -> None:
    proxy.plan("UploadPart", TRANSIENT[fault], times=2)
    async with through() as store:
        upload = await store.create_upload("key", metadata={})
        part = await store.upload_part("key", upload, 1, [PART[:100], PART[100:]], sha256=digest(PART))
        await store.complete_upload("key", upload, [part])

        assert await store.get("key", limit=len(PART)) == PART
        assert store.requests["UploadPart"] == proxy.requests["UploadPart"] == 3


@pytest.mark.parametrize("fault", [fault for fault in TRANSIENT if fault != "reset in mid-body"])
async def test_small_operations_survive(proxy: FaultProxy, through: OpenStore, fault: str) -> None:
    operations = ["CreateMultipartUpload", "CopyObject", "HeadObject", "ListObjectsV2"]
    operations += ["ListMultipartUploads", "ListParts", "AbortMultipartUpload", "DeleteObject", "GetObject"]
    if fault == "an empty 200":
        operations.remove("AbortMultipartUpload")  # Some endpoints answer like that.
        operations.remove("DeleteObject")
    if fault in ("request timeout", "damaged on the way", "conflict"):
        operations.remove("HeadObject")  # An answer to HEAD has no error code, only its status.
    for operation in operations:
        proxy.plan(operation, TRANSIENT[fault])
    async with through() as store:
        await store.put("key", BODY, sha256=digest(BODY))
        await store.copy("key", "copy", metadata={})
        assert (await store.head("copy")).size == len(BODY)
        assert await store.get("copy", limit=len(BODY)) == BODY
        assert [info.key async for page in store.list("") for info in page] == ["copy", "key"]
        upload = await store.create_upload("big", metadata={})
        assert await store.list_parts("big", upload) == []
        listed = [item.upload_id async for page in store.list_uploads("") for item in page]
        assert upload in listed
        for orphan in listed:  # A CreateMultipartUpload that was applied but not answered left one.
            await store.abort_upload("big", orphan)
        assert [item async for page in store.list_uploads("") for item in page] == []
        await store.delete(["copy"])
        assert [info.key async for page in store.list("") for info in page] == ["key"]
    assert store.requests == proxy.requests, "nobody below sends anything again"


@pytest.mark.parametrize("operation", ["PutObject", "HeadObject", "ListObjectsV2", "GetObject"])
async def test_a_lasting_fault_is_given_up(proxy: FaultProxy, through: OpenStore, operation: str) -> None:
    proxy.plan(operation, answering(500, error_body("InternalError", "the disk is on fire")), times=0)
    async with through() as store:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "PutObject": lambda: store.put("key", b"x", sha256=digest(b"x")),
            "HeadObject": lambda: store.head("key"),
            "GetObject": lambda: store.get("key", limit=1),
            "ListObjectsV2": lambda: anext(store.list("")),
        }
        with pytest.raises(StoreError, match=r"\(given up after 3 attempts\)") as caught:
            await calls[operation]()
        assert "the disk is on fire" in str(caught.value) or operation == "HeadObject"
        assert caught.value.operation == operation
        assert store.requests[operation] == QUICK.max_attempts


async def test_a_captive_portal_is_named(proxy: FaultProxy, through: OpenStore) -> None:
    page = answering(200, HTML, Content_Type="text/html")
    for operation in ("PutObject", "ListObjectsV2", "CopyObject"):
        proxy.plan(operation, page, times=0)
    async with through() as store:
        with pytest.raises(StoreError, match="web page"):
            await store.put("key", b"x", sha256=digest(b"x"))
        with pytest.raises(StoreError, match=r"web page came instead of an S3 answer: .*Hotel WLAN"):
            await anext(store.list(""))
        with pytest.raises(StoreError, match="web page"):
            await store.copy("key", "copy", metadata={})


async def test_silence_ends_in_time(proxy: FaultProxy, through: OpenStore) -> None:
    proxy.plan("PutObject", silence, times=0)
    async with through(timeout_seconds=0.6) as store:
        with pytest.raises(StoreError, match=r"no answer for 1 s \(given up after 3 attempts\)"):
            await store.put("key", b"x", sha256=digest(b"x"))


async def test_silence_after_the_body_ends_in_time(proxy: FaultProxy, through: OpenStore) -> None:
    async def swallow(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.silence()

    small = pattern(20_000)
    proxy.plan("PutObject", swallow)
    async with through(timeout_seconds=0.6) as store:
        await store.put("key", small, sha256=digest(small))
        assert await store.get("key", limit=len(small)) == small


async def test_a_put_that_was_applied_twice_is_no_conflict(proxy: FaultProxy, through: OpenStore) -> None:
    proxy.plan("PutObject", applied_unanswered)
    async with through() as store:
        await store.put("once", b"mine", sha256=digest(b"mine"), if_absent=True)
        assert await store.get("once", limit=9) == b"mine"

        with pytest.raises(ObjectExistsError):
            await store.put("once", b"size", sha256=digest(b"size"), if_absent=True)


async def test_a_conditional_put_where_conditions_are_unknown(proxy: FaultProxy, through: OpenStore) -> None:
    async def unknown_condition(exchange: Exchange) -> None:
        assert exchange.request.headers["if-none-match"] == "*"
        await exchange.answer(501, error_body("NotImplemented"))

    proxy.plan("PutObject", unknown_condition)
    async with through() as store:
        await store.put("once", b"mine", sha256=digest(b"mine"), if_absent=True)
        assert await store.get("once", limit=9) == b"mine"


@pytest.mark.parametrize(
    "fault",
    [
        applied_unanswered,
        applied_but_answering(500, error_body("InternalError")),
        applied_but_answering(200, error_body("InternalError")),
        applied_but_answering(200, UPLOADED),
    ],
    ids=["unanswered", "500", "200 with an error", "200 that says nothing"],
)
async def test_a_complete_that_was_applied(proxy: FaultProxy, through: OpenStore, fault: Action) -> None:
    proxy.plan("CompleteMultipartUpload", fault)
    # SeaweedFS completes twice; others know the upload no more.
    proxy.plan("CompleteMultipartUpload", answering(404, error_body("NoSuchUpload")))
    async with through() as store:
        upload = await store.create_upload("key", metadata={"mtime": "1.0"})
        part = await store.upload_part("key", upload, 1, PART, sha256=digest(PART))

        result = await store.complete_upload("key", upload, [part])

        assert result.etag == (await store.head("key")).etag
        assert await store.get("key", limit=len(PART)) == PART
        assert store.requests["CompleteMultipartUpload"] == 2


@pytest.mark.parametrize(
    "body",
    [error_body("InternalError"), b" \n \n" + error_body("SlowDown"), b"", HTML],
    ids=["error", "error after white space", "empty", "html"],
)
async def test_200_with_an_error_is_no_success(proxy: FaultProxy, through: OpenStore, body: bytes) -> None:
    proxy.plan("CompleteMultipartUpload", answering(200, body))
    proxy.plan("CopyObject", answering(200, body))
    async with through() as store:
        upload = await store.create_upload("key", metadata={})
        part = await store.upload_part("key", upload, 1, PART, sha256=digest(PART))
        await store.complete_upload("key", upload, [part])
        assert await store.get("key", limit=len(PART)) == PART

        await store.copy("key", "copy", metadata={"new": "1"})
        assert (await store.head("copy")).metadata == {"new": "1"}


@pytest.mark.parametrize("transfer", ["lean"], indirect=True)
@pytest.mark.parametrize("body", [error_body("AccessDenied"), error_body("EntityTooLarge")])
async def test_200_with_a_refusal_is_one(proxy: FaultProxy, through: OpenStore, body: bytes) -> None:
    proxy.plan("CompleteMultipartUpload", answering(200, body))
    async with through() as store:
        upload = await store.create_upload("key", metadata={})
        part = await store.upload_part("key", upload, 1, PART, sha256=digest(PART))
        with pytest.raises((AccessDeniedError, ObjectRefusedError)):
            await store.complete_upload("key", upload, [part])
        await store.abort_upload("key", upload)
        with pytest.raises(ObjectMissingError):
            await store.head("key")
        assert store.requests["CompleteMultipartUpload"] == 1


async def test_an_upload_that_vanished_is_no_success(proxy: FaultProxy, through: OpenStore) -> None:
    proxy.plan("CompleteMultipartUpload", answering(404, error_body("NoSuchUpload")))
    async with through() as store:
        await store.put("key", b"another object", sha256=digest(b"another object"))
        upload = await store.create_upload("key", metadata={})
        part = await store.upload_part("key", upload, 1, PART, sha256=digest(PART))
        with pytest.raises(ObjectMissingError, match="NoSuchUpload"):
            await store.complete_upload("key", upload, [part])
        await store.abort_upload("key", upload)


async def test_checksums_of_parts_where_they_are_refused(proxy: FaultProxy, through: OpenStore) -> None:
    seen: list[tuple[bool, bool]] = []

    async def refuse_checksums(exchange: Exchange) -> None:
        headers = exchange.request.headers
        seen.append(("x-amz-checksum-algorithm" in headers, "x-amz-checksum-type" in headers))
        if "x-amz-checksum-algorithm" in headers:
            await exchange.answer(400, error_body("InvalidArgument"))
        else:
            await exchange.pass_on(await exchange.forward())

    bodies: list[bytes] = []

    async def look(exchange: Exchange) -> None:
        bodies.append(await exchange.read_body())
        await exchange.pass_on(await exchange.forward())

    proxy.plan("CreateMultipartUpload", refuse_checksums, times=0)
    proxy.plan("CompleteMultipartUpload", look, times=0)
    async with through() as store:
        for key in ("one", "two"):
            upload = await store.create_upload(key, metadata={})
            part = await store.upload_part(key, upload, 1, PART, sha256=digest(PART))
            await store.complete_upload(key, upload, [part])
            assert (await store.head(key)).size == len(PART)
    assert seen == [(True, True), (True, False), (False, False), (False, False)]
    assert len(bodies) == 2
    assert not any(b"Checksum" in body for body in bodies)


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (403, "AccessDenied", AccessDeniedError, "may not do this"),
        (403, "", AccessDeniedError, "may not do this"),
        (400, "ExpiredToken", AccessDeniedError, "log in again"),
        (403, "RequestTimeTooSkewed", AccessDeniedError, "clock"),
        (400, "KeyTooLongError", ObjectRefusedError, "refuses the object"),
        (400, "MetadataTooLarge", ObjectRefusedError, "refuses the object"),
        (400, "EntityTooLarge", ObjectRefusedError, "refuses the object"),
        (413, "", ObjectRefusedError, "refuses the object"),
        (501, "NotImplemented", UnsupportedError, "does not do this"),
        (400, "InvalidStorageClass", StoreError, "storage_class"),
        (507, "", StoreError, "full"),
    ],
)
async def test_refusals_are_final(
    proxy: FaultProxy, through: OpenStore, status: int, code: str, kind: type[StoreError], text: str
) -> None:
    proxy.plan("PutObject", answering(status, error_body(code) if code else b""))
    async with through() as store:
        with pytest.raises(kind, match=text):
            await store.put("key", b"x", sha256=digest(b"x"))
        assert store.requests["PutObject"] == 1


async def test_credentials_that_were_renewed_meanwhile(
    proxy: FaultProxy,
    backend: Backend,
    seaweed_s3: S3Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def log_in(access_key: str, secret_key: str) -> None:
        lines = ["[default]", f"aws_access_key_id = {access_key}", f"aws_secret_access_key = {secret_key}"]
        (tmp_path / "credentials").write_text("\n".join(lines))

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    signers: list[str] = []

    async def expire(exchange: Exchange) -> None:
        signers.append(exchange.request.headers["authorization"])
        log_in(ACCESS_KEY, SECRET_KEY)
        await exchange.answer(400, error_body("ExpiredToken"))

    log_in("AKIAEXPIREDEXPIRED00", "old")
    proxy.plan("PutObject", expire, times=2)
    s3 = seaweed_s3.settings(endpoint_url=proxy.url)
    async with open_store(backend.destination, s3=s3, concurrency=2, policy=QUICK) as store:
        async with asyncio.TaskGroup() as group:
            for key in ("one", "two"):
                group.create_task(store.put(key, key.encode(), sha256=digest(key.encode())))
        assert await store.get("one", limit=9) == b"one"
        assert await store.get("two", limit=9) == b"two"
        assert store.requests["PutObject"] == 4

        # Nobody logged in again: the refusal stands.
        proxy.plan("PutObject", answering(400, error_body("ExpiredToken")))
        with pytest.raises(AccessDeniedError, match="log in again"):
            await store.put("three", b"", sha256=digest(b""))
    assert all("AKIAEXPIREDEXPIRED00" in signer for signer in signers)


async def test_credentials_of_a_process_that_the_endpoint_calls_expired(
    proxy: FaultProxy,
    backend: Backend,
    seaweed_s3: S3Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = tmp_path / "answer.json"

    def give_out(access_key: str, secret_key: str) -> None:
        given = {"Version": 1, "AccessKeyId": access_key, "SecretAccessKey": secret_key}
        answer.write_text(json.dumps({**given, "Expiration": "2999-01-01T00:00:00Z"}))

    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {answer}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    signers: list[str] = []

    async def expire(exchange: Exchange) -> None:
        signers.append(exchange.request.headers["authorization"])
        give_out(ACCESS_KEY, SECRET_KEY)
        await exchange.answer(400, error_body("ExpiredToken"))

    give_out("AKIAEXPIREDEXPIRED00", "old")
    proxy.plan("PutObject", expire)
    s3 = seaweed_s3.settings(endpoint_url=proxy.url)
    async with open_store(backend.destination, s3=s3, concurrency=2, policy=QUICK) as store:
        await store.put("key", b"x", sha256=digest(b"x"))
        assert await store.get("key", limit=1) == b"x"

        # The process has no others: the refusal stands.
        proxy.plan("PutObject", answering(400, error_body("ExpiredToken")))
        with pytest.raises(AccessDeniedError, match="log in again"):
            await store.put("key", b"x", sha256=digest(b"x"))
        # Nor does one that fails make anything else of it.
        answer.unlink()
        proxy.plan("PutObject", answering(400, error_body("ExpiredToken")))
        with pytest.raises(AccessDeniedError, match="log in again"):
            await store.put("key", b"x", sha256=digest(b"x"))
        assert store.requests["PutObject"] == 4
    assert len(signers) == 1
    assert "AKIAEXPIREDEXPIRED00" in signers[0]


def signing_time(exchange: Exchange) -> datetime:
    return datetime.strptime(exchange.request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


async def test_a_clock_that_differs_is_corrected_by_the_endpoints(
    proxy: FaultProxy, through: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy says that it is two hours later; SeaweedFS then refuses what is signed so, and says why."""
    later = datetime.now(UTC) + timedelta(hours=2)
    signed: list[timedelta] = []

    async def too_skewed(exchange: Exchange) -> None:
        await exchange.answer(
            403, error_body("RequestTimeTooSkewed"), Date=format_datetime(later, usegmt=True)
        )

    async def look(exchange: Exchange) -> None:
        signed.append(signing_time(exchange) - datetime.now(UTC))
        await exchange.pass_on(await exchange.forward())

    async with through() as store:
        proxy.plan("PutObject", too_skewed)
        proxy.plan("PutObject", look, times=4)
        with pytest.raises(AccessDeniedError, match="RequestTimeTooSkewed"):
            await store.put("key", b"x", sha256=digest(b"x"))
        assert store.requests["PutObject"] == 2, "one is signed anew, once"
        await store.put("key", b"x", sha256=digest(b"x"))
        assert await store.get("key", limit=1) == b"x"
        await store.put("key", b"y", sha256=digest(b"y"))
        assert store.requests["PutObject"] == 5, "what was found out holds"
    hours = [round(each.total_seconds() / 3600) for each in signed]
    assert hours == [2, 2, 0, 0]
    assert "the clock of this machine is 2 h" in caplog.text
    assert "behind that of the endpoint" in caplog.text


async def test_a_refusal_of_a_head_has_no_code_and_tells_the_time(
    proxy: FaultProxy, through: OpenStore
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    signed: list[timedelta] = []
    both = asyncio.Barrier(2)

    async def refuse_both(exchange: Exchange) -> None:
        await both.wait()
        await exchange.answer(403, Date=format_datetime(later, usegmt=True))

    async def look(exchange: Exchange) -> None:
        signed.append(signing_time(exchange) - datetime.now(UTC))
        await exchange.answer(200, ETag='"e"')

    async with through() as store:
        proxy.plan("HeadObject", refuse_both, times=2)
        proxy.plan("HeadObject", look, times=2)
        async with asyncio.TaskGroup() as group:
            for key in ("one", "two"):
                group.create_task(store.head(key))
        assert store.requests["HeadObject"] == 4, "what others found out serves both"
    assert [round(each.total_seconds() / 3600) for each in signed] == [1, 1]


async def test_a_refusal_at_the_right_time_is_one(proxy: FaultProxy, through: OpenStore) -> None:
    now = format_datetime(datetime.now(UTC), usegmt=True)
    proxy.plan("PutObject", answering(403, error_body("AccessDenied"), Date=now))
    async with through() as store:
        with pytest.raises(AccessDeniedError, match="may not do this"):
            await store.put("key", b"x", sha256=digest(b"x"))
        assert store.requests["PutObject"] == 1


async def test_a_frozen_server_is_noticed(tmp_path: Path, transfer: str) -> None:
    with run_rclone(tmp_path / "rclone") as (endpoint, process):
        s3 = endpoint.settings(timeout_seconds=0.7, transfer=transfer)
        bucket = endpoint.fresh_bucket()
        once = RetryPolicy(max_attempts=1)
        async with open_store(f"s3://{bucket}", s3=s3, concurrency=2, policy=once) as store:
            await store.put("before", b"x", sha256=digest(b"x"))
            process.freeze()
            try:
                with pytest.raises(StoreError, match="no answer for"):
                    await store.put("frozen", b"x", sha256=digest(b"x"))
            finally:
                process.thaw()
            await store.put("after", b"x", sha256=digest(b"x"))


async def test_a_redirect_is_not_followed(
    proxy: FaultProxy, through: OpenStore, seaweed_s3: S3Endpoint
) -> None:
    async with FaultProxy(seaweed_s3.url) as elsewhere:
        for status in (301, 302, 307, 308):
            location = f"{elsewhere.url}/bucket/key"
            proxy.plan("PutObject", answering(status, error_body("PermanentRedirect"), Location=location))
        proxy.plan("HeadObject", answering(302, Location=f"{elsewhere.url}/bucket/key"))
        async with through() as store:
            for _ in range(4):
                with pytest.raises(StoreError, match="redirects elsewhere"):
                    await store.put("key", b"x", sha256=digest(b"x"))
            with pytest.raises(StoreError, match="HeadObject"):
                await store.head("key")
        assert not elsewhere.requests


async def test_deletes_where_batches_are_refused(proxy: FaultProxy, through: OpenStore) -> None:
    proxy.plan("DeleteObjects", answering(501, error_body("NotImplemented")))
    keys = ["a", "b", "c"]
    async with through() as store:
        for key in keys:
            await store.put(key, b"x", sha256=digest(b"x"))
        await store.delete(keys)
        await store.delete(keys)  # The second time nobody asks for a batch.
        assert [info async for page in store.list("") for info in page] == []
        assert store.requests["DeleteObjects"] == 1
        assert store.requests["DeleteObject"] == 6


async def test_deletes_that_fail_in_part(proxy: FaultProxy, through: OpenStore, backend: Backend) -> None:
    prefix = backend.destination.removeprefix("s3://").partition("/")[2]
    asked: list[bytes] = []

    async def fail_one(exchange: Exchange) -> None:
        asked.append(await exchange.read_body())
        assert exchange.request.headers["content-md5"]
        error = f"<Error><Key>{prefix}/b</Key><Code>InternalError</Code><Message>later</Message></Error>"
        await exchange.answer(200, f"<DeleteResult>{error}</DeleteResult>".encode())

    proxy.plan("DeleteObjects", fail_one)
    async with through() as store:
        for key in ("a", "b"):
            await store.put(key, b"x", sha256=digest(b"x"))
        await store.delete(["a", "b"])

        # The planned answer kept all of the first batch; asked again was for b alone.
        assert [info.key async for page in store.list("") for info in page] == ["a"]
        assert store.requests["DeleteObjects"] == 2

        proxy.plan(
            "DeleteObjects",
            answering(
                200,
                f"<DeleteResult><Error><Key>{prefix}/a</Key><Code>AccessDenied</Code></Error></DeleteResult>".encode(),
            ),
        )
        with pytest.raises(AccessDeniedError, match="'a'"):
            await store.delete(["a", "b"])


async def test_what_a_put_looks_like_on_the_wire(proxy: FaultProxy, through: OpenStore) -> None:
    requests = []

    async def look(exchange: Exchange) -> None:
        requests.append(exchange.request)
        await exchange.pass_on(await exchange.forward())

    proxy.plan("PutObject", look, times=3)
    async with through() as store:
        await store.put("empty", b"", sha256=digest(b""))
        await store.put("small", b"content", sha256=digest(b"content"))
        await store.put("large", BODY, sha256=digest(BODY))
    for request, body in zip(requests, [b"", b"content", BODY], strict=True):
        assert request.headers["content-length"] == str(len(body))
        assert request.headers["x-amz-content-sha256"] == digest(body).hex()
        assert request.headers["x-amz-checksum-sha256"]
        assert "expect" not in request.headers
        assert "transfer-encoding" not in request.headers
        assert "content-encoding" not in request.headers
        assert "x-amz-storage-class" not in request.headers


async def test_the_storage_class_is_that_of_contents_alone(
    proxy: FaultProxy, backend: Backend, seaweed_s3: S3Endpoint
) -> None:
    classes: list[str | None] = []

    async def look(exchange: Exchange) -> None:
        classes.append(exchange.request.headers.get("x-amz-storage-class"))
        await exchange.pass_on(await exchange.forward())

    for operation in ("PutObject", "CreateMultipartUpload", "CopyObject"):
        proxy.plan(operation, look, times=2)
    s3 = seaweed_s3.settings(endpoint_url=proxy.url)
    async with open_store(backend.destination, s3=s3, concurrency=1, storage_class="STANDARD_IA") as store:
        for folder in ("home/data/RUN/files/", "home/snapshots/"):
            await store.put(folder + "key", b"x", sha256=digest(b"x"))
            await store.copy(folder + "key", folder + "copy", metadata={})
            upload = await store.create_upload(folder + "big", metadata={})
            await store.abort_upload(folder + "big", upload)
    assert classes == ["STANDARD_IA"] * 3 + [None] * 3


async def test_retry_after_holds_everybody_back(
    proxy: FaultProxy, backend: Backend, seaweed_s3: S3Endpoint
) -> None:
    proxy.plan("PutObject", answering(503, error_body("SlowDown"), Retry_After="0.2"), path="first")
    loop = asyncio.get_running_loop()
    told: list[str] = []
    failed = asyncio.Event()

    def note(line: str) -> None:
        told.append(line)
        failed.set()

    s3 = seaweed_s3.settings(endpoint_url=proxy.url)
    async with open_store(backend.destination, s3=s3, concurrency=2, policy=QUICK, on_retry=note) as store:
        started = loop.time()
        first = asyncio.ensure_future(store.put("first", b"x", sha256=digest(b"x")))
        await failed.wait()
        await store.put("second", b"x", sha256=digest(b"x"))
        assert loop.time() - started >= 0.2
        await first
    assert told[0].startswith("PutObject of 'first' failed: SlowDown")
