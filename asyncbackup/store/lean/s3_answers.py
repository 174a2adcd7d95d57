"""What answers say: errors by the rules of ``s3_errors``, and the headers of an object."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from asyncbackup.store.lean.error_document import error_fields
from asyncbackup.store.retry import TransientError
from asyncbackup.store.s3_errors import answered_at, from_code, retry_after
from asyncbackup.store.s3_native import check_native
from asyncbackup.store.s3_transport import object_info

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncbackup.errors import StoreError
    from asyncbackup.store.base import ObjectInfo
    from asyncbackup.store.s3_errors import Target

_ELSEWHERE_STATUSES = frozenset({301, 302, 307})
_ELSEWHERE_CODES = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_META = "x-amz-meta-"
_DATE = re.compile(
    r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def refusal(status: int, headers: Mapping[str, str], body: bytes, target: Target) -> StoreError | None:
    """The error that an answer means; ``None`` for a success, also of a 200 without an error in it.

    Raises ``ForeignAnswer`` where something else than S3 has answered.
    """
    check_native(status, body)
    fields = error_fields(body) if body else None
    if status < 300:
        if not fields:
            return None
        status = 500  # "200 OK", said before it went wrong.
    if fields is None:
        fields = {"Code": str(status), "Message": _phrase(status)}
    return from_code(
        fields.get("Code", ""),
        fields.get("Message", ""),
        target,
        status=status,
        retry_after_seconds=retry_after(headers),
        endpoint_seconds=answered_at(headers),
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def names_another_region(status: int, error: StoreError) -> bool:
    """Whether the bucket may be in another region than the request was signed for."""
    return status in _ELSEWHERE_STATUSES or error.code in _ELSEWHERE_CODES


def info_of(key: str, headers: Mapping[str, str], target: Target, *, size: int) -> ObjectInfo:
    """What the headers of a GetObject answer tell. Raises ``TransientError`` for some that make no sense."""
    answer: dict[str, Any] = {
        "ETag": headers.get("etag", ""),
        "ChecksumSHA256": headers.get("x-amz-checksum-sha256", ""),
        "ChecksumType": headers.get("x-amz-checksum-type", ""),
        "StorageClass": headers.get("x-amz-storage-class", ""),
        "Metadata": {name[len(_META) :]: value for name, value in headers.items() if name.startswith(_META)},
    }
    if "last-modified" in headers:
        answer["LastModified"] = _moment(headers["last-modified"], target)
    return object_info(key, answer, size=size)


def _moment(text: str, target: Target) -> datetime:
    date = _DATE.fullmatch(text)
    try:
        if date is None:
            raise ValueError("not in the form that HTTP prescribes")
        day, month, year, hour, minute, second = date.groups()
        month_number = _MONTHS.index(month) + 1
        return datetime(
            int(year), month_number, int(day), int(hour), int(minute), min(int(second), 59), tzinfo=UTC
        )
    except ValueError as error:
        raise TransientError(
            target.operation,
            target.key,
            f"the answer's Last-Modified makes no sense ({text[:60]!r})",
            code="MalformedAnswer",
        ) from error
