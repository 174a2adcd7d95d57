"""A multipart upload's beginning and its two ends over connections of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.store.lean.s3_answers import refusal
from asyncbackup.store.lean.signer import encoded_query
from asyncbackup.store.lean.transport import metadata_headers
from asyncbackup.store.lean.upload_documents import complete_document, fields_of
from asyncbackup.store.s3_errors import translated
from asyncbackup.store.s3_multipart import BotoMultipart, Checksums, begun

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncbackup.store.base import PartReceipt, UploadId
    from asyncbackup.store.lean.transport import LeanTransport
    from asyncbackup.store.s3_bucket import S3Bucket
    from asyncbackup.store.s3_transport import Progress

_BEGIN = encoded_query({"uploads": ""})


class LeanMultipart:
    """See :class:`~asyncbackup.store.s3_multipart.Multipart`. What ``transport`` leaves to the library, this
    does too."""

    def __init__(self, bucket: S3Bucket, transport: LeanTransport) -> None:
        self._bucket = bucket
        self._transport = transport
        self._library = BotoMultipart(bucket)

    async def begin(self, key: str, metadata: Mapping[str, str], checksums: Checksums) -> UploadId:
        if await self._transport.uses_library("CreateMultipartUpload", key):
            return await self._library.begin(key, metadata, checksums)
        headers = metadata_headers("CreateMultipartUpload", key, metadata)
        algorithm, kind = checksums.value
        if algorithm:
            headers["x-amz-checksum-algorithm"] = algorithm
        if kind:
            headers["x-amz-checksum-type"] = kind
        if storage_class := self._bucket.storage_class_option(key):
            headers["x-amz-storage-class"] = storage_class["StorageClass"]
        said = await self._ask("POST", "CreateMultipartUpload", key, _BEGIN, headers, body=b"")
        found = fields_of(said, ("UploadId",))
        return begun(key, found.get("UploadId", ""))

    async def complete(
        self,
        key: str,
        upload_id: UploadId,
        parts: Sequence[PartReceipt],
        *,
        with_checksums: bool,
        progress: Progress,
    ) -> Mapping[str, str]:
        if await self._transport.uses_library("CompleteMultipartUpload", key):
            return await self._library.complete(
                key, upload_id, parts, with_checksums=with_checksums, progress=progress
            )
        query = encoded_query({"uploadId": upload_id})
        headers = {"content-type": "application/xml"}
        body = complete_document(parts, with_checksums=with_checksums)
        said = await self._ask(
            "POST", "CompleteMultipartUpload", key, query, headers, body=body, progress=progress
        )
        return fields_of(said, ("ETag", "ChecksumSHA256"))

    async def abort(self, key: str, upload_id: UploadId) -> None:
        if await self._transport.uses_library("AbortMultipartUpload", key):
            await self._library.abort(key, upload_id)
            return
        await self._ask("DELETE", "AbortMultipartUpload", key, encoded_query({"uploadId": upload_id}), {})

    async def _ask(
        self,
        method: str,
        operation: str,
        key: str,
        query: str,
        headers: dict[str, str],
        *,
        body: bytes | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """The document that answers. Raises the error also where it comes with "200 OK": completing
        takes so long that endpoints say so before they know."""
        answer, said = await self._transport.ask(
            method, operation, key, query, headers, body=body, progress=progress
        )
        # White space may come first, so that the connection is not taken for dead.
        document = said.strip()
        if document:
            target = self._bucket.target(operation, key)
            with translated(target):
                error = refusal(answer.status, answer.headers, document, target)
                if error is not None:
                    raise error
        return document
