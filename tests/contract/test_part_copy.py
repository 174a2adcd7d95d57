"""Parts made out of ranges of objects that the store holds already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import ObjectMissingError, StoreError, UnsupportedError
from asyncbackup.store.base import UploadId
from asyncbackup.store.checksums import composite_checksum
from asyncbackup.store.open import open_store
from tests.contract.backends import BACKENDS, LACKS, QUICK, digest, pattern, s3_backend
from tests.servers.proxy import FaultProxy, answering, applied_but_answering, error_body, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncbackup.store.base import Store
    from tests.contract.backends import Backend
    from tests.servers import S3Endpoint
    from tests.servers.proxy import Action

PART = 5 * 1024 * 1024
FIRST, SECOND, LAST = pattern(PART, 1), pattern(PART, 2), pattern(1234, 3)
COPYING = [name for name in BACKENDS if LACKS[name].get("copies_parts", True)]
NOT_COPYING = [name for name in BACKENDS if name not in COPYING]
CHECKING_RANGES = [name for name in COPYING if LACKS[name].get("checks_copied_ranges", True)]
SOURCE = "home/data/earlier run/ü%25 a+b"


async def _with_source(store: Store) -> None:
    whole = FIRST + SECOND + LAST
    await store.put(SOURCE, whole, sha256=digest(whole))


@pytest.mark.parametrize("backend", COPYING, indirect=True)
async def test_copied_and_sent_parts_become_the_object(store: Store, backend: Backend) -> None:
    await _with_source(store)
    upload = await store.create_upload("new", metadata={"mode": "100600"})
    last = await store.copy_part(SOURCE, "new", upload, 3, offset=2 * PART, length=len(LAST))
    changed = await store.upload_part("new", upload, 2, FIRST, sha256=digest(FIRST))
    first = await store.copy_part(SOURCE, "new", upload, 1, offset=PART, length=PART)

    assert (first.number, first.size, last.number, last.size) == (1, PART, 3, len(LAST))
    for receipt, content in ((first, SECOND), (last, LAST)):
        assert receipt.sha256 == (digest(content) if backend.digests_copied_parts else b"")
    held = [(part.number, part.size, part.etag) for part in await store.list_parts("new", upload)]
    assert held == [(part.number, part.size, part.etag) for part in (first, changed, last)]
    digests = [digest(SECOND), digest(FIRST), digest(LAST)]
    known = [
        msgspec.structs.replace(part, sha256=sha256)
        for part, sha256 in zip((first, changed, last), digests, strict=True)
    ]
    await store.complete_upload("new", upload, known)

    whole = SECOND + FIRST + LAST
    assert await store.get("new", limit=len(whole)) == whole
    info = await store.head("new")
    assert info.checksum == composite_checksum(digests)
    assert info.metadata == {"mode": "100600"}
    assert store.requests["UploadPartCopy"] in (2, 3), "one more where it is tried first"
    assert store.capabilities.part_copy


@pytest.mark.parametrize("backend", NOT_COPYING, indirect=True)
async def test_a_store_that_cannot_says_so_and_spoils_nothing(store: Store) -> None:
    await _with_source(store)
    upload = await store.create_upload("new", metadata={})
    first = await store.upload_part("new", upload, 1, FIRST, sha256=digest(FIRST))
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="'new'"):
            await store.copy_part(SOURCE, "new", upload, 2, offset=PART, length=PART)
    second = await store.upload_part("new", upload, 2, SECOND, sha256=digest(SECOND))
    await store.complete_upload("new", upload, [first, second])
    assert await store.get("new", limit=2 * PART) == FIRST + SECOND
    assert [page async for page in store.list_uploads("") if page] == []
    assert store.requests["UploadPartCopy"] == 1, "it is asked once"
    assert not store.capabilities.part_copy


@pytest.mark.parametrize("backend", COPYING, indirect=True)
async def test_a_missing_source(store: Store) -> None:
    await _with_source(store)
    upload = await store.create_upload("new", metadata={})
    with pytest.raises(ObjectMissingError):
        await store.copy_part("nothing here", "new", upload, 1, offset=0, length=PART)
    first = await store.copy_part(SOURCE, "new", upload, 1, offset=0, length=PART)
    with pytest.raises(ObjectMissingError):
        await store.copy_part("nothing here", "new", upload, 2, offset=0, length=PART)
    assert [(part.number, part.size) for part in await store.list_parts("new", upload)] == [(1, PART)]
    await store.complete_upload("new", upload, [msgspec.structs.replace(first, sha256=digest(FIRST))])
    assert await store.get("new", limit=PART) == FIRST


@pytest.mark.parametrize("backend", COPYING, indirect=True)
async def test_an_unknown_upload(store: Store, backend: Backend) -> None:
    await _with_source(store)
    with pytest.raises(ObjectMissingError if backend.knows_its_uploads else StoreError):
        await store.copy_part(SOURCE, "new", UploadId("0" * 32), 1, offset=0, length=PART)
    assert [page async for page in store.list_uploads("") if page] == []


@pytest.mark.parametrize("backend", CHECKING_RANGES, indirect=True)
async def test_a_range_beyond_the_source(store: Store) -> None:
    await _with_source(store)
    upload = await store.create_upload("new", metadata={})
    with pytest.raises(StoreError):
        await store.copy_part(SOURCE, "new", upload, 1, offset=2 * PART, length=PART)
    assert await store.list_parts("new", upload) == []


# Endpoints that fail


@pytest.fixture
async def proxy(seaweed_s3: S3Endpoint) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(seaweed_s3.url) as running:
        yield running


@pytest.fixture
async def proxied(proxy: FaultProxy, seaweed_s3: S3Endpoint, buckets: dict[str, str]) -> AsyncIterator[Store]:
    """SeaweedFS through a proxy; :data:`SOURCE` is there."""
    backend = s3_backend(seaweed_s3, buckets)
    settings = seaweed_s3.settings(endpoint_url=proxy.url)
    async with open_store(backend.destination, s3=settings, concurrency=4, policy=QUICK) as store:
        await _with_source(store)
        yield store


@pytest.mark.parametrize(
    "fault",
    [
        answering(500, error_body("InternalError")),
        answering(503, error_body("SlowDown")),
        answering(200, error_body("InternalError")),
        applied_but_answering(200, error_body("InternalError")),
        reset,
    ],
    ids=["500", "503", "200 with an error", "applied, 200 with an error", "reset"],
)
async def test_what_may_pass_is_tried_again(proxied: Store, proxy: FaultProxy, fault: Action) -> None:
    upload = await proxied.create_upload("new", metadata={})
    proxy.plan("UploadPartCopy", fault, skip=1)
    receipt = await proxied.copy_part(SOURCE, "new", upload, 1, offset=PART, length=PART)
    assert receipt.sha256 == digest(SECOND)
    assert [(part.number, part.size) for part in await proxied.list_parts("new", upload)] == [(1, PART)]
    assert proxied.requests["UploadPartCopy"] == 3, "the trial, the fault, and once more"
    await proxied.abort_upload("new", upload)


@pytest.mark.parametrize(
    "fault",
    [
        answering(501, error_body("NotImplemented")),
        answering(405, error_body("MethodNotAllowed")),
        answering(200, error_body("NotImplemented")),
        answering(200),
        answering(200, b"<CopyPartResult></CopyPartResult>"),
    ],
    ids=["501", "405", "200 with an error", "an empty 200", "200 that says nothing"],
)
async def test_an_endpoint_without_it_is_asked_once(proxied: Store, proxy: FaultProxy, fault: Action) -> None:
    upload = await proxied.create_upload("new", metadata={})
    proxy.plan("UploadPartCopy", fault)
    for _ in range(2):
        with pytest.raises(UnsupportedError):
            await proxied.copy_part(SOURCE, "new", upload, 1, offset=0, length=PART)
    assert proxy.requests["UploadPartCopy"] == 1
    assert not proxied.capabilities.part_copy
    await proxied.abort_upload("new", upload)
    assert [page async for page in proxied.list_uploads("") if page] == []


async def test_an_endpoint_that_ignores_the_range_is_found_out(proxied: Store, proxy: FaultProxy) -> None:
    upload = await proxied.create_upload("new", metadata={})
    sizes = b"<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber>"
    sizes += b"<Size>%d</Size></Part></ListPartsResult>" % (2 * PART + len(LAST))
    proxy.plan("ListParts", answering(200, sizes))
    with pytest.raises(UnsupportedError):
        await proxied.copy_part(SOURCE, "new", upload, 1, offset=0, length=PART)
    assert not proxied.capabilities.part_copy
    await proxied.abort_upload("new", upload)


async def test_a_failed_trial_decides_nothing_and_leaves_nothing(proxied: Store, proxy: FaultProxy) -> None:
    upload = await proxied.create_upload("new", metadata={})
    proxy.plan("UploadPartCopy", answering(500, error_body("InternalError")), times=3)
    with pytest.raises(StoreError):
        await proxied.copy_part(SOURCE, "new", upload, 1, offset=0, length=PART)
    assert proxied.capabilities.part_copy, "it was not asked yet, as far as anybody knows"
    receipt = await proxied.copy_part(SOURCE, "new", upload, 1, offset=0, length=PART)
    assert receipt.sha256 == digest(FIRST)
    await proxied.abort_upload("new", upload)
    assert [page async for page in proxied.list_uploads("") if page] == []
