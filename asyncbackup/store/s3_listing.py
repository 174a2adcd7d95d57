"""Paged listings, and endpoints whose pages never end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from asyncbackup.errors import ObjectMissingError, StoreError
from asyncbackup.store.base import ObjectInfo, UploadId, UploadInfo
from asyncbackup.store.retry import TransientError
from asyncbackup.store.s3_errors import translated
from asyncbackup.store.s3_transport import time_ns

if TYPE_CHECKING:
    from asyncbackup.store.s3_bucket import S3Bucket
    from asyncbackup.store.s3_requests import Deadline, S3Requests

LIST_OBJECTS = "ListObjectsV2"
LIST_UPLOADS = "ListMultipartUploads"
_LISTING_FIELDS = {"IsTruncated", "MaxKeys", "MaxUploads", "Name", "Bucket"}


async def list_objects(
    bucket: S3Bucket, requests: S3Requests, prefix: str
) -> AsyncIterator[list[ObjectInfo]]:
    """Pages of the objects below ``prefix``. Raises ``StoreError`` when a page comes a second time."""
    seen: set[str] = set()
    token = ""
    while True:
        answer = await _page(bucket, requests, LIST_OBJECTS, prefix, _objects_call, token)
        infos = [_object_info(bucket, item) for item in answer.get("Contents", ())]
        page = [info for info in infos if info is not None and info.key.startswith(prefix)]
        if page:
            yield page
        if not answer.get("IsTruncated"):
            return
        token = str(answer.get("NextContinuationToken", ""))
        _check_progress(LIST_OBJECTS, prefix, token, seen)


async def list_uploads(
    bucket: S3Bucket, requests: S3Requests, prefix: str
) -> AsyncIterator[list[UploadInfo]]:
    """Pages of the unfinished multipart uploads below ``prefix``."""
    seen: set[str] = set()
    marker: tuple[str, str] = ("", "")
    while True:
        try:
            answer = await _page(bucket, requests, LIST_UPLOADS, prefix, _uploads_call, marker)
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


async def _page(
    bucket: S3Bucket, requests: S3Requests, operation: str, prefix: str, call: Any, marker: Any
) -> Mapping[str, Any]:
    async def send(_: Deadline) -> Mapping[str, Any]:
        with translated(bucket.target(operation, prefix)):
            answer: Mapping[str, Any] = await call(bucket, bucket.full(prefix), marker)
        # An empty or foreign document parses as a listing of nothing.
        if not _LISTING_FIELDS.intersection(answer):
            reason = "the answer is no listing; is this S3?"
            raise TransientError(operation, prefix, reason, code="MalformedAnswer")
        return answer

    return await requests.run(operation, prefix, send)


async def _objects_call(bucket: S3Bucket, prefix: str, token: str) -> Any:
    options: dict[str, Any] = {"ContinuationToken": token} if token else {}
    return await bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=prefix, **options)


async def _uploads_call(bucket: S3Bucket, prefix: str, marker: tuple[str, str]) -> Any:
    options: dict[str, Any] = {}
    if marker[0]:
        options["KeyMarker"] = marker[0]
        if marker[1]:
            options["UploadIdMarker"] = marker[1]
    # Without EncodingType: some endpoints then say that keys are encoded, and do not encode them.
    # Our keys have no character that XML cannot hold.
    return await bucket.client.list_multipart_uploads(Bucket=bucket.name, Prefix=prefix, **options)


def _object_info(bucket: S3Bucket, item: Mapping[str, Any]) -> ObjectInfo | None:
    key = bucket.location.relative(str(item["Key"]))
    if key is None:
        return None
    return ObjectInfo(key=key, size=int(item.get("Size", 0)), modified_ns=time_ns(item.get("LastModified")))


def _check_progress(operation: str, prefix: str, token: str, seen: set[str]) -> None:
    if not token.strip():
        reason = "the listing goes on, but the endpoint does not say where"
        raise StoreError(operation, prefix, reason, code="ListingLoop")
    if token in seen:
        raise StoreError(operation, prefix, "the listing comes back to an earlier page", code="ListingLoop")
    seen.add(token)
