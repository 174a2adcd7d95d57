"""Whole objects beside the hot path: head, copy, delete, and writes that must not overwrite."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asyncbackup.errors import AccessDeniedError, ObjectMissingError, StoreError, UnsupportedError
from asyncbackup.store.base import ObjectInfo, PutResult
from asyncbackup.store.retry import TransientError
from asyncbackup.store.s3_errors import from_code, translated
from asyncbackup.store.s3_location import is_aws
from asyncbackup.store.s3_transport import check_write

if TYPE_CHECKING:
    from asyncbackup.store.deadline import Deadline
    from asyncbackup.store.s3_bucket import S3Bucket
    from asyncbackup.store.s3_requests import S3Requests
    from asyncbackup.store.s3_transport import Transport

_log = logging.getLogger(__name__)

DELETE_BATCH = 1000
"""DeleteObjects takes no more."""
KNOWN_KEY = "asyncbackup.json"
"""Every destination that is written to holds this object."""
COPY_PATIENCE = 10.0
"""Up to 5 GiB are copied before the answer is complete."""


class S3Objects:
    """The operations of one bucket that are sent for few objects."""

    def __init__(self, bucket: S3Bucket, requests: S3Requests, transport: Transport) -> None:
        self._bucket = bucket
        self._transport = transport
        self._requests = requests
        self._deletes_in_batches = True
        self.keeps_checksums = False
        """A HeadObject has returned a SHA-256 checksum."""
        self.keeps_folders = True if is_aws(bucket.endpoint) else None
        """Whether keys that end in ``/`` are objects of their own; ``None`` until somebody asked."""
        self._looking_for_folders = asyncio.Lock()

    async def head(self, key: str) -> ObjectInfo:
        """Size, checksum and metadata of an object."""

        async def send(_: Deadline) -> ObjectInfo:
            return await self._transport.head(key)

        info = await self._requests.run("HeadObject", key, send)
        self.keeps_checksums = self.keeps_checksums or bool(info.checksum)
        return info

    async def can_keep_folders(self) -> bool:
        """Whether keys that end in ``/`` are objects of their own. Looks once, with one HeadObject.

        Servers backed by folders may drop the slash: ``docs/`` becomes a *file* ``docs``, and
        ``docs/report.pdf`` can no longer be written, or is hidden. Such a server takes
        ``asyncbackup.json/`` for ``asyncbackup.json``.
        """
        async with self._looking_for_folders:
            if self.keeps_folders is None:
                try:
                    await self.head(KNOWN_KEY + "/")
                except (ObjectMissingError, AccessDeniedError):
                    self.keeps_folders = True
                else:
                    self.keeps_folders = False
                    _log.info("%s keeps no folders as objects", self._bucket.endpoint)
        return self.keeps_folders

    async def copy(self, source: str, key: str, metadata: Mapping[str, str]) -> PutResult:
        """Copy inside the bucket; the copy has ``metadata`` in place of the source's."""

        async def send(_: Deadline) -> PutResult:
            client = await self._bucket.client()
            with translated(self._bucket.target("CopyObject", key)):
                answer = await client.copy_object(
                    Bucket=self._bucket.name,
                    Key=self._bucket.full(key),
                    CopySource={"Bucket": self._bucket.name, "Key": self._bucket.full(source)},
                    Metadata=metadata,
                    MetadataDirective="REPLACE",
                    ChecksumAlgorithm="SHA256",
                    **self._bucket.storage_class_option(key),
                )
            outcome: Mapping[str, Any] = answer.get("CopyObjectResult", {})
            checksum = check_write("CopyObject", key, outcome, expected="")
            return PutResult(etag=str(outcome["ETag"]), checksum=checksum)

        return await self._requests.run("CopyObject", key, send, patience=COPY_PATIENCE)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects in batches, or one by one where the endpoint takes no batches."""
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            if self._deletes_in_batches and len(batch) > 1:
                try:
                    await self._delete_batch(batch)
                    continue
                except UnsupportedError:
                    self._deletes_in_batches = False
                except StoreError as error:
                    if error.code not in ("MalformedXML", "InvalidRequest", "InvalidArgument", "400", "411"):
                        raise
                    self._deletes_in_batches = False
            for key in batch:
                await self._delete_one(key)

    async def _delete_batch(self, keys: Sequence[str]) -> None:
        left = list(keys)

        async def send(_: Deadline) -> None:
            # A batch that was partly done asks again for the rest alone.
            client = await self._bucket.client()
            with translated(self._bucket.target("DeleteObjects", left[0])):
                answer = await client.delete_objects(
                    Bucket=self._bucket.name,
                    Delete={"Objects": [{"Key": self._bucket.full(key)} for key in left], "Quiet": True},
                )
            failed = self._failed(answer.get("Errors", ()))
            left[:] = [key for key in left if key in failed]
            for error in sorted(failed.values(), key=lambda error: error.retryable):
                raise error

        await self._requests.run("DeleteObjects", keys[0], send)

    def _failed(self, items: Sequence[Mapping[str, Any]]) -> dict[str, StoreError]:
        failed: dict[str, StoreError] = {}
        for item in items:
            key = self._bucket.location.relative(str(item.get("Key", "")))
            target = self._bucket.target("DeleteObjects", key or "")
            error = from_code(str(item.get("Code", "")), str(item.get("Message", "")), target)
            if key is not None and not isinstance(error, ObjectMissingError):
                failed[key] = error
        return failed

    async def _delete_one(self, key: str) -> None:
        async def send(_: Deadline) -> None:
            client = await self._bucket.client()
            with translated(self._bucket.target("DeleteObject", key)):
                answer = await client.delete_object(Bucket=self._bucket.name, Key=self._bucket.full(key))
            if answer["ResponseMetadata"]["HTTPStatusCode"] not in (200, 202, 204):
                reason = "the answer is none of S3's"
                raise TransientError("DeleteObject", key, reason, code="MalformedAnswer")

        with contextlib.suppress(ObjectMissingError):
            await self._requests.run("DeleteObject", key, send)
