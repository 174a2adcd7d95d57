"""An S3 bucket, or a prefix of one, as a store.

The parts: ``s3_plain`` or ``s3_library`` tells where to send and what to sign with,
``s3_requests`` sends (slots, deadlines, retries, counts), ``s3_transport`` and ``s3_multipart``, or
``lean``, do the hot operations, ``s3_reader`` reads through breaks, ``s3_objects``, ``s3_uploads`` and
``s3_listing`` do the rest, ``s3_errors`` translates.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Self

from asyncbackup.errors import ObjectExistsError, StoreError, UnsupportedError
from asyncbackup.store.adaptive import ConcurrencyController
from asyncbackup.store.base import (
    Body,
    Capabilities,
    ObjectInfo,
    ObjectPage,
    ObjectReader,
    PartList,
    PartReceipt,
    PutResult,
    UploadId,
    UploadPage,
    other_size,
)
from asyncbackup.store.body import body_size
from asyncbackup.store.endpoint_clock import EndpointClock
from asyncbackup.store.lean.multipart import LeanMultipart
from asyncbackup.store.lean.transport import LeanTransport
from asyncbackup.store.retry import Clock, RetryPolicy
from asyncbackup.store.s3_bucket import S3Bucket
from asyncbackup.store.s3_library import S3Library
from asyncbackup.store.s3_listing import list_objects, list_uploads
from asyncbackup.store.s3_multipart import BotoMultipart, Multipart
from asyncbackup.store.s3_objects import S3Objects
from asyncbackup.store.s3_plain import FixedKeys, plain_access
from asyncbackup.store.s3_reader import S3Reader
from asyncbackup.store.s3_requests import S3Requests
from asyncbackup.store.s3_transport import BotoTransport, Transport
from asyncbackup.store.s3_uploads import S3Uploads
from asyncbackup.store.slots import RequestSlots

if TYPE_CHECKING:
    from asyncbackup.config import S3Settings
    from asyncbackup.flow.load import RequestLoad
    from asyncbackup.model import RequestCounts
    from asyncbackup.store.deadline import Deadline
    from asyncbackup.store.lean.signer import KeySource
    from asyncbackup.store.s3_location import S3Location


class S3Store:
    """See :class:`~asyncbackup.store.base.Store` for what it promises; made by :meth:`connect`."""

    def __init__(
        self,
        bucket: S3Bucket,
        requests: S3Requests,
        transport: Transport,
        multipart: Multipart,
        resources: AsyncExitStack,
    ) -> None:
        self.url = bucket.location.url
        self.slots = requests.slots
        self._bucket = bucket
        self._requests = requests
        self._resources = resources
        self._transport = transport
        self._objects = S3Objects(bucket, requests, transport)
        self._uploads = S3Uploads(bucket, requests, self._objects, multipart)

    @classmethod
    async def connect(
        cls,
        location: S3Location,
        *,
        settings: S3Settings,
        concurrency: int,
        adaptive: bool = False,
        storage_class: str = "STANDARD",
        policy: RetryPolicy | None = None,
        clock: Clock | None = None,
        on_retry: Callable[[str], None] | None = None,
    ) -> Self:
        """A store with at most ``concurrency`` requests at once, ``adaptive`` up to it. Sends nothing yet.

        Raises ``ConfigError`` and ``AccessDeniedError`` as
        :func:`~asyncbackup.store.s3_session.open_client` does.
        """
        async with AsyncExitStack() as resources:
            endpoint_clock = EndpointClock()
            library = S3Library(settings, concurrency=concurrency, clock=endpoint_clock)
            resources.push_async_callback(library.aclose)
            plain = plain_access(location.bucket, settings) if settings.transfer == "lean" else None
            credentials: KeySource
            if plain is not None:
                credentials, endpoint = FixedKeys(plain.keys, endpoint_clock), plain.endpoint_url
            else:
                client, credentials, _ = await library.open()
                endpoint = client.meta.endpoint_url
            requests = S3Requests(
                slots=RequestSlots(
                    concurrency,
                    controller=ConcurrencyController(bound=concurrency) if adaptive else None,
                    name=endpoint,
                    clock=clock,
                ),
                policy=policy or RetryPolicy(max_attempts=settings.max_attempts),
                timeout_seconds=settings.timeout_seconds,
                clock=clock,
                credentials=credentials,
                on_retry=on_retry,
            )
            bucket = S3Bucket(library, location, endpoint=endpoint, storage_class=storage_class)
            transport: Transport = BotoTransport(bucket)
            multipart: Multipart = BotoMultipart(bucket)
            if settings.transfer == "lean":
                lean = LeanTransport(
                    bucket,
                    credentials,
                    timeout_seconds=settings.timeout_seconds,
                    endpoint=plain.endpoint if plain is not None else None,
                )
                resources.push_async_callback(lean.aclose)
                transport, multipart = lean, LeanMultipart(bucket, lean)
            return cls(bucket, requests, transport, multipart, resources.pop_all())

    async def aclose(self) -> None:
        await self._resources.aclose()

    @property
    def capabilities(self) -> Capabilities:
        """What was seen so far: checksums count as kept once a HEAD has returned one."""
        return Capabilities(
            keeps_checksums=self._objects.keeps_checksums,
            keeps_folders=self._objects.keeps_folders is not False,
            part_copy=self._uploads.copies_parts is not False,
            uploads_known=self._uploads.known,
        )

    @property
    def requests(self) -> RequestCounts:
        return self._requests.counts

    @property
    def load(self) -> RequestLoad:
        return self.slots.load

    @property
    def retries(self) -> int:
        """Requests that were not the first of their kind."""
        return self._requests.retries

    async def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: bytes,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> PutResult:
        if key.endswith("/") and not await self._objects.can_keep_folders():
            return PutResult()
        try:
            return await self._put(key, body, sha256, metadata or {}, only_if_absent=if_absent)
        except UnsupportedError:
            if not if_absent:
                raise
            return await self._put(key, body, sha256, metadata or {}, only_if_absent=False)
        except ObjectExistsError:
            own = await self._own_write(key, body_size(body), sha256)
            if own is None:
                raise
            return own

    async def _put(
        self, key: str, body: Body, sha256: bytes, metadata: Mapping[str, str], *, only_if_absent: bool
    ) -> PutResult:
        async def send(deadline: Deadline) -> PutResult:
            return await self._transport.put(
                key,
                body,
                sha256=sha256,
                metadata=metadata,
                only_if_absent=only_if_absent,
                progress=deadline.progress,
            )

        return await self._requests.run("PutObject", key, send, size=body_size(body))

    async def _own_write(self, key: str, size: int, sha256: bytes) -> PutResult | None:
        """What a PUT made that was answered with 412, if these bytes are what lies there now."""
        info = await self._objects.head(key)
        if info.size != size:
            return None
        if not info.checksum:
            digest = hashlib.sha256()
            async with self.open(key) as reader:
                async for chunk in reader:
                    digest.update(chunk)
            same = digest.digest() == sha256
        else:
            same = info.checksum == base64.b64encode(sha256).decode()
        return PutResult(etag=info.etag, checksum=info.checksum) if same else None

    @asynccontextmanager
    async def open(
        self, key: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[ObjectReader]:
        if length == 0:
            yield _NothingToRead(await self.head(key))
            return
        reader = S3Reader(self._requests, self._transport, key, offset=offset, length=length)
        try:
            await reader.start()
            yield reader
        finally:
            reader.close()

    async def fetch(self, key: str, *, size: int) -> list[bytes]:
        reader = S3Reader(self._requests, self._transport, key, offset=0, length=None, described=False)
        pieces: list[bytes] = []
        try:
            await reader.start()
            announced = reader.info.size
            if announced not in (-1, size):
                raise other_size(key, announced, size)
            got = 0
            while piece := await reader.read():
                got += len(piece)
                if got > size:
                    break
                pieces.append(piece)
        finally:
            reader.close()
        if got != size:
            raise other_size(key, got, size)
        return pieces

    async def get(self, key: str, *, limit: int) -> bytes:
        chunks: list[bytes] = []
        got = 0
        async with self.open(key) as reader:
            if reader.info.size > limit:
                raise _too_large(key, reader.info.size, limit)
            async for chunk in reader:
                got += len(chunk)
                if got > limit:
                    raise _too_large(key, got, limit)
                chunks.append(chunk)
        return b"".join(chunks)

    async def head(self, key: str) -> ObjectInfo:
        return await self._objects.head(key)

    def list(self, prefix: str) -> AsyncIterator[ObjectPage]:
        return list_objects(self._bucket, self._requests, self._transport, prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._objects.delete(keys)

    async def copy(self, source: str, key: str, *, metadata: Mapping[str, str]) -> PutResult:
        return await self._objects.copy(source, key, metadata)

    async def create_upload(self, key: str, *, metadata: Mapping[str, str]) -> UploadId:
        return await self._uploads.create(key, metadata)

    async def upload_part(
        self, key: str, upload_id: UploadId, number: int, body: Body, *, sha256: bytes
    ) -> PartReceipt:
        async def send(deadline: Deadline) -> PartReceipt:
            return await self._transport.upload_part(
                key, upload_id, number, body, sha256=sha256, progress=deadline.progress
            )

        return await self._requests.run("UploadPart", key, send, size=body_size(body))

    async def copy_part(
        self, source: str, key: str, upload_id: UploadId, number: int, *, offset: int, length: int
    ) -> PartReceipt:
        return await self._uploads.copy_part(source, key, upload_id, number, offset=offset, length=length)

    async def list_parts(self, key: str, upload_id: UploadId) -> PartList:
        return await self._uploads.list_parts(key, upload_id)

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartReceipt]) -> PutResult:
        return await self._uploads.complete(key, upload_id, parts)

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        await self._uploads.abort(key, upload_id)

    def list_uploads(self, prefix: str) -> AsyncIterator[UploadPage]:
        return list_uploads(self._bucket, self._requests, prefix)


_NO_CHUNKS: tuple[bytes, ...] = ()


class _NothingToRead:
    def __init__(self, info: ObjectInfo) -> None:
        self.info = info

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in _NO_CHUNKS:
            yield chunk

    async def fill(self, view: memoryview) -> int:
        return 0


def _too_large(key: str, size: int, limit: int) -> StoreError:
    return StoreError(
        "GetObject", key, f"{size} bytes or more, at most {limit} are accepted", code="TooLarge"
    )
