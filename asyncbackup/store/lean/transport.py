"""The hot operations over connections of our own."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import logging
import re
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import ObjectRefusedError, StoreError
from asyncbackup.store.base import Body, ObjectInfo, PartReceipt, PutResult, UploadId
from asyncbackup.store.body import body_size
from asyncbackup.store.lean.connection import WHOLE_LIMIT
from asyncbackup.store.lean.endpoint import Endpoint, EndpointFinder, NotLean
from asyncbackup.store.lean.listing import listing_page
from asyncbackup.store.lean.pool import Pool
from asyncbackup.store.lean.s3_answers import info_of, names_another_region, refusal
from asyncbackup.store.lean.signer import EMPTY_SHA256, KeySource, Signer, encoded_path, encoded_query
from asyncbackup.store.retry import TransientError
from asyncbackup.store.s3_bucket import CONNECT_SECONDS
from asyncbackup.store.s3_errors import translate, translated
from asyncbackup.store.s3_transport import (
    LIST_OBJECTS,
    BotoTransport,
    ListingPage,
    check_write,
    no_listing,
    parse_content_range,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from asyncbackup.store.lean.answer import AnswerParser
    from asyncbackup.store.lean.connection import Connection
    from asyncbackup.store.s3_bucket import S3Bucket
    from asyncbackup.store.s3_errors import Target
    from asyncbackup.store.s3_transport import Download, Progress

_log = logging.getLogger(__name__)

EXPECT_BYTES = 1024 * 1024
"""Bodies from here on wait for "100 Continue" while the endpoint's last word to a write was no success:
at the beginning, and after a refusal. A request that is refused then costs its head alone, and in
ordinary operation nothing waits for a round trip."""

LISTING_LIMIT = 16 * 1024 * 1024
"""Bytes of a listing: a thousand keys of 1,024 bytes, encoded threefold, and what stands beside them."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)


