"""Buckets and objects: put, get, head, copy, delete."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.sax.saxutils import escape, unescape

from benchmarks.server.listings import iso_time
from benchmarks.server.memory import StoredObject
from benchmarks.server.message import (
    CHECKSUM,
    XML_NAMESPACE,
    Request,
    Response,
    S3Error,
    xml_response,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.server.buckets import Buckets
    from benchmarks.server.content import Content

_KEPT = frozenset(
    {
        "content-type", "content-language", "content-disposition", "cache-control", "expires",
        "x-amz-storage-class", "x-amz-website-redirect-location",
    }
)  # fmt: skip
_METADATA = "x-amz-meta-"
_METADATA_BYTES = 2048
_MOST_DELETED = 1000
_KEYS_TO_DELETE = re.compile(r"<Key>(.*?)</Key>", re.DOTALL)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
_ENTITIES = {"&quot;": '"', "&apos;": "'", "&#13;": "\r", "&#xD;": "\r", "&#10;": "\n", "&#xA;": "\n"}


def create_bucket(buckets: Buckets, request: Request, content: Content) -> Response:
    buckets.create(request.bucket)
    return Response(200, f"Location: /{request.bucket}\r\n")


def head_bucket(buckets: Buckets, request: Request, content: Content) -> Response:
    buckets.get(request.bucket)
    return Response(200, "x-amz-bucket-region: us-east-1\r\n")


def delete_bucket(buckets: Buckets, request: Request, content: Content) -> Response:
    buckets.delete(request.bucket)
    return Response(204)


def bucket_location(buckets: Buckets, request: Request, content: Content) -> Response:
    buckets.get(request.bucket)
    return xml_response(f"<LocationConstraint {XML_NAMESPACE}/>")


def bucket_versioning(buckets: Buckets, request: Request, content: Content) -> Response:
    buckets.get(request.bucket)
    return xml_response(f"<VersioningConfiguration {XML_NAMESPACE}/>")


def put_object(buckets: Buckets, request: Request, content: Content) -> Response:
    bucket, headers = buckets.get(request.bucket), request.headers
    if len(request.key.encode()) > 1024:
        raise S3Error(400, "KeyTooLongError", "Your key is too long")
    check_write_conditions(bucket.objects.get(request.key), headers)
    checksum = checked_sums(content, headers)
    stored = StoredObject(
        (content.take(),), etag=content.etag(), headers=kept_headers(headers), checksum=checksum
    )
    bucket.put(request.key, stored)
    return Response(200, f'ETag: "{stored.etag}"\r\n{_checksum_lines(stored)}')


def get_object(buckets: Buckets, request: Request, content: Content) -> Response:
    stored = buckets.get(request.bucket).object(request.key)
    if (refused := _read_condition(stored, request.headers)) is not None:
        return refused
    lines = stored.head_lines()
    if (wanted := request.headers.get("range")) and (span := byte_range(wanted, stored.size)):
        start, length = span
        lines += f"Content-Range: bytes {start}-{start + length - 1}/{stored.size}\r\n"
        return Response(206, lines, stored.range(start, length))
    return Response(200, lines + _asked_checksum(stored, request), stored.parts)


def head_object(buckets: Buckets, request: Request, content: Content) -> Response:
    stored = buckets.get(request.bucket).object(request.key)
    if (refused := _read_condition(stored, request.headers)) is not None:
        return refused
    return Response(200, stored.head_lines() + _asked_checksum(stored, request), size=stored.size)


def copy_object(buckets: Buckets, request: Request, content: Content) -> Response:
    bucket, headers = buckets.get(request.bucket), request.headers
    source = copy_source(buckets, headers)
    check_write_conditions(bucket.objects.get(request.key), headers)
    replaced = headers.get("x-amz-metadata-directive", "COPY") == "REPLACE"
    kept = kept_headers(headers) if replaced else source.headers
    checksum = source.checksum if source.checksum_type == "FULL_OBJECT" else ""
    if not checksum and headers.get("x-amz-checksum-algorithm", "").upper() == "SHA256":
        digest = hashlib.sha256()
        for part in source.parts:
            digest.update(part)
        checksum = base64.b64encode(digest.digest()).decode()
    etag = content.etag_of(source.parts)
    stored = StoredObject(source.parts, etag=etag, headers=kept, checksum=checksum)
    bucket.put(request.key, stored)
    told = f"<ChecksumSHA256>{checksum}</ChecksumSHA256>" if checksum else ""
    return xml_response(
        f"<CopyObjectResult {XML_NAMESPACE}><LastModified>{iso_time(stored.modified)}</LastModified>"
        f'<ETag>"{etag}"</ETag>{told}</CopyObjectResult>'
    )


def delete_object(buckets: Buckets, request: Request, content: Content) -> Response:
    buckets.get(request.bucket).delete(request.key)
    return Response(204)


def delete_objects(buckets: Buckets, request: Request, content: Content) -> Response:
    bucket = buckets.get(request.bucket)
    checked_sums(content, request.headers)
    text = content.text()
    keys = [unescape(found, _ENTITIES) for found in _KEYS_TO_DELETE.findall(text)]
    if not keys or len(keys) > _MOST_DELETED:
        raise S3Error(400, "MalformedXML", f"{len(keys)} keys to delete")
    for key in keys:
        bucket.delete(key)
    quiet = "<Quiet>true</Quiet>" in text
    deleted = "" if quiet else "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
    return xml_response(f"<DeleteResult {XML_NAMESPACE}>{deleted}</DeleteResult>")


def checked_sums(content: Content, headers: Mapping[str, str]) -> str:
    """The SHA-256 that came with the body, in base64, or nothing.

    Raises ``S3Error`` if it does not fit, or the MD5, where bodies are checked.
    """
    given = headers.get("content-md5")
    if given and content.md5 is not None and given != base64.b64encode(content.md5.digest()).decode():
        raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
    checksum = headers.get(CHECKSUM) or content.trailers.get(CHECKSUM, "")
    if checksum and not content.checked:
        content.digest(checksum)
    elif checksum:
        if content.sha256 is None:
            raise S3Error(400, "InvalidRequest", "x-amz-trailer does not announce the checksum.")
        if checksum != base64.b64encode(content.sha256.digest()).decode():
            raise S3Error(400, "BadDigest", "The SHA256 you specified did not match what we received.")
    return checksum


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those that an answer gives back. Raises ``S3Error``."""
    kept: dict[str, str] = {}
    metadata_bytes = 0
    for name, value in headers.items():
        if name.startswith(_METADATA):
            kept[name] = value
            metadata_bytes += len(name) - len(_METADATA) + len(value)
        elif name in _KEPT:
            kept[name] = value
        elif name == "content-encoding":
            codings = [coding.strip() for coding in value.split(",")]
            if encoding := ",".join(coding for coding in codings if coding not in ("", "aws-chunked")):
                kept[name] = encoding
    if metadata_bytes > _METADATA_BYTES:
        raise S3Error(400, "MetadataTooLarge", "Your metadata headers exceed the maximum allowed size.")
    return kept


