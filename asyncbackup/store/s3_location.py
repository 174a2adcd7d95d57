"""Where an S3 destination is: bucket and prefix, and which endpoints are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from asyncbackup.destination import needs_plain_http
from asyncbackup.errors import ConfigError

if TYPE_CHECKING:
    from asyncbackup.config import S3Settings


class S3Location(msgspec.Struct, frozen=True, kw_only=True):
    """``s3://bucket/prefix``. ``prefix`` is empty or ends in ``/``."""

    bucket: str
    prefix: str = ""

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def full(self, key: str) -> str:
        """The key in the bucket of a key relative to the destination."""
        return self.prefix + key

    def relative(self, full: str) -> str | None:
        """The inverse of :meth:`full`; ``None`` for a key that lies elsewhere in the bucket."""
        return full[len(self.prefix) :] if full.startswith(self.prefix) else None


def s3_location(url: str) -> S3Location:
    """The location that a checked ``s3://BUCKET[/PREFIX]`` names."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Location(bucket=bucket, prefix=prefix + "/" if prefix else "")


def is_aws(endpoint_url: str) -> bool:
    """Whether the endpoint is one of AWS's own, whose ways are known."""
    host = urlsplit(endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def check_endpoint(endpoint_url: str, settings: S3Settings) -> None:
    """Refuse endpoints to which data and signatures would travel readable. Raises ``ConfigError``.

    The address is the one that the client ended up with: it may come from AWS's own
    configuration, which asyncbackup's does not see.
    """
    if urlsplit(endpoint_url).scheme not in ("http", "https"):
        raise ConfigError(f"the endpoint {endpoint_url!r} is not an http:// or https:// address")
    if needs_plain_http(endpoint_url) and not settings.allow_plain_http:
        raise ConfigError(
            f"the endpoint {endpoint_url!r} would be reached without encryption; "
            "use https://, or set allow_plain_http = true in [s3]"
        )