class LeanTransport:
    """See :class:`~asyncbackup.store.s3_transport.Transport`.

    Finds its ``endpoint`` with the first request, unless it is given. Where something is configured
    that is not done here (a proxy, session authentication of directory buckets, another
    signature), the library sends everything, and the log says why.
    """

    def __init__(
        self,
        bucket: S3Bucket,
        credentials: KeySource,
        *,
        timeout_seconds: float,
        endpoint: Endpoint | None = None,
    ) -> None:
        self._bucket = bucket
        self._credentials = credentials
        self._finder = EndpointFinder(bucket)
        self._connect_seconds = min(CONNECT_SECONDS, timeout_seconds)
        self._library = BotoTransport(bucket)
        self._route: _Route | None = None
        self._pools: list[Pool] = []
        self._by_library: bool | None = None
        self._finding = asyncio.Lock()
        self._wary = True
        self._continues = True
        if endpoint is not None:
            self._route = self._route_to(endpoint)
            self._by_library = False

    async def aclose(self) -> None:
        """Close all connections. Idempotent."""
        for pool in self._pools:
            await pool.aclose()

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
        if self._by_library is not False and await self.uses_library("PutObject", key):
            return await self._library.put(
                key,
                body,
                sha256=sha256,
                metadata=metadata,
                only_if_absent=only_if_absent,
                progress=progress,
            )
        checksum = base64.b64encode(sha256).decode()
        headers = metadata_headers("PutObject", key, metadata)
        headers["x-amz-checksum-sha256"] = checksum
        if only_if_absent:
            headers["if-none-match"] = "*"
        if storage_class := self._bucket.storage_class_option(key):
            headers["x-amz-storage-class"] = storage_class["StorageClass"]
        answer = await self._write("PutObject", key, "", headers, body, sha256, progress)
        returned = check_write("PutObject", key, answer, expected=checksum)
        return PutResult(etag=answer["ETag"], checksum=returned)

    async def upload_part(
        self, key: str, upload_id: UploadId, number: int, body: Body, *, sha256: bytes, progress: Progress
    ) -> PartReceipt:
        if await self.uses_library("UploadPart", key):
            return await self._library.upload_part(
                key, upload_id, number, body, sha256=sha256, progress=progress
            )
        checksum = base64.b64encode(sha256).decode()
        query = encoded_query({"partNumber": str(number), "uploadId": upload_id})
        headers = {"x-amz-checksum-sha256": checksum}
        answer = await self._write("UploadPart", key, query, headers, body, sha256, progress)
        check_write("UploadPart", key, answer, expected=checksum)
        return PartReceipt(number=number, size=body_size(body), etag=answer["ETag"], sha256=sha256)

    async def open(
        self, key: str, *, offset: int, length: int | None, if_match: str, described: bool
    ) -> Download:
        if await self.uses_library("GetObject", key):
            return await self._library.open(
                key, offset=offset, length=length, if_match=if_match, described=described
            )
        headers = {"x-amz-checksum-mode": "ENABLED"}
        ranged = bool(offset) or length is not None
        if ranged:
            headers["range"] = f"bytes={offset}-" + (str(offset + length - 1) if length is not None else "")
        if if_match:
            headers["if-match"] = if_match
        target = self._bucket.target("GetObject", key)
        with translated(target):
            for followed in (False, True):
                route = self._routed()
                head = await self._head_of(route, "GET", key, "", headers, EMPTY_SHA256)
                connection = await route.pool.take()
                opened = False
                try:
                    await connection.send(head, b"", 0, expect=False, progress=_nothing)
                    answer = await connection.head()
                    if answer.status < 300:
                        download = _LeanDownload(
                            route.pool, connection, answer, target, ranged=ranged, described=described
                        )
                        check_write("GetObject", key, {"ETag": download.info.etag}, expected="")
                        opened = True
                        return download
                    body = await connection.whole()
                finally:
                    if not opened:
                        route.pool.give(connection)
                error = refusal(answer.status, answer.headers, body, target)
                assert error is not None, "no status from 300 on is a success"
                if followed or not await self._elsewhere(route, answer.status, error):
                    raise error
        raise AssertionError("the second attempt returns or raises")

    async def head(self, key: str) -> ObjectInfo:
        if await self.uses_library("HeadObject", key):
            return await self._library.head(key)
        headers = {"x-amz-checksum-mode": "ENABLED"}
        answer, _ = await self.ask("HEAD", "HeadObject", key, "", headers)
        check_write("HeadObject", key, {"ETag": answer.headers.get("etag", "")}, expected="")
        if answer.length < 0:
            reason = "the answer does not say how large the object is"
            raise TransientError("HeadObject", key, reason, code="MalformedAnswer")
        target = self._bucket.target("HeadObject", key)
        return info_of(key, answer.headers, target, size=answer.length)

    async def list_page(self, prefix: str, token: str) -> ListingPage:
        if await self.uses_library(LIST_OBJECTS, prefix):
            return await self._library.list_page(prefix, token)
        parameters = {"list-type": "2", "encoding-type": "url", "prefix": self._bucket.full(prefix)}
        if token:
            parameters["continuation-token"] = token
        answer, body = await self.ask(
            "GET", LIST_OBJECTS, prefix, encoded_query(parameters), {}, of_bucket=True, limit=LISTING_LIMIT
        )
        page = listing_page(body)
        if page is None:
            # What is no listing may be an error, said after "200 OK".
            target = self._bucket.target(LIST_OBJECTS, prefix)
            with translated(target):
                raise refusal(answer.status, answer.headers, body, target) or no_listing(LIST_OBJECTS, prefix)
        return page

    async def ask(
        self,
        method: str,
        operation: str,
        key: str,
        query: str,
        headers: dict[str, str],
        *,
        body: bytes | None = None,
        progress: Progress | None = None,
        of_bucket: bool = False,
        limit: int = WHOLE_LIMIT,
    ) -> tuple[AnswerParser, bytes]:
        """The answer to a request that has no body or a short one, at most ``limit`` bytes of it.

        ``of_bucket`` asks the bucket, not the object. A success may still have an error in its body.
        Raises ``StoreError`` and its children, ``TransientError`` among them.
        """
        target = self._bucket.target(operation, key)
        bodiless, path_key = method == "HEAD", None if of_bucket else key
        content, size = body or b"", -1 if body is None else len(body)
        with translated(target):
            payload_sha256 = hashlib.sha256(content).hexdigest() if content else EMPTY_SHA256
            for followed in (False, True):
                route = self._routed()
                head = await self._head_of(route, method, path_key, query, headers, payload_sha256, size=size)
                connection = await route.pool.take()
                try:
                    await connection.send(
                        head,
                        content,
                        len(content),
                        expect=False,
                        progress=progress or _nothing,
                        bodiless=bodiless,
                    )
                    answer = await connection.head()
                    said = b"" if bodiless else await connection.whole(limit=limit)
                finally:
                    route.pool.give(connection)
                if answer.status < 300:
                    return answer, said
                error = refusal(answer.status, answer.headers, said, target)
                assert error is not None, "no status from 300 on is a success"
                if followed or not await self._elsewhere(route, answer.status, error):
                    raise error
        raise AssertionError("the second attempt returns or raises")

    async def _write(
        self,
        operation: str,
        key: str,
        query: str,
        headers: dict[str, str],
        body: Body,
        sha256: bytes,
        progress: Progress,
    ) -> dict[str, str]:
        """Send a body; ETag and checksum of the answer."""
        size = body_size(body)
        try:
            for followed in (False, True):
                route = self._routed()
                expect = size >= EXPECT_BYTES and self._wary and self._continues
                head = await self._head_of(
                    route, "PUT", key, query, headers, sha256.hex(), size=size, expect=expect
                )
                connection = await route.pool.take()
                try:
                    kept = await connection.send(head, body, size, expect=expect, progress=progress)
                    answer = await connection.head()
                    content = await connection.whole() if answer.length else b""
                finally:
                    route.pool.give(connection)
                if not kept or (expect and answer.status == 417):
                    self._continues = False
                if expect and answer.status == 417:
                    reason = "the endpoint does not know what to do with Expect: 100-continue"
                    raise TransientError(operation, key, reason, code="ExpectationFailed")
                error = None
                if answer.status >= 300 or content:
                    target = self._bucket.target(operation, key)
                    error = refusal(answer.status, answer.headers, content, target)
                self._wary = error is not None
                if error is None:
                    return {
                        "ETag": answer.headers.get("etag", ""),
                        "ChecksumSHA256": answer.headers.get("x-amz-checksum-sha256", ""),
                    }
                if followed or not await self._elsewhere(route, answer.status, error):
                    raise error
        except StoreError:
            raise
        except Exception as error:
            # As ``translated`` does, which costs a small request more than its signature.
            raise translate(error, self._bucket.target(operation, key)) from error
        raise AssertionError("the second attempt returns or raises")

    async def _head_of(
        self,
        route: _Route,
        method: str,
        key: str | None,
        query: str,
        headers: dict[str, str],
        payload_sha256: str,
        *,
        size: int = -1,
        expect: bool = False,
    ) -> bytes:
        # Without a key it is the bucket that is asked.
        path = route.endpoint.path + encoded_path("" if key is None else self._bucket.full(key))
        lines = route.signer.head_lines(
            method,
            path,
            query,
            headers,
            payload_sha256=payload_sha256,
            credentials=await self._credentials.current(),
            now=self._credentials.clock.now(),
        )
        target = f"{path}?{query}" if query else path
        length = f"content-length: {size}\r\n" if size >= 0 else ""
        waits = "expect: 100-continue\r\n" if expect else ""
        return f"{method} {target} HTTP/1.1\r\n{lines}{route.fixed_lines}{length}{waits}\r\n".encode()

    async def uses_library(self, operation: str, key: str) -> bool:
        """Whether this request is not for the lean path. Finds the endpoint the first time.

        Raises as :func:`~asyncbackup.store.s3_errors.translate` does.
        """
        if self._by_library is None:
            with translated(self._bucket.target(operation, key)):
                async with self._finding:
                    await self._find()
        return self._by_library is True

    async def _find(self) -> None:
        if self._by_library is not None:
            return  # Another request has done it meanwhile.
        try:
            self._route = self._route_to(await self._finder.find())
            self._by_library = False
        except NotLean as reason:
            self._leave_to_library(reason)

    def _leave_to_library(self, reason: NotLean) -> None:
        _log.info("%s: contents go through the S3 library, because %s", self._bucket.name, reason)
        self._by_library = True

    def _route_to(self, endpoint: Endpoint) -> _Route:
        pool = Pool(endpoint.origin, connect_seconds=self._connect_seconds)
        self._pools.append(pool)
        return _Route(
            endpoint,
            pool,
            Signer(host=endpoint.host, region=endpoint.region, service=endpoint.service),
            f"user-agent: {endpoint.user_agent}\r\naccept-encoding: identity\r\n",
        )

    def _routed(self) -> _Route:
        assert self._route is not None, "the endpoint was found before"
        return self._route

    async def _elsewhere(self, route: _Route, status: int, error: StoreError) -> bool:
        """Whether the bucket turned out to be in another region, so that the request is to be sent there.

        The library finds out, by a listing of one key that it follows to the right region, and
        remembers: its own requests go there as well. It only ever follows to an endpoint that it
        knows for that region, never to an address that an answer names.
        """
        if not names_another_region(status, error):
            return False
        async with self._finding:
            if self._route is not route:
                return True  # Another request has found out.
            if route.region_checked:
                return False
            route.region_checked = await self._let_library_look()
            try:
                endpoint = await self._finder.find()
            except NotLean as reason:
                self._leave_to_library(reason)
                return False
            if endpoint.same_place(route.endpoint):
                return False
            _log.info("%s is in the region %s", self._bucket.name, endpoint.region)
            self._route = self._route_to(endpoint)
            route.pool.retire()
            return True

    async def _let_library_look(self) -> bool:
        """Whether it got an answer. A refusal is one: the region is told before rights are looked at."""
        try:
            client = await self._bucket.client()
            with translated(self._bucket.target("ListObjectsV2")):
                await client.list_objects_v2(
                    Bucket=self._bucket.name, Prefix=self._bucket.full(""), MaxKeys=1
                )
        except TransientError:
            return False
        except StoreError:
            return True
        return True