def copy_source(buckets: Buckets, headers: Mapping[str, str]) -> StoredObject:
    """What a copy copies. Raises ``S3Error``."""
    name, _, key = unquote(headers["x-amz-copy-source"]).removeprefix("/").partition("/")
    source = buckets.get(name).object(key)
    wanted = headers.get("x-amz-copy-source-if-match")
    if wanted is not None and wanted.strip('"') != source.etag:
        raise S3Error(412, "PreconditionFailed", "The source is another one.")
    return source


def check_write_conditions(present: StoredObject | None, headers: Mapping[str, str]) -> None:
    """Raises ``S3Error`` where a condition on what is there forbids to write."""
    if present is not None and headers.get("if-none-match") == "*":
        raise S3Error(412, "PreconditionFailed", "There is an object with this key.")
    if (wanted := headers.get("if-match")) is not None:
        if present is None:
            raise S3Error(404, "NoSuchKey", "There is no object with this key.")
        if wanted.strip('"') != present.etag:
            raise S3Error(412, "PreconditionFailed", "The object is another one.")


def byte_range(wanted: str, size: int) -> tuple[int, int] | None:
    """Start and length, or ``None`` for a header that is to be ignored. Raises ``S3Error``."""
    match = _RANGE.match(wanted)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= size or (not first and not int(last)):
        raise S3Error(416, "InvalidRange", "The requested range is not satisfiable")
    if end <= start:
        return None
    return start, end - start


def _read_condition(stored: StoredObject, headers: Mapping[str, str]) -> Response | None:
    wanted = headers.get("if-match")
    if wanted is not None and wanted.strip('"') not in (stored.etag, "*"):
        raise S3Error(412, "PreconditionFailed", "The object is another one.")
    if headers.get("if-none-match", "").strip('"') == stored.etag:
        return Response(304, f'ETag: "{stored.etag}"\r\n')
    return None


def _asked_checksum(stored: StoredObject, request: Request) -> str:
    asked = request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED"
    return _checksum_lines(stored) if asked else ""


def _checksum_lines(stored: StoredObject) -> str:
    if not stored.checksum:
        return ""
    return f"{CHECKSUM}: {stored.checksum}\r\nx-amz-checksum-type: {stored.checksum_type}\r\n"
