"""What endpoints and libraries report, translated into the errors of this package.

Endpoints differ in the codes they use, so each decision looks at the error code first and at the
HTTP status where the code says nothing. Messages from the endpoint are shortened and stripped of
control characters: they come from outside.
"""

from __future__ import annotations

import math
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from asyncbackup.errors import (
    AccessDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectRefusedError,
    StoreError,
    UnsupportedError,
)
from asyncbackup.store.lean.errors import (
    MalformedAnswerError,
    NoConnectionError,
    NoKeysError,
    TlsFailedError,
)
from asyncbackup.store.retry import DatedRefusalError, TransientError
from asyncbackup.store.s3_native import ForeignAnswer

_MISSING = {"NoSuchKey", "NoSuchUpload", "NotFound", "NoSuchVersion"}
_EXISTS = {"PreconditionFailed"}
_REFUSED = {
    "EntityTooLarge",
    "InvalidKeyName",
    "InvalidObjectName",
    "InvalidURI",
    "KeyTooLong",
    "KeyTooLongError",
    "MaxMessageLengthExceeded",
    "MetadataTooLarge",
    "RequestHeaderSectionTooLarge",
    "XMinioInvalidObjectName",
}
_UNSUPPORTED = {"MethodNotAllowed", "NotImplemented", "UnsupportedOperation", "XNotImplemented"}
_DENIED: dict[str, str] = {
    "AccessDenied": "these credentials may not do this; check the bucket's and the user's policy",
    "AccountProblem": "the account has a problem; ask the provider",
    "AllAccessDisabled": "access to this bucket is disabled; ask the provider",
    "ExpiredToken": "the session token has expired; log in again",
    "ExpiredTokenException": "the session token has expired; log in again",
    "InvalidAccessKeyId": "the endpoint does not know this access key; check AWS_ACCESS_KEY_ID "
    "or the profile",
    "InvalidToken": "the session token is not valid; log in again",
    "NotSignedUp": "the account is not signed up for S3",
    "RequestTimeTooSkewed": "the clocks of this machine and of the endpoint differ; set this machine's clock",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; check AWS_SECRET_ACCESS_KEY "
    "or the profile",
    "TokenRefreshRequired": "the session token has to be renewed; log in again",
    "UnauthorizedAccess": "these credentials may not do this",
}
_TRANSIENT = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_ADVICE: dict[str, str] = {
    "InvalidObjectState": "the object is archived; restore it to a readable storage class first",
    "InvalidStorageClass": "the endpoint does not know this storage class; set storage_class",
    "QuotaExceeded": "the destination is full",
    "XMinioStorageFull": "the destination is full",
}
_BY_STATUS: dict[int, str] = {
    401: "AccessDenied",
    403: "AccessDenied",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    414: "KeyTooLong",
    429: "TooManyRequests",
    431: "RequestHeaderSectionTooLarge",
    501: "NotImplemented",
    503: "ServiceUnavailable",
    507: "QuotaExceeded",
}
_LIBRARIES = frozenset({"aiobotocore", "aiohttp", "botocore"})
MESSAGE_LIMIT = 300


class Target(msgspec.Struct, frozen=True):
    """What a request is about, for the message: operation, key (relative or ""), bucket, endpoint."""

    operation: str
    key: str
    bucket: str
    endpoint: str


@contextmanager
def translated(target: Target) -> Iterator[None]:
    """Whatever the S3 library raises inside leaves as a ``StoreError`` that names its cause."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise translate(error, target) from error


def translate(error: Exception, target: Target) -> StoreError:
    """The error of this package that ``error`` amounts to."""
    if _of_library(error):
        # Loading the library takes a quarter of a second; whoever has its errors has loaded it.
        from asyncbackup.store.s3_library_errors import translate_library

        return translate_library(error, target)
    return translate_own(error, target)


def translate_own(error: Exception, target: Target) -> StoreError:
    """What everything but the S3 library's own classes amounts to."""
    match error:
        case ForeignAnswer():
            reason = f"{error.what} came instead of an S3 answer: {shorten(str(error))}"
            return transient(target, reason, "ForeignAnswer")
        case MalformedAnswerError():
            return transient(target, f"the answer is no HTTP: {shorten(str(error))}", "MalformedAnswer")
        case TimeoutError():
            return transient(target, f"no answer in time from {target.endpoint}", "Timeout")
        case _ if tls := find_cause(error, ssl.SSLCertVerificationError, TlsFailedError):
            return tls_failed(tls, target)
        case NoConnectionError():
            return no_connection(error, target)
        case OSError():
            return connection_broke(error, target)
        case NoKeysError():
            return no_credentials(error, target)
        case _:
            reason = f"{type(error).__name__}: {shorten(str(error))}"
            return StoreError(target.operation, target.key, reason, code=type(error).__name__)


