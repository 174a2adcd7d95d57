"""The hot operations of S3, one attempt each: PutObject, UploadPart, GetObject, HeadObject, ListObjectsV2.

:class:`Transport` is what ``S3Store`` needs of them, so that how their bytes travel can be
replaced as a whole. Slots, deadlines, retries and counting lie above it, in ``s3_requests.py``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from asyncbackup.store.base import Body, ObjectInfo, PartReceipt, PutResult, UploadId
from asyncbackup.store.body import BodyStream, body_size
from asyncbackup.store.retry import TransientError
from asyncbackup.store.s3_errors import translated

if TYPE_CHECKING:
    from asyncbackup.store.s3_bucket import S3Bucket

READ_BYTES = 256 * 1024
_LISTING_FIELDS = frozenset({"IsTruncated", "MaxKeys", "Name"})
LIST_OBJECTS = "ListObjectsV2"
Progress = Callable[[], None]


class Download(Protocol):
    """The answer to one GetObject, while its body is still on the way."""

    info: ObjectInfo
    """Size is that of the whole object where the answer tells it, else -1."""
    start: int
    """Where in the object the body begins; -1 where only the body's length can tell."""
    length: int
    """Bytes that the body announces; -1 where it does not."""

    def received(self) -> bytes:
        """The next bytes if there are some already, else ``b""``."""

    async def read(self) -> bytes:
        """The next bytes; ``b""`` at the end. Raises ``TransientError`` when the connection breaks."""

    async def fill(self, view: memoryview, progress: Callable[[int], None]) -> None:
        """Receive the next bytes into ``view``: as many as it has room for, or at least one, or none at the
        end. ``progress`` is told how many, as they come. Raises as :meth:`read` does; then, too, what
        ``progress`` was told of is there, and the next call goes on behind it."""

    def close(self) -> None:
        """Drop the connection unless the body was read to its end."""


class ListedObject(NamedTuple):
    """An object in a listing; ``key`` is the whole one, prefix included, ``size`` in bytes."""

    key: str
    size: int
    modified_ns: int


class ListingPage(NamedTuple):
    """One answer to ListObjectsV2. ``token`` leads to the next one where the page is ``truncated``."""

    objects: list[ListedObject]
    truncated: bool
    token: str


class Transport(Protocol):
    """One attempt at each hot operation. Keys are relative to the destination.

    Raises only ``StoreError`` and its children, ``TransientError`` among them.
    """

    async def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: bytes,
        metadata: Mapping[str, str],
        only_if_absent: bool,
        progress: Progress,
    ) -> PutResult:
        """Write an object whole."""

    async def upload_part(
        self, key: str, upload_id: UploadId, number: int, body: Body, *, sha256: bytes, progress: Progress
    ) -> PartReceipt:
        """Send one part."""

    async def open(
        self, key: str, *, offset: int, length: int | None, if_match: str, described: bool
    ) -> Download:
        """Begin to read an object, or a range of it, optionally only while its ETag is ``if_match``.

        Unless ``described``, only size and ETag are looked for in the answer.
        """

    async def head(self, key: str) -> ObjectInfo:
        """Size, checksum and metadata of an object."""

    async def list_page(self, prefix: str, token: str) -> ListingPage:
        """One page of the objects below ``prefix``, the first for an empty ``token``."""


