"""Listings: objects (both versions), uploads, parts, buckets."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import escape

from benchmarks.server.message import XML_NAMESPACE, Request, Response, S3Error, xml_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.server.buckets import Buckets
    from benchmarks.server.content import Content
    from benchmarks.server.memory import Bucket, StoredObject

MOST = 1000
"""What one page holds at the most, whatever is asked for."""
_OWNER = "<Owner><ID>benchmark</ID><DisplayName>benchmark</DisplayName></Owner>"


class _Page(NamedTuple):
    """``last`` is the key or common prefix that the page ends with; ``more`` whether something follows."""

    keys: list[tuple[str, StoredObject]]
    prefixes: list[str]
    last: str
    more: bool


def iso_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def list_buckets(buckets: Buckets, request: Request, content: Content) -> Response:
    told = "".join(
        f"<Bucket><Name>{bucket.name}</Name><CreationDate>{iso_time(bucket.created)}</CreationDate></Bucket>"
        for bucket in sorted(buckets.by_name.values(), key=lambda bucket: bucket.name)
    )
    return xml_response(
        f"<ListAllMyBucketsResult {XML_NAMESPACE}>{_OWNER}<Buckets>{told}</Buckets></ListAllMyBucketsResult>"
    )


def list_objects_v2(buckets: Buckets, request: Request, content: Content) -> Response:
    query, named = request.query, _names(request)
    token = query.get("continuation-token", "")
    after = _from_token(token) if token else query.get("start-after", "")
    page = _page(buckets.get(request.bucket), request, after)
    following = f"<NextContinuationToken>{_token(page.last)}</NextContinuationToken>" if page.more else ""
    started = f"<StartAfter>{named(query['start-after'])}</StartAfter>" if "start-after" in query else ""
    given = f"<ContinuationToken>{token}</ContinuationToken>" if token else ""
    count = len(page.keys) + len(page.prefixes)
    return _objects_answer(request, page, f"<KeyCount>{count}</KeyCount>{given}{following}{started}")


def list_objects(buckets: Buckets, request: Request, content: Content) -> Response:
    marker, named = request.query.get("marker", ""), _names(request)
    page = _page(buckets.get(request.bucket), request, marker)
    following = f"<NextMarker>{named(page.last)}</NextMarker>" if page.more else ""
    return _objects_answer(request, page, f"<Marker>{named(marker)}</Marker>{following}")


def list_uploads(buckets: Buckets, request: Request, content: Content) -> Response:
    query, named = request.query, _names(request)
    bucket, prefix = buckets.get(request.bucket), query.get("prefix", "")
    after = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
    found = sorted(
        (upload.key, upload.upload_id)
        for upload in bucket.uploads.values()
        if upload.key.startswith(prefix)
        and ((upload.key, upload.upload_id) > after if after[1] else upload.key > after[0])
    )
    most = request.number("max-uploads", MOST, most=MOST)
    page, more = found[:most], len(found) > most
    told = "".join(
        f"<Upload><Key>{named(key)}</Key><UploadId>{upload_id}</UploadId>{_OWNER}"
        f"<StorageClass>STANDARD</StorageClass>"
        f"<Initiated>{iso_time(bucket.uploads[upload_id].initiated)}</Initiated></Upload>"
        for key, upload_id in page
    )
    following = ""
    if more and page:
        following = (
            f"<NextKeyMarker>{named(page[-1][0])}</NextKeyMarker>"
            f"<NextUploadIdMarker>{page[-1][1]}</NextUploadIdMarker>"
        )
    return xml_response(
        f"<ListMultipartUploadsResult {XML_NAMESPACE}><Bucket>{bucket.name}</Bucket>"
        f"<KeyMarker>{named(after[0])}</KeyMarker><UploadIdMarker>{after[1]}</UploadIdMarker>{following}"
        f"<Prefix>{named(prefix)}</Prefix><MaxUploads>{most}</MaxUploads>{_encoding(request)}"
        f"<IsTruncated>{_truth(more)}</IsTruncated>{told}</ListMultipartUploadsResult>"
    )


def list_parts(buckets: Buckets, request: Request, content: Content) -> Response:
    bucket = buckets.get(request.bucket)
    upload = bucket.upload(request.query["uploadId"], request.key)
    after = request.number("part-number-marker", 0, most=10_000)
    most = request.number("max-parts", MOST, most=MOST)
    numbers = sorted(number for number in upload.parts if number > after)
    page, more = numbers[:most], len(numbers) > most
    told = []
    for number in page:
        part = upload.parts[number]
        checksum = base64.b64encode(part.sha256).decode()
        told.append(
            f"<Part><PartNumber>{number}</PartNumber><LastModified>{iso_time(part.modified)}</LastModified>"
            f'<ETag>"{part.etag}"</ETag><Size>{len(part.body)}</Size>'
            + (f"<ChecksumSHA256>{checksum}</ChecksumSHA256></Part>" if checksum else "</Part>")
        )
    following = f"<NextPartNumberMarker>{page[-1]}</NextPartNumberMarker>" if more and page else ""
    return xml_response(
        f"<ListPartsResult {XML_NAMESPACE}><Bucket>{bucket.name}</Bucket><Key>{escape(upload.key)}</Key>"
        f"<UploadId>{upload.upload_id}</UploadId><PartNumberMarker>{after}</PartNumberMarker>{following}"
        f"<MaxParts>{most}</MaxParts><IsTruncated>{_truth(more)}</IsTruncated>{''.join(told)}"
        "</ListPartsResult>"
    )


def _page(bucket: Bucket, request: Request, after: str) -> _Page:
    prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
    most = request.number("max-keys", MOST, most=MOST)
    keys: list[tuple[str, StoredObject]] = []
    prefixes: list[str] = []
    last = ""
    cursor = bucket.keys_after(after, prefix)
    if delimiter and after.endswith(delimiter) and after.startswith(prefix) and after != prefix:
        # The page before ended with this common prefix: all below it is behind us.
        cursor.leap(after)
    while (key := cursor.next()) is not None:
        if len(keys) + len(prefixes) == most:
            return _Page(keys, prefixes, last, more=most > 0)
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        if end >= 0:
            last = key[: end + len(delimiter)]
            prefixes.append(last)
            cursor.leap(last)
        else:
            last = key
            keys.append((key, bucket.objects[key]))
    return _Page(keys, prefixes, last, more=False)


def _objects_answer(request: Request, page: _Page, fields: str) -> Response:
    query, named = request.query, _names(request)
    owner = _OWNER if "list-type" not in query or query.get("fetch-owner") == "true" else ""
    contents = "".join(
        f"<Contents><Key>{named(key)}</Key><LastModified>{iso_time(stored.modified)}</LastModified>"
        f'<ETag>"{stored.etag}"</ETag><Size>{stored.size}</Size>{owner}'
        f"<StorageClass>{stored.headers.get('x-amz-storage-class', 'STANDARD')}</StorageClass></Contents>"
        for key, stored in page.keys
    )
    common = "".join(
        f"<CommonPrefixes><Prefix>{named(prefix)}</Prefix></CommonPrefixes>" for prefix in page.prefixes
    )
    delimiter = f"<Delimiter>{named(query['delimiter'])}</Delimiter>" if query.get("delimiter") else ""
    return xml_response(
        f"<ListBucketResult {XML_NAMESPACE}><Name>{request.bucket}</Name>"
        f"<Prefix>{named(query.get('prefix', ''))}</Prefix>{delimiter}"
        f"<MaxKeys>{request.number('max-keys', MOST, most=MOST)}</MaxKeys>{_encoding(request)}"
        f"<IsTruncated>{_truth(page.more)}</IsTruncated>{fields}{contents}{common}</ListBucketResult>"
    )


def _names(request: Request) -> Callable[[str], str]:
    """How keys stand in the answer: what XML cannot say only comes through url-encoded."""
    if request.query.get("encoding-type") == "url":
        return lambda key: quote(key, safe="/-_.~*")
    return escape


def _encoding(request: Request) -> str:
    url = request.query.get("encoding-type") == "url"
    return "<EncodingType>url</EncodingType>" if url else ""


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _from_token(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise S3Error(400, "InvalidArgument", "The continuation token is not one of ours.") from None
