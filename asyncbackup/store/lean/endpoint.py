"""Where a bucket is, as the S3 library sees it, and what stands in the lean path's way."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from asyncbackup.store.lean.pool import Origin

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from asyncbackup.store.s3_bucket import S3Bucket

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

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket
        self._listening = False

    async def find(self) -> Endpoint:
        """The endpoint of the bucket. Raises ``NotLean``, and what the library raises."""
        client, _, network = await self._bucket.library.open()
        if not self._listening:
            events: Any = client.meta.events
            events.register_first("before-call.s3.PutObject", _take_prepared)
            self._listening = True
        prepared: list[_Prepared] = []
        token = _wanted.set(prepared)
        try:
            await client.put_object(Bucket=self._bucket.name, Key=_KEY)
        finally:
            _wanted.reset(token)
        (request,) = prepared
        config: Any = client.meta.config
        _check_signature(request, config.signature_version)
        url = urlsplit(request.url)
        if not url.path.endswith("/" + _KEY) or url.query or url.hostname is None:
            raise NotLean(f"requests go to {request.url}")
        if (proxy := network.proxy_for(request.url)) is not None:
            raise NotLean(f"requests go through the proxy {proxy}")
        tls = await network.tls_context() if url.scheme == "https" else None
        return Endpoint(
            origin=origin_of(url, tls),
            host=host_header(url),
            path=url.path.removesuffix(_KEY),
            region=request.region,
            service=request.service,
            user_agent=request.headers["User-Agent"],
        )


def origin_of(url: SplitResult, tls: ssl.SSLContext | None) -> Origin:
    """Where connections to a URL lead, which has a host. Raises ``ValueError`` for a port that is none."""
    return Origin(url.hostname or "", url.port or _DEFAULT_PORTS[url.scheme], tls)


def host_header(url: SplitResult) -> str:
    """The host of a URL, with the port unless it goes without saying."""
    name = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname or ""
    return name if url.port in (None, _DEFAULT_PORTS[url.scheme]) else f"{name}:{url.port}"


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
