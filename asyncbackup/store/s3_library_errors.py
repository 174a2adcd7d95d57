"""What the S3 library and its HTTP client raise, translated; loaded only once there is such an error."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import aiohttp
import botocore.exceptions
import botocore.parsers

from asyncbackup.errors import ObjectRefusedError
from asyncbackup.store.s3_errors import (
    answered_at,
    connection_broke,
    find_cause,
    from_code,
    no_connection,
    no_credentials,
    retry_after,
    shorten,
    tls_failed,
    transient,
    translate_own,
)

if TYPE_CHECKING:
    from asyncbackup.errors import StoreError
    from asyncbackup.store.s3_errors import Target

_TLS = (
    botocore.exceptions.SSLError,
    ssl.SSLCertVerificationError,
    aiohttp.ClientConnectorCertificateError,
)


def translate_library(error: Exception, target: Target) -> StoreError:
    """The error of this package that one of the library's amounts to, or one that it has caused."""
    match error:
        case botocore.exceptions.ClientError():
            return _answered(error, target)
        case botocore.parsers.ResponseParserError():
            reason = f"the answer is not the XML of S3: {shorten(str(error))}"
            return transient(target, reason, "MalformedAnswer")
        case botocore.exceptions.ParamValidationError():
            reason = f"not a valid request: {shorten(str(error))}"
            return ObjectRefusedError(target.operation, target.key, reason, code="ParamValidation")
        case TimeoutError() | botocore.exceptions.ReadTimeoutError():
            return transient(target, f"no answer in time from {target.endpoint}", "Timeout")
        case _ if tls := find_cause(error, *_TLS):
            return tls_failed(tls, target)
        case botocore.exceptions.ConnectTimeoutError() | botocore.exceptions.ProxyConnectionError():
            return no_connection(error, target)
        case botocore.exceptions.EndpointConnectionError() if find_cause(error, aiohttp.ClientConnectorError):
            # The same class stands for connections that came about and broke.
            return no_connection(error, target)
        case (
            botocore.exceptions.HTTPClientError()
            | botocore.exceptions.ConnectionError()
            | botocore.exceptions.IncompleteReadError()
            | aiohttp.ClientError()
        ):
            return connection_broke(error, target)
        case (
            botocore.exceptions.NoCredentialsError()
            | botocore.exceptions.PartialCredentialsError()
            | botocore.exceptions.CredentialRetrievalError()
            | botocore.exceptions.TokenRetrievalError()
            | botocore.exceptions.SSOError()
        ):
            return no_credentials(error, target)
        case _:
            return translate_own(error, target)


def _answered(error: botocore.exceptions.ClientError, target: Target) -> StoreError:
    response: Mapping[str, Any] = error.response
    details = response.get("Error", {})
    metadata = response.get("ResponseMetadata", {})
    headers = metadata.get("HTTPHeaders", {})
    return from_code(
        str(details.get("Code", "")),
        str(details.get("Message", "")),
        target,
        status=int(metadata.get("HTTPStatusCode", 0)),
        retry_after_seconds=retry_after(headers),
        endpoint_seconds=answered_at(headers),
    )