class BotoTransport:
    """The hot operations through aiobotocore."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket

    async def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: bytes,
        metadata: Mapping[str, str],
        only_if_absent: bool,
        progress: Progress,
    ) -> PutResult:
        checksum = base64.b64encode(sha256).decode()
        options: dict[str, Any] = {"IfNoneMatch": "*"} if only_if_absent else {}
        client = await self._bucket.client()
        with translated(self._bucket.target("PutObject", key)):
            answer = await client.put_object(
                Bucket=self._bucket.name,
                Key=self._bucket.full(key),
                Body=_sendable(body, sha256, progress),
                Metadata=metadata,
                ChecksumSHA256=checksum,
                **self._bucket.storage_class_option(key),
                **options,
            )
        returned = check_write("PutObject", key, answer, expected=checksum)
        return PutResult(etag=answer["ETag"], checksum=returned)

    async def upload_part(
        self, key: str, upload_id: UploadId, number: int, body: Body, *, sha256: bytes, progress: Progress
    ) -> PartReceipt:
        checksum = base64.b64encode(sha256).decode()
        client = await self._bucket.client()
        with translated(self._bucket.target("UploadPart", key)):
            answer = await client.upload_part(
                Bucket=self._bucket.name,
                Key=self._bucket.full(key),
                UploadId=upload_id,
                PartNumber=number,
                Body=_sendable(body, sha256, progress),
                ChecksumSHA256=checksum,
            )
        check_write("UploadPart", key, answer, expected=checksum)
        return PartReceipt(number=number, size=body_size(body), etag=answer["ETag"], sha256=sha256)

    async def open(
        self, key: str, *, offset: int, length: int | None, if_match: str, described: bool
    ) -> Download:
        options: dict[str, Any] = {}
        if offset or length is not None:
            options["Range"] = f"bytes={offset}-" + (str(offset + length - 1) if length is not None else "")
        if if_match:
            options["IfMatch"] = if_match
        client = await self._bucket.client()
        with translated(self._bucket.target("GetObject", key)):
            answer = await client.get_object(
                Bucket=self._bucket.name, Key=self._bucket.full(key), ChecksumMode="ENABLED", **options
            )
        download = _BotoDownload(self._bucket, key, answer, ranged=bool(options.get("Range")))
        if not answer.get("ETag"):
            download.close()
            raise TransientError(
                "GetObject", key, "the answer has no ETag; is this S3?", code="MalformedAnswer"
            )
        return download

    async def head(self, key: str) -> ObjectInfo:
        client = await self._bucket.client()
        with translated(self._bucket.target("HeadObject", key)):
            answer = await client.head_object(
                Bucket=self._bucket.name, Key=self._bucket.full(key), ChecksumMode="ENABLED"
            )
        check_write("HeadObject", key, answer, expected="")
        return object_info(key, answer, size=int(answer["ContentLength"]))

    async def list_page(self, prefix: str, token: str) -> ListingPage:
        options: dict[str, Any] = {"ContinuationToken": token} if token else {}
        client = await self._bucket.client()
        with translated(self._bucket.target(LIST_OBJECTS, prefix)):
            answer: Mapping[str, Any] = await client.list_objects_v2(
                Bucket=self._bucket.name, Prefix=self._bucket.full(prefix), **options
            )
        # An empty or foreign document parses as a listing of nothing.
        if not _LISTING_FIELDS.intersection(answer):
            raise no_listing(LIST_OBJECTS, prefix)
        objects = [
            ListedObject(str(item["Key"]), int(item.get("Size", 0)), time_ns(item.get("LastModified")))
            for item in answer.get("Contents", ())
        ]
        return ListingPage(
            objects, bool(answer.get("IsTruncated")), str(answer.get("NextContinuationToken", ""))
        )


class _BotoDownload:
    def __init__(self, bucket: S3Bucket, key: str, answer: Any, *, ranged: bool) -> None:
        self._body = answer["Body"]
        self._target = bucket.target("GetObject", key)
        self.length = int(answer["ContentLength"]) if "ContentLength" in answer else -1
        self.start, total = parse_content_range(answer.get("ContentRange", ""))
        if self.start < 0 and not ranged:
            self.start, total = 0, self.length
        self.info = object_info(key, answer, size=total)

    def received(self) -> bytes:
        return b""

    async def read(self) -> bytes:
        with translated(self._target):
            chunk: bytes = await self._body.read(READ_BYTES)
            return chunk

    async def fill(self, view: memoryview, progress: Callable[[int], None]) -> None:
        with translated(self._target):
            chunk: bytes = await self._body.read(min(READ_BYTES, len(view)))
        view[: len(chunk)] = chunk
        progress(len(chunk))

    def close(self) -> None:
        self._body.close()


def _sendable(body: Body, sha256: bytes, progress: Progress) -> Any:
    # An empty stream would make aiohttp wait for a first piece; plain b"" goes out with the headers.
    stream = BodyStream(body, sha256=sha256, progress=progress)
    return stream if len(stream) else b""


def check_write(operation: str, key: str, answer: Mapping[str, Any], *, expected: str) -> str:
    """The checksum that a write's answer returned, ``""`` for none.

    Raises ``TransientError`` for an answer that no S3 server gives to a write (a portal's
    "200 OK" has no ETag) and for a checksum of other bytes.
    """
    if not answer.get("ETag"):
        raise TransientError(operation, key, "the answer has no ETag; is this S3?", code="MalformedAnswer")
    returned = str(answer.get("ChecksumSHA256", ""))
    if returned and expected and returned != expected:
        reason = f"the endpoint stored other bytes (its SHA-256 is {returned}, ours {expected})"
        raise TransientError(operation, key, reason, code="BadDigest")
    return returned


def no_listing(operation: str, prefix: str) -> TransientError:
    """The error for an answer that is none of S3's listings."""
    reason = "the answer is no listing; is this S3?"
    return TransientError(operation, prefix, reason, code="MalformedAnswer")


def object_info(key: str, answer: Mapping[str, Any], *, size: int) -> ObjectInfo:
    """What the headers of a HeadObject or GetObject answer tell."""
    return ObjectInfo(
        key=key,
        size=size,
        modified_ns=time_ns(answer.get("LastModified")),
        etag=str(answer.get("ETag", "")),
        checksum=_kept_checksum(answer),
        storage_class=str(answer.get("StorageClass", "")),
        metadata=dict(answer.get("Metadata", {})),
    )


def _kept_checksum(answer: Mapping[str, Any]) -> str:
    checksum = str(answer.get("ChecksumSHA256", ""))
    if checksum and "-" not in checksum and answer.get("ChecksumType") == "COMPOSITE":
        # Some leave out the number of parts; the ETag has it.
        _, dash, count = str(answer.get("ETag", "")).strip('"').partition("-")
        return checksum + dash + count
    return checksum


def time_ns(moment: datetime | None) -> int:
    """Nanoseconds since 1970; 0 where the endpoint gave no time."""
    return int(moment.timestamp() * 1_000_000) * 1000 if moment is not None else 0


def parse_content_range(text: str) -> tuple[int, int]:
    """``(start, total)`` of ``bytes START-END/TOTAL``; -1 for what it does not say."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start, _, _ = span.partition("-")
    if unit != "bytes" or not start.isdigit():
        return -1, -1
    return int(start), int(total) if total.isdigit() else -1
