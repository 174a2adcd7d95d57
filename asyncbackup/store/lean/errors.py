"""What can go wrong on a connection. ``s3_errors`` makes errors of the package out of these."""

from __future__ import annotations

import ssl


class NoConnectionError(OSError):
    """No connection came about."""


class BrokenConnectionError(OSError):
    """A connection ended before its answer did."""


class TlsFailedError(ssl.SSLError):
    """The endpoint did not prove who it is, or does not speak TLS as it should."""


class NoKeysError(Exception):
    """There is no access key, or no secret, to sign with."""


class MalformedAnswerError(Exception):
    """What came is not an HTTP/1.1 answer as it has to be."""
