"""Where a bucket is, as the S3 library sees it, and what stands in the lean path's way."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from asyncbackup.store.lean.pool import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncbackup.store.s3_bucket import S3Bucket
    from asyncbackup.store.s3_session import Network

_KEY = "k"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What all requests for one bucket have in common."""

    origin: Origin
    host: str
    """The Host header."""
    path: str
    """What stands before the key in the request line, encoded: ``/`` or ``/bucket/``."""
    region: str
    service: str
    user_agent: str

    def same_place(self, other: Endpoint) -> bool:
        """Whether requests would go to the same host and be signed for the same region."""
        return (self.host, self.path, self.region, self.service) == (
            other.host,
            other.path,
            other.region,
            other.service,
        )


class NotLean(Exception):  # noqa: N818 - no error, but an answer: the library has to do it
    """Something is configured that the lean path does not do; the text says what."""


class EndpointFinder:
    """Asks the library for the request that it would send, and sends none.

    So whatever botocore knows about endpoints holds here too: addressing styles, access points,
    dual-stack, FIPS and accelerated endpoints, and the region that it has learned for the bucket.
    """

    def __init__(self, bucket: S3Bucket, network: Network) -> None:
        self._bucket = bucket
        self._network = network
        events: Any = bucket.client.meta.events
        events.register_first("before-call.s3.PutObject", _take_prepared)

    async def find(self) -> Endpoint:
        """The endpoint of the bucket. Raises ``NotLean``, and what the library raises."""
        prepared: list[_Prepared] = []
        token = _wanted.set(prepared)
        try:
            await self._bucket.client.put_object(Bucket=self._bucket.name, Key=_KEY)
        finally:
            _wanted.reset(token)
        (request,) = prepared
        config: Any = self._bucket.client.meta.config
        _check_signature(request, config.signature_version)
        url = urlsplit(request.url)
        if not url.path.endswith("/" + _KEY) or url.query or url.hostname is None:
            raise NotLean(f"requests go to {request.url}")
        if (proxy := self._network.proxy_for(request.url)) is not None:
            raise NotLean(f"requests go through the proxy {proxy}")
        tls = await self._network.tls_context() if url.scheme == "https" else None
        default_port = _DEFAULT_PORTS[url.scheme]
        name = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        return Endpoint(
            origin=Origin(url.hostname, url.port or default_port, tls),
            host=name if url.port in (None, default_port) else f"{name}:{url.port}",
            path=url.path.removesuffix(_KEY),
            region=request.region,
            service=request.service,
            user_agent=request.headers["User-Agent"],
        )


class _Prepared(msgspec.Struct, frozen=True):
    url: str
    headers: dict[str, str]
    auth_type: str
    region: str
    service: str


class _NothingSent:
    """Stands for the answer to a request that was not sent."""

    status_code = 200


_wanted: contextvars.ContextVar[list[_Prepared] | None] = contextvars.ContextVar("prepared", default=None)


def _take_prepared(params: Mapping[str, Any], context: Mapping[str, Any], **_: object) -> object:
    prepared = _wanted.get()
    if prepared is None:
        return None
    signing: Mapping[str, str] = context.get("signing", {})
    headers = {str(name): _text(value) for name, value in params["headers"].items()}
    prepared.append(
        _Prepared(
            str(params["url"]),
            headers,
            str(context.get("auth_type", "")),
            signing.get("region", str(context.get("client_region", ""))),
            signing.get("signing_name", "s3"),
        )
    )
    return _NothingSent(), {}


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _check_signature(request: _Prepared, signature_version: object) -> None:
    if signature_version not in ("s3v4", "v4") or request.auth_type not in ("s3v4", "v4"):
        raise NotLean(f"requests are signed by {request.auth_type or signature_version}")
    added = sorted(name for name in request.headers if name.lower() not in ("user-agent", "content-length"))
    if added:
        raise NotLean(f"requests carry {', '.join(added)}")