class _Route(msgspec.Struct):
    """An endpoint, and what is made once for all requests to it."""

    endpoint: Endpoint
    pool: Pool
    signer: Signer
    fixed_lines: str
    region_checked: bool = False


class _LeanDownload:
    """See :class:`~asyncbackup.store.s3_transport.Download`."""

    def __init__(
        self,
        pool: Pool,
        connection: Connection,
        answer: AnswerParser,
        target: Target,
        *,
        ranged: bool,
        described: bool,
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._target = target
        self._given = False
        self.length = answer.length
        self.start, total = parse_content_range(answer.headers.get("content-range", ""))
        if self.start < 0 and not ranged:
            self.start, total = 0, self.length
        if described:
            self.info = info_of(target.key, answer.headers, target, size=total)
        else:
            self.info = ObjectInfo(key=target.key, size=total, etag=answer.headers.get("etag", ""))

    def received(self) -> bytes:
        return self._connection.received()

    async def read(self) -> bytes:
        with translated(self._target):
            return await self._connection.read()

    async def fill(self, view: memoryview, progress: Callable[[int], None]) -> None:
        with translated(self._target):
            await self._connection.fill(view, progress)

    def close(self) -> None:
        if not self._given:
            self._given = True
            self._pool.give(self._connection)


def _nothing() -> None:
    pass


def metadata_headers(operation: str, key: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """The headers of an object's metadata. Raises ``ObjectRefusedError`` for what cannot stand in one."""
    names = _header_names(tuple(metadata))
    values = "".join(metadata.values())
    if names is None or not _is_header_value(values):
        wrong = next(name for name, value in metadata.items() if not _is_header(name, value))
        reason = f"not a valid request: the metadata {wrong!r} cannot stand in a header"
        raise ObjectRefusedError(operation, key, reason, code="ParamValidation")
    return dict(zip(names, metadata.values(), strict=True))


@functools.lru_cache(maxsize=256)
def _header_names(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The headers that metadata of these names are; ``None`` where one cannot be. The same few sets of
    them stand in every request."""
    return tuple(f"x-amz-meta-{n.lower()}" for n in names) if all(map(_NAME.fullmatch, names)) else None


def _is_header_value(value: str) -> bool:
    # What is ASCII and printable is from a space to a tilde.
    return value.isascii() and value.isprintable()


def _is_header(name: str, value: str) -> bool:
    return _NAME.fullmatch(name) is not None and _is_header_value(value)
