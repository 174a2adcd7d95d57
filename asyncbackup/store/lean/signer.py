"""AWS Signature Version 4 for requests with few, known headers."""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import quote

from asyncbackup.store.lean.errors import NoKeysError

if TYPE_CHECKING:
    from asyncbackup.store.endpoint_clock import EndpointClock


class SigningKeys(Protocol):
    """What a request is signed with; ``token`` is empty or ``None`` for keys that do not end."""

    @property
    def access_key(self) -> str | None: ...

    @property
    def secret_key(self) -> str | None: ...

    @property
    def token(self) -> str | None: ...


class KeySource(Protocol):
    """Where keys come from, again once they are refused, and what time they sign by."""

    @property
    def clock(self) -> EndpointClock: ...

    @property
    def generation(self) -> int:
        """Grows with every renewal."""

    async def current(self) -> SigningKeys:
        """What to sign the next request with."""

    async def renew(self, seen: int) -> bool:
        """Whether there are keys other than those of generation ``seen``, which were refused."""


EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_.~/-]*", re.ASCII)


def encoded_path(path: str) -> str:
    """A path as it stands in the request line and in the signature: S3 normalises nothing."""
    return path if _PLAIN_PATH.fullmatch(path) else quote(path, safe="/~")


def encoded_query(parameters: Mapping[str, str]) -> str:
    """Query parameters, encoded and in the order of their names."""
    return "&".join(f"{name}={quote(parameters[name], safe='-_.~')}" for name in sorted(parameters))


class Signer:
    """Signs for one host, region and service. Keeps the key of the day, which costs four digests."""

    def __init__(self, *, host: str, region: str, service: str = "s3") -> None:
        self._host = host
        self._region = region
        self._service = service
        self._key = b""
        self._key_of = ("", "")
        self._second = -1
        self._stamp = ""

    def head_lines(
        self,
        method: str,
        path: str,
        query: str,
        headers: dict[str, str],
        *,
        payload_sha256: str,
        credentials: SigningKeys,
        now: float | None = None,
    ) -> str:
        """The request's header lines, each ended by CRLF: ``headers``, what S3 needs beside them, signed.

        ``path`` and ``query`` are encoded. Names of headers are in lower case, values printable
        ASCII. ``now`` is in seconds since 1970. Raises ``NoKeysError``.
        """
        access_key, secret_key = credentials.access_key, credentials.secret_key
        if access_key is None or secret_key is None:
            raise NoKeysError("there is no access key or no secret")
        stamp = self._time(now)
        signed = {
            "host": self._host,
            "x-amz-content-sha256": payload_sha256,
            "x-amz-date": stamp,
            **headers,
        }
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        form = _form(tuple(signed))
        values = [signed[name] for name in form.names]
        # Few requests have a value with a space in it, and only those can have any that is not signed.
        spaced = " " in "".join(values)
        as_signed = tuple(map(_trimmed, values)) if spaced else tuple(values)
        canonical = f"{method}\n{path}\n{query}\n{form.signed % as_signed}{payload_sha256}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()

        day = stamp[:8]
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        key = self._signing_key(day, secret_key)
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        return (
            f"{form.sent % tuple(values)}authorization: {_ALGORITHM} Credential={access_key}/{scope}, "
            f"SignedHeaders={form.signed_names}, Signature={signature}\r\n"
        )

    def _time(self, now: float | None) -> str:
        second = int(time.time() if now is None else now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        return self._stamp

    def _signing_key(self, day: str, secret_key: str) -> bytes:
        if self._key_of != (day, secret_key):
            key = ("AWS4" + secret_key).encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key, self._key_of = key, (day, secret_key)
        return self._key


class _Form(NamedTuple):
    """What requests with the same headers have in common: the names in order, and the texts that take
    their values, as they are signed and as they are sent."""

    names: tuple[str, ...]
    signed: str
    sent: str
    signed_names: str


@functools.lru_cache(maxsize=256)
def _form(headers: tuple[str, ...]) -> _Form:
    names = tuple(sorted(headers))
    signed_names = ";".join(names)
    # A header's name may have percent signs.
    plain = [name.replace("%", "%%") for name in names]
    signed = "".join(f"{name}:%s\n" for name in plain)
    sent = "".join(f"{name}: %s\r\n" for name in plain)
    return _Form(names, f"{signed}\n{signed_names.replace('%', '%%')}\n", sent, signed_names)


def _trimmed(value: str) -> str:
    """A value as it is signed: without spaces around it, and with one space where there are more."""
    return " ".join(value.split()) if "  " in value or value != value.strip() else value
