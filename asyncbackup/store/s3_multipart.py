"""A multipart upload's beginning and its two ends, one attempt each.

:class:`Multipart` is what ``S3Uploads`` needs of them, as :class:`~asyncbackup.store.s3_transport.Transport`
is of what is sent for every object and part.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from asyncbackup.store.base import PartReceipt, UploadId
from asyncbackup.store.retry import TransientError
from asyncbackup.store.s3_errors import translated

if TYPE_CHECKING:
    from asyncbackup.store.s3_bucket import S3Bucket
    from asyncbackup.store.s3_transport import Progress


class Checksums(Enum):
    """What an upload asks the endpoint to keep of its parts: algorithm, and kind of the object's own."""

    COMPOSITE = ("SHA256", "COMPOSITE")
    SHA256 = ("SHA256", "")
    NONE = ("", "")


class Multipart(Protocol):
    """One attempt at each operation. Keys are relative to the destination.

    Raises only ``StoreError`` and its children, ``TransientError`` among them.
    """

    async def begin(self, key: str, metadata: Mapping[str, str], checksums: Checksums) -> UploadId:
        """Begin an upload."""

    async def complete(
        self,
        key: str,
        upload_id: UploadId,
        parts: Sequence[PartReceipt],
        *,
        with_checksums: bool,
        progress: Progress,
    ) -> Mapping[str, str]:
        """Have an object made of the parts: the answer's ``ETag`` and ``ChecksumSHA256``, as far as it has
        them. Whether they are what they should be is not looked at."""

    async def abort(self, key: str, upload_id: UploadId) -> None:
        """Give an upload up."""


class BotoMultipart:
    """These operations through aiobotocore."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket

    async def begin(self, key: str, metadata: Mapping[str, str], checksums: Checksums) -> UploadId:
        algorithm, kind = checksums.value
        options: dict[str, Any] = {"ChecksumAlgorithm": algorithm} if algorithm else {}
        if kind:
            options["ChecksumType"] = kind
        client = await self._bucket.client()
        with translated(self._bucket.target("CreateMultipartUpload", key)):
            answer = await client.create_multipart_upload(
                Bucket=self._bucket.name,
                Key=self._bucket.full(key),
                Metadata=metadata,
                **self._bucket.storage_class_option(key),
                **options,
            )
        return begun(key, answer.get("UploadId", ""))

    async def complete(
        self,
        key: str,
        upload_id: UploadId,
        parts: Sequence[PartReceipt],
        *,
        with_checksums: bool,
        progress: Progress,
    ) -> Mapping[str, str]:
        client = await self._bucket.client()
        with translated(self._bucket.target("CompleteMultipartUpload", key)):
            answer: Mapping[str, Any] = await client.complete_multipart_upload(
                Bucket=self._bucket.name,
                Key=self._bucket.full(key),
                UploadId=upload_id,
                MultipartUpload={"Parts": [_completed(part, with_checksums) for part in parts]},
            )
        return {name: str(answer[name]) for name in ("ETag", "ChecksumSHA256") if name in answer}

    async def abort(self, key: str, upload_id: UploadId) -> None:
        client = await self._bucket.client()
        with translated(self._bucket.target("AbortMultipartUpload", key)):
            await client.abort_multipart_upload(
                Bucket=self._bucket.name, Key=self._bucket.full(key), UploadId=upload_id
            )


def begun(key: str, upload_id: str) -> UploadId:
    """What an answer calls the upload. Raises ``TransientError`` where that is nothing."""
    if not upload_id:
        reason = "the answer has no UploadId; is this S3?"
        raise TransientError("CreateMultipartUpload", key, reason, code="MalformedAnswer")
    return UploadId(upload_id)


def _completed(part: PartReceipt, with_checksum: bool) -> Any:
    completed: dict[str, Any] = {"PartNumber": part.number, "ETag": part.etag}
    if with_checksum:
        completed["ChecksumSHA256"] = base64.b64encode(part.sha256).decode()
    return completed
