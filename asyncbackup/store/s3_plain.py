"""Access that is told in full: the endpoint by the configuration, the keys by the environment.

Then nothing has to be looked up, and the S3 library is not loaded before a request needs it.
Whatever else may have a say (a profile, a file of AWS's, a proxy, a variable that is not known here)
leaves everything to the library, which knows what it means.
"""

from __future__ import annotations

import importlib.util
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, urlsplit

import asyncbackup
from asyncbackup.errors import ConfigError
from asyncbackup.store.lean.endpoint import Endpoint, host_header, origin_of
from asyncbackup.store.s3_location import check_endpoint, is_aws

if TYPE_CHECKING:
    from asyncbackup.config import S3Settings
    from asyncbackup.store.endpoint_clock import EndpointClock

_WITHOUT_A_SAY = frozenset({"AWS_EC2_METADATA_DISABLED", "AWS_PAGER", "AWS_REGION"})
"""The library does not ask these, or not for a request to S3."""
_OBEYED = frozenset({"AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})
_LOOKED_AT = frozenset({"AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"})
_KNOWN = _WITHOUT_A_SAY | _OBEYED | _LOOKED_AT
_FILES = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_SPECIAL_SUFFIXES = ("--x-s3", "-s3alias", "--ol-s3")
"""Of directory buckets and access points, which have addresses of their own."""
_REGION = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_DEFAULT_REGION = "us-east-1"


class Keys(NamedTuple):
    """An access key, as :class:`~asyncbackup.store.lean.signer.SigningKeys` are."""

    access_key: str
    secret_key: str
    token: str | None


class FixedKeys:
    """Keys that are the same to the end: those of this process's environment."""

    generation = 0
    """They are never renewed."""

    def __init__(self, keys: Keys, clock: EndpointClock) -> None:
        self.clock = clock
        self._keys = keys

    async def current(self) -> Keys:
        return self._keys

    async def renew(self, seen: int) -> bool:
        """``False``: nobody can change the environment of a process that runs."""
        return False


class PlainAccess(NamedTuple):
    """Where the bucket is, and what to sign with."""

    endpoint: Endpoint
    endpoint_url: str
    keys: Keys


def plain_access(
    bucket: str, settings: S3Settings, environment: Mapping[str, str] = os.environ
) -> PlainAccess | None:
    """The access to ``bucket``, ``None`` where the library has to be asked for it.

    Raises ``ConfigError`` for an endpoint that is refused, or certificates that cannot be read.
    """
    url = urlsplit(settings.endpoint_url)
    keys = _keys(environment)
    if keys is None or not _is_plain(url) or not _is_plain_bucket(bucket):
        return None
    if settings.profile or settings.addressing_style == "virtual" or _others_have_a_say(environment):
        return None
    region = settings.region or environment.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    if not _REGION.fullmatch(region):
        return None
    check_endpoint(settings.endpoint_url, settings)
    tls = _tls_context(environment.get("AWS_CA_BUNDLE")) if url.scheme == "https" else None
    endpoint = Endpoint(
        origin=origin_of(url, tls),
        host=host_header(url),
        path=f"/{bucket}/",
        region=region,
        service="s3",
        user_agent=f"asyncbackup/{asyncbackup.__version__}",
    )
    return PlainAccess(endpoint, settings.endpoint_url, keys)


def _keys(environment: Mapping[str, str]) -> Keys | None:
    access_key, secret_key = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    return Keys(access_key, secret_key, environment.get("AWS_SESSION_TOKEN") or None)


def _is_plain(url: SplitResult) -> bool:
    """An address of a host, in lower case, and nothing beside; none of AWS's, who redirect to regions."""
    try:
        url.port  # noqa: B018 - raises for one that is none
    except ValueError:
        return False
    return (
        url.scheme in ("http", "https")
        and bool(url.hostname)
        and url.netloc == url.netloc.lower()
        and "@" not in url.netloc
        and url.path in ("", "/")
        and not (url.query or url.fragment)
        and not is_aws(url.geturl())
    )


def _is_plain_bucket(bucket: str) -> bool:
    return bool(_BUCKET.fullmatch(bucket)) and not bucket.endswith(_SPECIAL_SUFFIXES)


def _others_have_a_say(environment: Mapping[str, str]) -> bool:
    if any(name.startswith("AWS_") and name not in _KNOWN for name in environment):
        return True
    if any(name.lower().endswith("_proxy") and value for name, value in environment.items()):
        return True
    return any(_has_content(environment.get(name) or place) for name, place in _FILES)


def _has_content(place: str) -> bool:
    try:
        return Path(place).expanduser().stat().st_size > 0
    except FileNotFoundError:
        return False
    except (OSError, RuntimeError):
        return True  # The library will say what is the matter.


def _tls_context(bundle: str | None) -> ssl.SSLContext:
    """Trusts whom the library would trust: ``bundle``, certifi's authorities where there are any, its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=bundle or _authorities())
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"AWS_CA_BUNDLE {bundle} cannot be used: {error.strerror or error}") from error
    return context


def _authorities() -> str:
    try:
        import certifi
    except ImportError:
        found = importlib.util.find_spec("botocore")
        assert found is not None, "a dependency"
        assert found.origin is not None
        return str(Path(found.origin).with_name("cacert.pem"))
    return certifi.where()
