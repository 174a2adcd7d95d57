"""The S3 client: one aiobotocore client, set up so that it does what it is told and no more."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import botocore.auth
import botocore.exceptions
import botocore.handlers
import botocore.loaders
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore.httpsession import mask_proxy_url

from asyncbackup.errors import ConfigError
from asyncbackup.store.body import BodyStream
from asyncbackup.store.endpoint_clock import EndpointClock
from asyncbackup.store.s3_bucket import CONNECT_SECONDS
from asyncbackup.store.s3_credentials import Credentials, find_credentials
from asyncbackup.store.s3_location import check_endpoint
from asyncbackup.store.s3_native import check_native

if TYPE_CHECKING:
    import aiohttp
    from types_aiobotocore_s3 import S3Client

    from asyncbackup.config import S3Settings

_SIGNER = "asyncbackup-s3v4"
_SIGNING_TIME = "asyncbackup-signing-time"
_NEVER_SECONDS = 24 * 3600.0
"""Time-outs are ours (``s3_requests.py``); the library's would cut long uploads short."""


class Network:
    """How the client reaches its endpoint: what the AWS chain says of certificates and proxies."""

    def __init__(self) -> None:
        self._session: _PlainSession | None = None

    def make_session(self, **options: Any) -> _PlainSession:
        """The client's HTTP session; the client calls this once."""
        self._session = _PlainSession(**options)
        return self._session

    def proxy_for(self, url: str) -> str | None:
        """The proxy for requests to ``url``, without the password that its address may have."""
        assert self._session is not None
        return self._session.proxy_for(url)

    async def tls_context(self) -> ssl.SSLContext:
        """A new context with the certificates to trust and to show. Raises ``OSError``."""
        assert self._session is not None
        return await asyncio.to_thread(self._session.tls_context)


@asynccontextmanager
async def open_client(
    settings: S3Settings, *, concurrency: int, clock: EndpointClock | None = None
) -> AsyncIterator[tuple[S3Client, Credentials, Network]]:
    """A client with its own connection pool of ``concurrency`` connections, what it signs with, and its way.

    Signatures go by ``clock``, an endpoint's own where it is ``None``.

    Raises ``ConfigError`` for an endpoint, profile or region that cannot be, and
    ``AccessDeniedError`` where no credentials are found.
    """
    _keep_secrets_out_of_logs()
    session = AioSession(profile=settings.profile or None)
    network = Network()
    try:
        session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
        credentials = Credentials(await find_credentials(session), settings, clock or EndpointClock())
        client_context: Any = session.create_client(
            "s3",
            region_name=_region(session, settings),
            endpoint_url=settings.endpoint_url or None,
            config=_client_config(settings, network, concurrency=concurrency),
        )
        client = await client_context.__aenter__()
    except botocore.exceptions.ProfileNotFound as error:
        raise ConfigError(f"[s3] profile = {settings.profile!r} is not in the AWS configuration") from error
    except (ValueError, botocore.exceptions.BotoCoreError) as error:
        raise ConfigError(f"the S3 client cannot be set up: {error}") from error
    try:
        check_endpoint(client.meta.endpoint_url, settings)
        _register_handlers(client, credentials.clock)
        yield client, credentials, network
    finally:
        await client_context.__aexit__(None, None, None)


@functools.cache
def _loader(data_path: str | None) -> Any:
    """botocore's model of S3, which takes a quarter of a second to read: one for all clients."""
    return botocore.loaders.create_loader(data_path)


def _region(session: AioSession, settings: S3Settings) -> str:
    configured: str | None = settings.region or session.get_config_variable("region")
    # Nearly all endpoints take this one, and AWS says which one it is.
    return configured or "us-east-1"


def _client_config(settings: S3Settings, network: Network, *, concurrency: int) -> AioConfig:
    return AioConfig(
        # "auto": the bucket stands in the path at endpoints of one's own, in the host's name at AWS's.
        s3={"addressing_style": settings.addressing_style},
        max_pool_connections=concurrency,
        connect_timeout=min(CONNECT_SECONDS, settings.timeout_seconds),
        read_timeout=_NEVER_SECONDS,
        retries={"total_max_attempts": 1},
        # The default sends a trailer that several servers refuse and two store as data.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        parameter_validation=True,
        warm_up_loader_caches=True,
        http_session_cls=network.make_session,  # type: ignore[arg-type]
    )


def _register_handlers(client: S3Client, clock: EndpointClock) -> None:
    events: Any = client.meta.events
    # While aiohttp waits for "100 Continue" no read time-out applies.
    events.unregister("before-call.s3", botocore.handlers.add_expect_header)
    events.register_first("choose-signer.s3", _choose_signer)
    events.register("before-sign.s3", functools.partial(_tell_time, clock))
    events.register("before-call.s3.DeleteObjects", _add_content_md5)
    events.register_first("before-parse.s3", _refuse_foreign)


class _PlainSession(AIOHTTPSession):
    """Sends what it is given, once, to the host that it was signed for.

    aiohttp follows redirects with the signed headers and the body, and silently sends a
    request again when a kept connection turns out to be closed.
    """

    def proxy_for(self, url: str) -> str | None:
        config: Any = self._proxy_config  # type: ignore[attr-defined]
        proxy: str | None = config.proxy_url_for(url)
        return mask_proxy_url(proxy) if proxy else None

    def tls_context(self) -> ssl.SSLContext:
        context: ssl.SSLContext
        context, _ = self._build_ssl_contexts(None)  # type: ignore[attr-defined]
        return context

    async def _get_session(self, proxy_url: str | None) -> _NoRedirects:
        session = await super()._get_session(proxy_url)  # type: ignore[misc]
        session._retry_connection = False
        return _NoRedirects(session)


class _NoRedirects:
    __slots__ = ("_session",)

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> aiohttp.ClientResponse:
        return await self._session.request(method, allow_redirects=False, **options)


class _KnownDigestAuth(botocore.auth.S3SigV4Auth):
    """Signs by the endpoint's clock, and the digest that the body brings along instead of reading the
    body once more."""

    def _modify_request_before_signing(self, request: Any) -> None:
        moment = datetime.fromtimestamp(request.context[_SIGNING_TIME], UTC)
        request.context["timestamp"] = moment.strftime(botocore.auth.SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)  # type: ignore[misc]

    def payload(self, request: Any) -> str:
        body = request.body
        if isinstance(body, BodyStream):
            return body.sha256.hex()
        digest: str = super().payload(request)
        return digest


botocore.auth.AUTH_TYPE_MAPS[_SIGNER] = _KnownDigestAuth


def _tell_time(clock: EndpointClock, request: Any, **_: object) -> None:
    request.context[_SIGNING_TIME] = clock.now()


def _choose_signer(signature_version: object, **_: object) -> str | None:
    return _SIGNER if signature_version in ("s3v4", "v4") else None


def _add_content_md5(params: dict[str, Any], **_: object) -> None:
    # Some servers demand it still; botocore sends a CRC32 alone.
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


def _refuse_foreign(response_dict: dict[str, Any], **_: object) -> None:
    body = response_dict["body"]
    if isinstance(body, bytes):
        check_native(response_dict["status_code"], body)


def _keep_secrets_out_of_logs() -> None:
    # At DEBUG these log every header: session tokens, signatures, the strings that were signed.
    for name in ("botocore", "aiobotocore", "aiohttp"):
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)
