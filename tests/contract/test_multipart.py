"""Multipart uploads: parts in any order, sent again, listed, completed twice, given up."""

from __future__ import annotations

import pytest

from asyncbackup.errors import ObjectMissingError, StoreError
from asyncbackup.store.base import Store, UploadId, UploadInfo
from asyncbackup.store.checksums import composite_checksum
from tests.contract.backends import Backend, digest, pattern

PART = 5 * 1024 * 1024
FIRST, SECOND, LAST = pattern(PART, 1), pattern(PART, 2), pattern(1234, 3)
WHOLE = FIRST + SECOND + LAST
METADATA = {"mtime": "12.25", "mode": "100600"}


async def _uploads(store: Store, prefix: str = "") -> list[UploadInfo]:
    return [upload async for page in store.list_uploads(prefix) for upload in page]


def _unknown_upload(backend: Backend) -> type[StoreError]:
    return ObjectMissingError if backend.knows_its_uploads else StoreError


async def test_parts_become_the_object(store: Store, backend: Backend) -> None:
    upload = await store.create_upload("big/file", metadata=METADATA)
    last = await store.upload_part("big/file", upload, 3, LAST, sha256=digest(LAST))
    second = await store.upload_part("big/file", upload, 2, [SECOND[:7], SECOND[7:]], sha256=digest(SECOND))
    first = await store.upload_part("big/file", upload, 1, FIRST, sha256=digest(FIRST))
    assert (first.number, first.size, first.sha256) == (1, PART, digest(FIRST))
    with pytest.raises(ObjectMissingError):
        await store.head("big/file")

    result = await store.complete_upload("big/file", upload, [first, second, last])

    assert await store.get("big/file", limit=len(WHOLE)) == WHOLE
    info = await store.head("big/file")
    assert info.size == len(WHOLE)
    assert info.metadata == METADATA
    composite = composite_checksum([digest(FIRST), digest(SECOND), digest(LAST)])
    assert info.checksum == ("" if backend.name == "rclone" else composite)
    assert result.checksum in ("", composite)
    assert await _uploads(store) == []


async def test_a_part_may_be_sent_again(store: Store, backend: Backend) -> None:
    upload = await store.create_upload("again", metadata={})
    wrong = pattern(PART, 9) if backend.replaces_parts else FIRST
    await store.upload_part("again", upload, 1, wrong, sha256=digest(wrong))
    last = await store.upload_part("again", upload, 2, LAST, sha256=digest(LAST))
    first = await store.upload_part("again", upload, 1, FIRST, sha256=digest(FIRST))

    parts = await store.list_parts("again", upload)
    assert [(part.number, part.size) for part in parts] == [(1, PART), (2, len(LAST))]
    assert all(part.sha256 in (b"", sent.sha256) for part, sent in zip(parts, [first, last], strict=True))
    await store.complete_upload("again", upload, [first, last])

    assert await store.get("again", limit=2 * PART) == FIRST + LAST


async def test_a_completed_upload_completes_again(store: Store) -> None:
    upload = await store.create_upload("twice", metadata=METADATA)
    part = await store.upload_part("twice", upload, 1, LAST, sha256=digest(LAST))
    await store.complete_upload("twice", upload, [part])

    await store.complete_upload("twice", upload, [part])

    assert await store.get("twice", limit=9999) == LAST


async def test_completing_what_was_given_up_fails(store: Store, backend: Backend) -> None:
    upload = await store.create_upload("gone", metadata={})
    part = await store.upload_part("gone", upload, 1, LAST, sha256=digest(LAST))
    await store.abort_upload("gone", upload)

    with pytest.raises(_unknown_upload(backend), match="'gone'"):
        await store.complete_upload("gone", upload, [part])
    with pytest.raises(ObjectMissingError):
        await store.head("gone")
    # Another object under that key is not taken for the upload's.
    await store.put("gone", b"else", sha256=digest(b"else"))
    with pytest.raises(_unknown_upload(backend), match="'gone'"):
        await store.complete_upload("gone", upload, [part])


async def test_abort_leaves_nothing(store: Store, backend: Backend) -> None:
    upload = await store.create_upload("aborted", metadata={})
    await store.upload_part("aborted", upload, 1, LAST, sha256=digest(LAST))

    await store.abort_upload("aborted", upload)
    await store.abort_upload("aborted", upload)

    assert await _uploads(store) == []
    with pytest.raises(ObjectMissingError):
        await store.list_parts("aborted", upload)
    with pytest.raises(_unknown_upload(backend)):
        await store.upload_part("aborted", upload, 1, LAST, sha256=digest(LAST))
    assert [info async for page in store.list("") for info in page] == []


async def test_unfinished_uploads_are_listed_below_their_prefix(store: Store) -> None:
    assert await _uploads(store) == []
    first = await store.create_upload("home/data/a b+ü%25", metadata={})
    second = await store.create_upload("home/data/a b+ü%25", metadata={})
    other = await store.create_upload("homes/x", metadata={})

    listed = await _uploads(store, "home/")

    assert {(upload.key, upload.upload_id) for upload in listed} == {
        ("home/data/a b+ü%25", first),
        ("home/data/a b+ü%25", second),
    }
    assert {upload.upload_id for upload in await _uploads(store)} == {first, second, other}
    for upload in await _uploads(store):
        await store.abort_upload(upload.key, upload.upload_id)
    assert await _uploads(store) == []


async def test_an_upload_without_parts_cannot_be_completed(store: Store) -> None:
    upload = await store.create_upload("empty", metadata={})
    with pytest.raises(StoreError):
        await store.complete_upload("empty", upload, [])
    await store.abort_upload("empty", upload)


async def test_unknown_uploads(store: Store, backend: Backend) -> None:
    unknown = UploadId("0" * 32)
    with pytest.raises(ObjectMissingError):
        await store.list_parts("none", unknown)
    with pytest.raises(_unknown_upload(backend)):
        await store.upload_part("none", unknown, 1, LAST, sha256=digest(LAST))
    await store.abort_upload("none", unknown)