def _of_library(error: BaseException) -> bool:
    """Whether the S3 library, or what it sends with, raised ``error`` or what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.partition(".")[0] in _LIBRARIES:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def from_code(
    code: str,
    message: str,
    target: Target,
    *,
    status: int = 0,
    retry_after_seconds: float = 0.0,
    endpoint_seconds: float = 0.0,
) -> StoreError:
    """The error for an S3 error code, as answers and the entries of a DeleteObjects answer carry it.

    ``endpoint_seconds`` is the answer's time, 0 where it has none.
    """
    if code.isdigit() or not code:
        code = _BY_STATUS.get(status or int(code or 0), code)
    operation, key = target.operation, target.key
    said = f"{code}: {shorten(message)}" if message else code
    if code in _DENIED:
        reason = f"{_DENIED[code]} ({said})"
        if endpoint_seconds:
            return DatedRefusalError(operation, key, reason, code=code, endpoint_seconds=endpoint_seconds)
        return AccessDeniedError(operation, key, reason, code=code)
    if code == "NoSuchBucket":
        reason = f"the bucket {target.bucket!r} does not exist at {target.endpoint}"
        return StoreError(operation, key, reason, code=code)
    if code in _MISSING:
        return ObjectMissingError(operation, key, f"there is no such object ({said})", code=code)
    if code in _EXISTS:
        return ObjectExistsError(operation, key, f"the condition does not hold ({said})", code=code)
    if code in _REFUSED:
        return ObjectRefusedError(operation, key, f"the endpoint refuses the object ({said})", code=code)
    if code in _UNSUPPORTED:
        return UnsupportedError(operation, key, f"the endpoint does not do this ({said})", code=code)
    if code in _ADVICE:
        return StoreError(operation, key, f"{_ADVICE[code]} ({said})", code=code)
    if code in _TRANSIENT or status >= 500:
        return TransientError(
            operation, key, said or f"HTTP {status}", code=code, retry_after_seconds=retry_after_seconds
        )
    if 300 <= status < 400:
        reason = (
            f"the endpoint redirects elsewhere ({said}); set endpoint_url and region to where the bucket is"
        )
        return StoreError(operation, key, reason, code=code or str(status))
    return StoreError(operation, key, said, code=code)


def shorten(text: str) -> str:
    """Text from outside, on one line, printable and of bounded length."""
    line = " ".join(text.split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= MESSAGE_LIMIT else line[:MESSAGE_LIMIT] + "…"


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a Retry-After header asks for; 0 without one. One that gives a date counts from the
    answer's own."""
    asked = headers.get("retry-after", "0")
    try:
        seconds = float(asked)
    except ValueError:
        seconds = _http_time(asked) - (answered_at(headers) or time.time())
    return seconds if 0.0 < seconds < math.inf else 0.0


def answered_at(headers: Mapping[str, str]) -> float:
    """The answer's time in seconds since 1970, by the endpoint's clock; 0 where it gives none."""
    return _http_time(headers.get("date", ""))


def _http_time(text: str) -> float:
    from email.utils import parsedate_to_datetime  # for refusals alone

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def transient(target: Target, reason: str, code: str) -> TransientError:
    return TransientError(target.operation, target.key, reason, code=code)


def no_connection(error: Exception, target: Target) -> TransientError:
    """No connection came about."""
    return TransientError(
        target.operation,
        target.key,
        f"no connection to {target.endpoint}: {shorten(_root(error))}",
        code="Unreachable",
        unreachable=True,
    )


def connection_broke(error: Exception, target: Target) -> TransientError:
    """A connection ended before its answer did."""
    reason = f"the connection to {target.endpoint} broke: {shorten(_root(error))}"
    return transient(target, reason, "ConnectionBroken")


def tls_failed(error: BaseException, target: Target) -> StoreError:
    """A certificate or a protocol does not change from one attempt to the next."""
    reason = f"TLS to {target.endpoint} failed: {shorten(str(error))}"
    return StoreError(target.operation, target.key, reason, code="Tls")


def no_credentials(error: Exception, target: Target) -> AccessDeniedError:
    reason = f"no usable credentials: {shorten(str(error))}"
    return AccessDeniedError(target.operation, target.key, reason, code="NoCredentials")


def find_cause(error: BaseException, *kinds: type[BaseException]) -> BaseException | None:
    """The first of ``error`` and what caused it that is one of ``kinds``."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kinds):
        cause = cause.__cause__ or cause.__context__
    return cause


def _root(error: Exception) -> str:
    """The text of the innermost cause: "Connection refused" rather than what wraps it."""
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, OSError) and cause.errno and not isinstance(cause, socket.gaierror):
        return os.strerror(cause.errno)
    return str(cause) or type(cause).__name__
