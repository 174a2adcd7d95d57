"""Which operation a request is, whether it shall fail, and what it is answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.server import listings, multipart, objects
from benchmarks.server.buckets import Buckets
from benchmarks.server.counters import Counters
from benchmarks.server.faults import ConnectionFault
from benchmarks.server.message import Request, Response, S3Error, error_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.server.connection import Connection
    from benchmarks.server.content import Content
    from benchmarks.server.faults import Faults
    from benchmarks.server.pace import Latency, Pace

UNKNOWN = "Unknown"
OPERATIONS: dict[str, Callable[[Buckets, Request, Content], Response]] = {
    "ListBuckets": listings.list_buckets,
    "CreateBucket": objects.create_bucket,
    "HeadBucket": objects.head_bucket,
    "DeleteBucket": objects.delete_bucket,
    "GetBucketLocation": objects.bucket_location,
    "GetBucketVersioning": objects.bucket_versioning,
    "ListObjects": listings.list_objects,
    "ListObjectsV2": listings.list_objects_v2,
    "ListMultipartUploads": listings.list_uploads,
    "ListParts": listings.list_parts,
    "PutObject": objects.put_object,
    "GetObject": objects.get_object,
    "HeadObject": objects.head_object,
    "CopyObject": objects.copy_object,
    "DeleteObject": objects.delete_object,
    "DeleteObjects": objects.delete_objects,
    "CreateMultipartUpload": multipart.create_upload,
    "UploadPart": multipart.upload_part,
    "UploadPartCopy": multipart.upload_part_copy,
    "CompleteMultipartUpload": multipart.complete_upload,
    "AbortMultipartUpload": multipart.abort_upload,
}
_PARAMETERS = frozenset(
    {
        "prefix", "delimiter", "marker", "max-keys", "encoding-type", "list-type", "continuation-token",
        "start-after", "fetch-owner", "key-marker", "upload-id-marker", "max-uploads", "uploadId",
        "partNumber", "part-number-marker", "max-parts", "uploads", "delete", "location",
        "versioning", "x-id",
    }
)  # fmt: skip
"""What a query may hold. Anything else (``acl``, ``tagging``, …) asks for what this server does not do."""


_SCRATCH_BYTES = 256 * 1024


class Service:
    """All that the connections share."""

    def __init__(
        self,
        *,
        faults: Faults,
        latency: Latency,
        incoming: Pace,
        outgoing: Pace,
        connection_bytes_per_second: float,
        checks_bodies: bool,
    ) -> None:
        self.buckets = Buckets()
        self.counters = Counters()
        self.connections: set[Connection] = set()
        self.latency = latency
        self.incoming = incoming
        self.outgoing = outgoing
        self.connection_bytes_per_second = connection_bytes_per_second
        self.checks_bodies = checks_bodies
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        """What any connection receives into: taken out before another one receives."""
        self._faults = faults

    def answer(self, request: Request, content: Content, now: float) -> tuple[str, Response]:
        """The operation's name and the answer, an error's too. Raises ``ConnectionFault``."""
        operation = UNKNOWN
        try:
            operation = operation_of(request)
            self._faults.check(operation, now)
            return operation, OPERATIONS[operation](self.buckets, request, content)
        except S3Error as error:
            return operation, error_response(error, request)
        except ConnectionFault:
            self.counters.count_reset(operation)
            raise

    def aside(self, request: Request) -> Response:
        """The side paths, which nothing slows, breaks or counts."""
        if request.path == "/_stats" and request.method == "GET":
            told = {**self.counters.told(), "buckets": self.buckets.told()}
            return Response(200, "Content-Type: application/json\r\n", (json.dumps(told).encode(),))
        if request.path == "/_stats" and request.method == "DELETE":
            self.counters.reset()
            return Response(204)
        if request.bucket == "_buckets" and request.method == "DELETE":
            self.buckets.drop(request.key)
            return Response(204)
        return error_response(S3Error(404, "NoSuchSidePath"), request)


def operation_of(request: Request) -> str:
    """S3's name of what is asked. Raises ``S3Error`` for what this server does not do."""
    query, method = request.query, request.method
    operation = ""
    if not query.keys() <= _PARAMETERS:
        pass
    elif not request.bucket:
        operation = {"GET": "ListBuckets"}.get(method, "")
    elif not request.key:
        operation = _of_bucket(method, query)
    else:
        operation = _of_object(method, query, copies="x-amz-copy-source" in request.headers)
    if not operation:
        raise S3Error(501, "NotImplemented", "A header or query you provided implies what is not done here.")
    return operation


def _of_bucket(method: str, query: dict[str, str]) -> str:
    if method == "GET":
        if "location" in query:
            return "GetBucketLocation"
        if "versioning" in query:
            return "GetBucketVersioning"
        if "uploads" in query:
            return "ListMultipartUploads"
        return "ListObjectsV2" if query.get("list-type") == "2" else "ListObjects"
    if method == "POST":
        return "DeleteObjects" if "delete" in query else ""
    return {"PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}.get(method, "")


def _of_object(method: str, query: dict[str, str], *, copies: bool) -> str:
    if method == "PUT":
        if "partNumber" in query:
            return "UploadPartCopy" if copies else "UploadPart"
        return "CopyObject" if copies else "PutObject"
    if method == "POST":
        if "uploads" in query:
            return "CreateMultipartUpload"
        return "CompleteMultipartUpload" if "uploadId" in query else ""
    uploads = "uploadId" in query
    if method == "GET":
        return "ListParts" if uploads else "GetObject"
    if method == "DELETE":
        return "AbortMultipartUpload" if uploads else "DeleteObject"
    return "HeadObject" if method == "HEAD" else ""
