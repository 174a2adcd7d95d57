"""Multipart uploads."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from benchmarks.server.content import new_etag
from benchmarks.server.listings import iso_time
from benchmarks.server.memory import Part, StoredObject, Upload
from benchmarks.server.message import (
    CHECKSUM,
    XML_NAMESPACE,
    Request,
    Response,
    S3Error,
    xml_response,
)
from benchmarks.server.objects import check_write_conditions, checked_sums, copy_source, kept_headers

if TYPE_CHECKING:
    from benchmarks.server.buckets import Buckets
    from benchmarks.server.content import Content

SMALLEST_PART_BYTES = 5 * 1024 * 1024
MOST_PARTS = 10_000
_COPIED_RANGE = re.compile(r"bytes=(\d+)-(\d+)$")
_PART = re.compile(r"<Part>(.*?)</Part>", re.DOTALL)
_NUMBER = re.compile(r"<PartNumber>\s*(\d+)\s*</PartNumber>")
_ETAG = re.compile(r'<ETag>\s*(?:"|&quot;|&#34;)?([0-9a-f-]+)(?:"|&quot;|&#34;)?\s*</ETag>')
_SHA256 = re.compile(r"<ChecksumSHA256>\s*([A-Za-z0-9+/=]+)\s*</ChecksumSHA256>")


def create_upload(buckets: Buckets, request: Request, content: Content) -> Response:
    bucket = buckets.get(request.bucket)
    algorithm = request.headers.get("x-amz-checksum-algorithm", "").upper()
    upload = Upload(secrets.token_hex(16), request.key, kept_headers(request.headers), algorithm)
    bucket.uploads[upload.upload_id] = upload
    told = f"x-amz-checksum-algorithm: {algorithm}\r\n" if algorithm else ""
    if request.headers.get("x-amz-checksum-type"):
        told += f"x-amz-checksum-type: {request.headers['x-amz-checksum-type']}\r\n"
    return xml_response(
        f"<InitiateMultipartUploadResult {XML_NAMESPACE}><Bucket>{bucket.name}</Bucket>"
        f"<Key>{escape(request.key)}</Key><UploadId>{upload.upload_id}</UploadId>"
        "</InitiateMultipartUploadResult>",
        headers=told,
    )


def upload_part(buckets: Buckets, request: Request, content: Content) -> Response:
    upload, number = _upload(buckets, request), _part_number(request)
    checksum = checked_sums(content, request.headers)
    digest = content.digest(checksum) if checksum else b""
    part = Part(content.take(), content.etag(), digest, time.time())
    upload.parts[number] = part
    told = f"{CHECKSUM}: {checksum}\r\n" if checksum else ""
    return Response(200, f'ETag: "{part.etag}"\r\n{told}')


def upload_part_copy(buckets: Buckets, request: Request, content: Content) -> Response:
    upload, number = _upload(buckets, request), _part_number(request)
    source = copy_source(buckets, request.headers)
    wanted = request.headers.get("x-amz-copy-source-range")
    start, length = _copied_range(wanted, source.size) if wanted else (0, source.size)
    body = b"".join(source.range(start, length))
    digest = hashlib.sha256(body).digest() if upload.algorithm == "SHA256" else b""
    etag = content.etag_of((body,))
    part = upload.parts[number] = Part(body, etag, digest, time.time())
    told = f"<ChecksumSHA256>{base64.b64encode(digest).decode()}</ChecksumSHA256>" if digest else ""
    return xml_response(
        f"<CopyPartResult {XML_NAMESPACE}><LastModified>{iso_time(part.modified)}</LastModified>"
        f'<ETag>"{etag}"</ETag>{told}</CopyPartResult>'
    )


def complete_upload(buckets: Buckets, request: Request, content: Content) -> Response:
    bucket, upload = buckets.get(request.bucket), _upload(buckets, request)
    check_write_conditions(bucket.objects.get(upload.key), request.headers)
    parts = _named_parts(upload, content.text())
    for part in parts[:-1]:
        if len(part.body) < SMALLEST_PART_BYTES:
            raise S3Error(400, "EntityTooSmall", "A part but the last is smaller than 5 MiB.")
    if content.checked:
        joined = b"".join(bytes.fromhex(part.etag) for part in parts)
        etag = f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"
    else:
        etag = new_etag(len(parts))
    checksum = ""
    if all(part.sha256 for part in parts):
        composite = hashlib.sha256(b"".join(part.sha256 for part in parts)).digest()
        checksum = f"{base64.b64encode(composite).decode()}-{len(parts)}"
    stored = StoredObject(
        tuple(part.body for part in parts),
        etag=etag,
        headers=upload.headers,
        checksum=checksum,
        checksum_type="COMPOSITE",
    )
    del bucket.uploads[upload.upload_id]
    bucket.put(upload.key, stored)
    told = f"<ChecksumSHA256>{checksum}</ChecksumSHA256>" if checksum else ""
    return xml_response(
        f"<CompleteMultipartUploadResult {XML_NAMESPACE}><Location>/{bucket.name}</Location>"
        f"<Bucket>{bucket.name}</Bucket><Key>{escape(upload.key)}</Key>"
        f'<ETag>"{etag}"</ETag>{told}</CompleteMultipartUploadResult>'
    )


def abort_upload(buckets: Buckets, request: Request, content: Content) -> Response:
    upload = _upload(buckets, request)
    del buckets.get(request.bucket).uploads[upload.upload_id]
    return Response(204)


def _upload(buckets: Buckets, request: Request) -> Upload:
    return buckets.get(request.bucket).upload(request.query.get("uploadId", ""), request.key)


def _part_number(request: Request) -> int:
    number = request.number("partNumber", 0, most=MOST_PARTS + 1)
    if not 1 <= number <= MOST_PARTS:
        raise S3Error(400, "InvalidArgument", "Part number must be from 1 to 10,000")
    return number


def _copied_range(wanted: str, size: int) -> tuple[int, int]:
    """Start and length. Unlike a range that is read, it may not end behind the source."""
    match = _COPIED_RANGE.match(wanted)
    if match is None or not int(match[1]) <= int(match[2]) < size:
        raise S3Error(400, "InvalidArgument", f"{wanted} is no range of a source of {size} bytes")
    return int(match[1]), int(match[2]) - int(match[1]) + 1


def _named_parts(upload: Upload, text: str) -> list[Part]:
    """The parts that the client says the object consists of. Raises ``S3Error``."""
    parts: list[Part] = []
    before = 0
    for fields in _PART.findall(text):
        number, etag, checksum = _NUMBER.search(fields), _ETAG.search(fields), _SHA256.search(fields)
        if number is None or etag is None:
            raise S3Error(400, "MalformedXML", "a part without its number or ETag")
        if int(number[1]) <= before:
            raise S3Error(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
        before = int(number[1])
        part = upload.parts.get(before)
        if part is None or part.etag != etag[1]:
            raise S3Error(400, "InvalidPart", f"Part {before} was not uploaded, or is another one.")
        if checksum is not None and base64.b64encode(part.sha256).decode() != checksum[1]:
            raise S3Error(400, "InvalidPart", f"Part {before} has another SHA256.")
        parts.append(part)
    if not parts:
        raise S3Error(400, "MalformedXML", "no parts")
    return parts
