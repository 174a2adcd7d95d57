"""Multipart uploads: begun, listed, completed, given up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asyncbackup.errors import ObjectMissingError, StoreError, UnsupportedError
from asyncbackup.flow.cleanup import run_shielded
from asyncbackup.store.base import ObjectInfo, PartReceipt, PutResult, UploadId
from asyncbackup.store.checksums import check_parts, composite_checksum
from asyncbackup.store.retry import TransientError
from asyncbackup.store.s3_errors import translated
from asyncbackup.store.s3_location import is_aws
from asyncbackup.store.s3_multipart import Checksums
from asyncbackup.store.s3_transport import check_write

if TYPE_CHECKING:
    from asyncbackup.store.deadline import Deadline
    from asyncbackup.store.s3_bucket import S3Bucket
    from asyncbackup.store.s3_multipart import Multipart
    from asyncbackup.store.s3_objects import S3Objects
    from asyncbackup.store.s3_requests import S3Requests

COMPLETE_PATIENCE = 5.0
"""Completing thousands of parts takes an endpoint minutes."""
COPY_PATIENCE = 5.0
"""A part of up to 5 GiB is copied before the answer is complete."""

_CHECKSUMS = (Checksums.COMPOSITE, Checksums.SHA256, Checksums.NONE)
"""What an upload asks for, until the endpoint takes it."""
_REFUSES_OPTION = {
    "InvalidArgument",
    "InvalidRequest",
    "NotImplemented",
    "XNotImplemented",
    "MalformedXML",
    "400",
}


class S3Uploads:
    """The multipart operations of one bucket. See :class:`~asyncbackup.store.base.Store`."""

    def __init__(
        self, bucket: S3Bucket, requests: S3Requests, objects: S3Objects, multipart: Multipart
    ) -> None:
        self._bucket = bucket
        self._multipart = multipart
        self._requests = requests
        self._objects = objects
        self._options = 0
        """Index of the checksums that this endpoint was last seen to accept."""
        self._plain: set[str] = set()
        """Uploads that were begun without checksums. (A ListParts without them proves nothing.)"""
        self.known = True
        """Every upload that was begun was told of."""
        self.copies_parts = True if is_aws(bucket.endpoint) else None
        """Whether parts can be copied from other objects; ``None`` until somebody asked."""
        self._trying_to_copy = asyncio.Lock()

    async def create(self, key: str, metadata: Mapping[str, str]) -> UploadId:
        """Begin an upload, with checksums where the endpoint takes them."""
        while True:
            checksums = _CHECKSUMS[self._options]
            sent = 0

            async def send(_: Deadline, checksums: Checksums = checksums) -> UploadId:
                nonlocal sent
                sent += 1
                # The one before may have come about, and its answer been lost.
                self.known = self.known and sent == 1
                return await self._multipart.begin(key, metadata, checksums)

            try:
                upload_id = await self._requests.run("CreateMultipartUpload", key, send)
            except StoreError as error:
                if checksums is Checksums.NONE or error.code not in _REFUSES_OPTION:
                    raise
                self._options += 1
                continue
            if checksums is Checksums.NONE:
                self._plain.add(upload_id)
            return upload_id

    async def copy_part(
        self, source: str, key: str, upload_id: UploadId, number: int, *, offset: int, length: int
    ) -> PartReceipt:
        """Make one part out of a range of an object of the bucket.

        The first time it is tried on an upload of its own: an endpoint that knows no such request
        takes it for a part of no bytes, and may refuse to have that replaced.
        """
        async with self._trying_to_copy:
            if self.copies_parts is None:
                self.copies_parts = await self._can_copy_parts(source, key, offset=offset)
        if not self.copies_parts:
            reason = "the endpoint makes no parts out of ranges of objects"
            raise UnsupportedError("UploadPartCopy", key, reason, code="NotImplemented")
        return await self._copy_part(source, key, upload_id, number, offset=offset, length=length)

    async def _can_copy_parts(self, source: str, key: str, *, offset: int) -> bool:
        """Whether one byte becomes a part of one byte: some ignore the range."""
        upload_id = await self.create(key, {})
        try:
            await self._copy_part(source, key, upload_id, 1, offset=offset, length=1)
            return [part.size for part in await self.list_parts(key, upload_id)] == [1]
        except UnsupportedError:
            return False
        finally:
            await run_shielded(self.abort(key, upload_id), what=f"aborting a trial upload of {key!r}")

    async def _copy_part(
        self, source: str, key: str, upload_id: UploadId, number: int, *, offset: int, length: int
    ) -> PartReceipt:
        async def send(_: Deadline) -> Mapping[str, Any]:
            client = await self._bucket.client()
            with translated(self._bucket.target("UploadPartCopy", key)):
                answer: Mapping[str, Any] = await client.upload_part_copy(
                    Bucket=self._bucket.name,
                    Key=self._bucket.full(key),
                    UploadId=upload_id,
                    PartNumber=number,
                    CopySource={"Bucket": self._bucket.name, "Key": self._bucket.full(source)},
                    CopySourceRange=f"bytes={offset}-{offset + length - 1}",
                )
            result: Mapping[str, Any] = answer.get("CopyPartResult", {})
            if not result.get("ETag"):
                reason = "the answer tells nothing of a copy: the endpoint took it for an empty part"
                raise UnsupportedError("UploadPartCopy", key, reason, code="NotImplemented")
            return result

        result = await self._requests.run("UploadPartCopy", key, send, patience=COPY_PATIENCE)
        return PartReceipt(
            number=number,
            size=length,
            # Some leave the quotes out here, and have them in ListParts.
            etag='"{}"'.format(str(result["ETag"]).strip('"')),
            sha256=base64.b64decode(result.get("ChecksumSHA256", "")),
        )

    async def list_parts(self, key: str, upload_id: UploadId) -> list[PartReceipt]:
        """All parts that the endpoint holds, by number."""
        parts: dict[int, PartReceipt] = {}
        marker = 0
        while True:
            answer = await self._list_parts(key, upload_id, marker)
            for item in answer.get("Parts", ()):
                # Some endpoints list also what was replaced; the last of a number is the one that counts.
                parts[int(item["PartNumber"])] = _receipt(item)
            if not answer.get("IsTruncated"):
                break
            following = int(answer.get("NextPartNumberMarker", 0))
            if following <= marker:
                reason = "the listing of parts does not move on"
                raise StoreError("ListParts", key, reason, code="ListingLoop")
            marker = following
        return [parts[number] for number in sorted(parts)]

    async def _list_parts(self, key: str, upload_id: UploadId, marker: int) -> Mapping[str, Any]:
        async def send(_: Deadline) -> Mapping[str, Any]:
            options: dict[str, Any] = {"PartNumberMarker": marker} if marker else {}
            client = await self._bucket.client()
            with translated(self._bucket.target("ListParts", key)):
                answer: Mapping[str, Any] = await client.list_parts(
                    Bucket=self._bucket.name, Key=self._bucket.full(key), UploadId=upload_id, **options
                )
            if "UploadId" not in answer and "IsTruncated" not in answer:
                reason = "the answer is no list of parts; is this S3?"
                raise TransientError("ListParts", key, reason, code="MalformedAnswer")
            return answer

        return await self._requests.run("ListParts", key, send)

    async def complete(self, key: str, upload_id: UploadId, parts: Sequence[PartReceipt]) -> PutResult:
        """Make the object. A Complete that was applied but not answered is recognised by what it made."""
        check_parts(key, parts)
        composite = composite_checksum(part.sha256 for part in parts) if all(p.sha256 for p in parts) else ""
        try:
            result = await self._complete(key, upload_id, parts, composite)
        except ObjectMissingError as error:
            made = await self._made(key, parts, composite)
            if made is None:
                raise error
            result = PutResult(etag=made.etag, checksum=made.checksum)
        self._plain.discard(upload_id)
        return result

    async def _complete(
        self, key: str, upload_id: UploadId, parts: Sequence[PartReceipt], composite: str
    ) -> PutResult:
        with_checksums = bool(composite) and upload_id not in self._plain

        async def send(deadline: Deadline) -> PutResult:
            answer = await self._multipart.complete(
                key, upload_id, parts, with_checksums=with_checksums, progress=deadline.progress
            )
            returned = _composite(answer, len(parts))
            check_write("CompleteMultipartUpload", key, answer, expected=composite if returned else "")
            return PutResult(etag=answer["ETag"], checksum=returned)

        return await self._requests.run("CompleteMultipartUpload", key, send, patience=COMPLETE_PATIENCE)

    async def _made(self, key: str, parts: Sequence[PartReceipt], composite: str) -> ObjectInfo | None:
        """The object, if it is what these parts make; an unknown upload may be one that was completed."""
        try:
            info = await self._objects.head(key)
        except ObjectMissingError:
            return None
        if info.size != sum(part.size for part in parts):
            return None
        if "-" in info.checksum and composite and info.checksum != composite:
            return None
        return info

    async def abort(self, key: str, upload_id: UploadId) -> None:
        """Give an upload up; one that is unknown is gone already."""

        async def send(_: Deadline) -> None:
            await self._multipart.abort(key, upload_id)

        with contextlib.suppress(ObjectMissingError):
            await self._requests.run("AbortMultipartUpload", key, send)
        self._plain.discard(upload_id)


def _composite(answer: Mapping[str, str], count: int) -> str:
    """The composite checksum of an answer. Some endpoints leave out the ``-N``."""
    checksum = answer.get("ChecksumSHA256", "")
    return checksum if not checksum or "-" in checksum else f"{checksum}-{count}"


def _receipt(item: Mapping[str, Any]) -> PartReceipt:
    return PartReceipt(
        number=int(item["PartNumber"]),
        size=int(item.get("Size", 0)),
        etag=str(item.get("ETag", "")),
        sha256=base64.b64decode(item.get("ChecksumSHA256", "")),
    )
