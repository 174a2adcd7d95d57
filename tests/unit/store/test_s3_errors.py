"""Errors of libraries and endpoints, translated: the class decides what happens, the text what to do."""

from __future__ import annotations

import socket
import ssl

import aiohttp
import botocore.exceptions
import pytest

from asyncbackup.errors import AccessDeniedError, ObjectMissingError, ObjectRefusedError, StoreError
from asyncbackup.store.retry import DatedRefusalError, TransientError
from asyncbackup.store.s3_errors import (
    MESSAGE_LIMIT,
    Target,
    answered_at,
    from_code,
    retry_after,
    shorten,
    translate,
    translated,
)

TARGET = Target("PutObject", "docs/report", "bucket", "https://s3.example.com")


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (TimeoutError(), TransientError, "no answer in time from https://s3.example.com"),
        (ConnectionResetError(104, "reset"), TransientError, "broke: Connection reset by peer"),
        (aiohttp.ClientPayloadError("cut short"), TransientError, "broke: cut short"),
        (
            caused(botocore.exceptions.ConnectTimeoutError(endpoint_url="x"), TimeoutError("slow")),
            TransientError,
            "no connection to https://s3.example.com: slow",
        ),
        (
            caused(
                botocore.exceptions.EndpointConnectionError(endpoint_url="x", error="y"),
                socket.gaierror(-2, "Name or service not known"),
            ),
            TransientError,
            "Name or service not known",
        ),
        (
            caused(
                botocore.exceptions.SSLError(endpoint_url="x", error=OSError("certificate has expired")),
                ssl.SSLCertVerificationError("certificate has expired"),
            ),
            StoreError,
            "TLS to https://s3.example.com failed: .*certificate has expired",
        ),
        (botocore.exceptions.NoCredentialsError(), AccessDeniedError, "no usable credentials"),
        (
            botocore.exceptions.ParamValidationError(report="Non ascii characters found"),
            ObjectRefusedError,
            "Non ascii characters",
        ),
        (KeyError("ContentLength"), StoreError, "KeyError: 'ContentLength'"),
    ],
)
def test_library_errors(error: Exception, kind: type[StoreError], text: str) -> None:
    translation = translate(error, TARGET)
    assert type(translation) is kind
    with pytest.raises(kind, match=text):
        raise translation
    assert str(translation).startswith("PutObject of 'docs/report' failed: ")


def test_a_certificate_is_not_tried_again() -> None:
    error = caused(
        botocore.exceptions.HTTPClientError(error="x"), ssl.SSLCertVerificationError("self-signed")
    )
    assert not translate(error, TARGET).retryable


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, ObjectMissingError),
        ("404", 404, ObjectMissingError),
        ("", 404, ObjectMissingError),
        ("NoSuchBucket", 404, StoreError),
        ("403", 403, AccessDeniedError),
        ("SlowDown", 503, TransientError),
        ("", 500, TransientError),
        ("", 504, TransientError),
        ("Unheard-of", 520, TransientError),
        ("Unheard-of", 400, StoreError),
        ("InvalidPart", 400, StoreError),
        ("414", 414, ObjectRefusedError),
        ("InternalError", 0, TransientError),
    ],
)
def test_codes_and_statuses(code: str, status: int, kind: type[StoreError]) -> None:
    error = from_code(code, "", TARGET, status=status)
    assert type(error) is kind
    assert error.retryable == (kind is TransientError)


def test_text_from_outside_is_tamed() -> None:
    assert shorten("two\nlines\tand \x1b[31mred\u202e") == "two lines and ?[31mred?"
    assert len(shorten("x" * 10_000)) == MESSAGE_LIMIT + 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("inf", 0.0),
        ("nan", 0.0),
        ("soon", 0.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
    ],
)
def test_retry_after(value: str, seconds: float) -> None:
    assert retry_after({"retry-after": value, "date": "Wed, 21 Oct 2026 07:28:00 GMT"}) == seconds
    assert retry_after({}) == 0.0


def test_a_refusal_tells_the_time_where_the_answer_does() -> None:
    target = Target("PutObject", "key", "bucket", "http://endpoint")
    dated = from_code("RequestTimeTooSkewed", "", target, status=403, endpoint_seconds=1000.0)
    assert isinstance(dated, DatedRefusalError)
    assert dated.endpoint_seconds == 1000.0
    assert not isinstance(from_code("RequestTimeTooSkewed", "", target), DatedRefusalError)
    assert answered_at({"date": "Thu, 01 Jan 1970 00:16:40 GMT"}) == 1000.0
    assert answered_at({"date": "today"}) == answered_at({}) == 0.0


def test_translated_errors_pass_unchanged() -> None:
    error = ObjectMissingError("GetObject", "key", "gone")
    with pytest.raises(ObjectMissingError) as caught, translated(TARGET):
        raise error
    assert caught.value is error
