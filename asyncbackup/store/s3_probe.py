"""Requests as an examination needs them: one attempt each, with parameters that no run would send.

Everything else asks the endpoint through ``S3Store``, which hides what endpoints do differently;
``doctor`` wants to see just that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import botocore.handlers
import msgspec

from asyncbackup.errors import StoreError
from asyncbackup.store.s3_errors import Target, translated
from asyncbackup.store.s3_location import s3_location
from asyncbackup.store.s3_session import open_client

if TYPE_CHECKING:
    from asyncbackup.config import S3Settings
    from asyncbackup.store.s3_location import S3Location

ATTEMPT_SECONDS = 20.0
"""Some endpoints do not answer at all what they refuse."""
CONNECTIONS = 4


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back: the status, the headers by lower-case name, and the fields as S3 names them."""

    status: int
    headers: dict[str, str]
    fields: Mapping[str, Any]

    def text(self, field: str) -> str:
        """A field as text, ``""`` where it is missing."""
        return str(self.fields.get(field, ""))

    def items(self, field: str) -> list[Mapping[str, Any]]:
        """A field that is a list, empty where it is missing."""
        return list(self.fields.get(field, ()))


class S3Probe:
    """One client for single requests; made by :func:`open_probe`."""

    def __init__(self, client: Any, location: S3Location, *, timeout_seconds: float) -> None:
        self.endpoint_url = str(client.meta.endpoint_url)
        self.region = str(client.meta.region_name)
        self.location = location
        self._client = client
        self._timeout_seconds = timeout_seconds

    async def call(self, operation: str, key: str | None = None, **parameters: Any) -> Answer:
        """The answer to one request. ``operation`` is the client's (``put_object``), ``key`` relative to
        the destination.

        Raises ``StoreError`` and its children; nothing is sent again.
        """
        if key is not None:
            parameters["Key"] = self.location.full(key)
        target = Target(_name(operation), key or "", self.location.bucket, self.endpoint_url)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                with translated(target):
                    answer = await getattr(self._client, operation)(Bucket=self.location.bucket, **parameters)
        except TimeoutError as error:
            reason = f"no answer for {self._timeout_seconds:.0f} s"
            raise StoreError(target.operation, target.key, reason, code="Timeout", retryable=True) from error
        about = answer.get("ResponseMetadata", {})
        headers = {str(name).lower(): str(value) for name, value in about.get("HTTPHeaders", {}).items()}
        return Answer(status=int(about.get("HTTPStatusCode", 0)), headers=headers, fields=answer)

    async def read(self, key: str, **parameters: Any) -> tuple[Answer, bytes]:
        """An object, or what the parameters name of it, with its bytes. Only for small objects."""
        answer = await self.call("get_object", key, **parameters)
        target = Target("GetObject", key, self.location.bucket, self.endpoint_url)
        body = answer.fields["Body"]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                with translated(target):
                    return answer, await body.read()
        except TimeoutError as error:
            reason = f"no answer for {self._timeout_seconds:.0f} s"
            raise StoreError("GetObject", key, reason, code="Timeout", retryable=True) from error
        finally:
            body.close()


@asynccontextmanager
async def open_probe(destination: str, *, s3: S3Settings) -> AsyncIterator[S3Probe]:
    """A probe of a checked ``s3://`` destination. Sends nothing yet.

    Raises ``ConfigError`` and ``AccessDeniedError`` as
    :func:`~asyncbackup.store.s3_session.open_client` does.
    """
    async with open_client(s3, concurrency=CONNECTIONS) as (client, _, _):
        events: Any = client.meta.events
        with contextlib.suppress(ValueError):
            # What becomes of metadata that are not ASCII is one of the questions.
            for operation in ("PutObject", "CopyObject", "CreateMultipartUpload"):
                events.unregister(
                    f"before-parameter-build.s3.{operation}", botocore.handlers.validate_ascii_metadata
                )
        seconds = min(ATTEMPT_SECONDS, s3.timeout_seconds)
        yield S3Probe(client, s3_location(destination), timeout_seconds=seconds)


def _name(operation: str) -> str:
    return "".join(word.capitalize() for word in operation.split("_"))
