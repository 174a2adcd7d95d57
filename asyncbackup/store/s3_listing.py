"""Paged listings, and endpoints whose pages never end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from asyncbackup.errors import ObjectMissingError, StoreError
from asyncbackup.store.base import ObjectInfo, UploadId, UploadInfo
from asyncbackup.store.s3_errors import translated
from asyncbackup.store.s3_transport import LIST_OBJECTS, ListingPage, Transport, no_listing, time_ns

if TYPE_CHECKING:
    from asyncbackup.store.deadline import Deadline
    from asyncbackup.store.s3_bucket import S3Bucket
    from asyncbackup.store.s3_requests import S3Requests

LIST_UPLOADS = "ListMultipartUploads"
_LISTING_FIELDS = frozenset({"IsTruncated", "MaxUploads", "Bucket"})


async def list_objects(
    bucket: S3Bucket, requests: S3Requests, transport: Transport, prefix: str
) -> AsyncIterator[list[ObjectInfo]]:
    """Pages of the objects below ``prefix``. Raises ``StoreError`` when a page comes a second time."""
    seen: set[str] = set()
    token = ""
    while True:
        listed = await _objects(requests, transport, prefix, token)
        page: list[ObjectInfo] = []
        for item in listed.objects:
            key = bucket.location.relative(item.key)
            if key is not None and key.startswith(prefix):
                page.append(ObjectInfo(key=key, size=item.size, modified_ns=item.modified_ns))
        if page:
            yield page
        if not listed.truncated:
            return
        token = listed.token
        _check_progress(LIST_OBJECTS, prefix, token, seen)


async def _objects(requests: S3Requests, transport: Transport, prefix: str, token: str) -> ListingPage:
    async def send(_: Deadline) -> ListingPage:
        return await transport.list_page(prefix, token)

    return await requests.run(LIST_OBJECTS, prefix, send)


async def list_uploads(
    bucket: S3Bucket, requests: S3Requests, prefix: str
) -> AsyncIterator[list[UploadInfo]]:
    """Pages of the unfinished multipart uploads below ``prefix``."""
    seen: set[str] = set()
    marker: tuple[str, str] = ("", "")
    while True:
        try:
            answer = await _uploads(bucket, requests, prefix, marker)
        except ObjectMissingError:
            return  # What some servers say where there is no upload at all.
        page = []
        for item in answer.get("Uploads", ()):
            key = bucket.location.relative(str(item["Key"]))
            if key is not None and key.startswith(prefix):
                upload_id = UploadId(item["UploadId"])
                initiated = time_ns(item.get("Initiated"))
                page.append(UploadInfo(key=key, upload_id=upload_id, initiated_ns=initiated))
        if page:
            yield page
        if not answer.get("IsTruncated"):
            return
        marker = (str(answer.get("NextKeyMarker", "")), str(answer.get("NextUploadIdMarker", "")))
        _check_progress(LIST_UPLOADS, prefix, "\n".join(marker), seen)


async def _uploads(
    bucket: S3Bucket, requests: S3Requests, prefix: str, marker: tuple[str, str]
) -> Mapping[str, Any]:
    options: dict[str, Any] = {}
    if marker[0]:
        options["KeyMarker"] = marker[0]
        if marker[1]:
            options["UploadIdMarker"] = marker[1]

    async def send(_: Deadline) -> Mapping[str, Any]:
        client = await bucket.client()
        with translated(bucket.target(LIST_UPLOADS, prefix)):
            # Without EncodingType: some endpoints then say that keys are encoded, and do not encode them.
            # Our keys have no character that XML cannot hold.
            answer: Mapping[str, Any] = await client.list_multipart_uploads(
                Bucket=bucket.name, Prefix=bucket.full(prefix), **options
            )
        if not _LISTING_FIELDS.intersection(answer):
            raise no_listing(LIST_UPLOADS, prefix)
        return answer

    return await requests.run(LIST_UPLOADS, prefix, send)


def _check_progress(operation: str, prefix: str, token: str, seen: set[str]) -> None:
    if not token.strip():
        reason = "the listing goes on, but the endpoint does not say where"
        raise StoreError(operation, prefix, reason, code="ListingLoop")
    if token in seen:
        raise StoreError(operation, prefix, "the listing comes back to an earlier page", code="ListingLoop")
    seen.add(token)
