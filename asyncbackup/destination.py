"""What a destination may be: ``s3://bucket/prefix`` or ``file:///folder``, checked and in one spelling."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import urlsplit

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_BUCKET_RULE = (
    "a bucket's name has 3 to 63 lower-case letters, digits, '-' and '.', begins and ends with a letter "
    "or digit, has no '..' and is no IP address"
)
# A longer prefix would leave no room for names in S3's 1,024 bytes a key.
_PREFIX_LIMIT_BYTES = 512
_LOOPBACK_NAMES = frozenset({"localhost", "::1"})

STORAGE_CLASSES = (
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "GLACIER_IR",
    "SNOW",
    "EXPRESS_ONEZONE",
    "FSX_OPENZFS",
)
"""What S3 knows as ``x-amz-storage-class``."""


def check_destination(url: str) -> str:
    """``url`` without trailing slashes. Raises ``ValueError`` that says what is accepted."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        hint = f"; did you mean 'file://{url}'?" if url.startswith("/") else ""
        raise ValueError(f"accepted are s3://bucket/prefix and file:///folder{hint}")
    if scheme == "s3":
        return _check_s3(rest)
    if scheme == "file":
        return _check_file(rest)
    raise ValueError(f"{scheme + '://'!r} is not known; accepted are s3://bucket/prefix and file:///folder")


def is_remote(url: str) -> bool:
    """Whether a checked destination is on an S3 endpoint."""
    return url.startswith("s3://")


def local_folder(url: str) -> Path | None:
    """The folder that a checked ``file://`` destination names; ``None`` for one that is remote."""
    return None if is_remote(url) else Path(url.removeprefix("file://"))


def key_prefix_bytes(url: str) -> int:
    """The bytes that a checked destination puts before every key, which count against a key's limit."""
    if not is_remote(url):
        return 0
    _, _, prefix = url.removeprefix("s3://").partition("/")
    return len(prefix.encode()) + 1 if prefix else 0


def check_endpoint_url(url: str) -> str:
    """The address of an S3 endpoint without a trailing slash. Raises ``ValueError``.

    The messages never hold the address: one with a password in it is one of
    the things refused here.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("accepted is an address like https://s3.example.com:9000") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or any(c.isspace() for c in url):
        raise ValueError("accepted is an address like https://s3.example.com:9000")
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials have no place in the address; they come from the usual AWS chain")
    if parts.query or parts.fragment:
        raise ValueError("the address of an endpoint has neither '?' nor '#'")
    return url.rstrip("/")


def needs_plain_http(url: str) -> bool:
    """Whether a checked endpoint address sends readable requests to another machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or host in _LOOPBACK_NAMES:
        return False
    try:
        return not IPv4Address(host).is_loopback
    except ValueError:
        return True


def _check_s3(rest: str) -> str:
    bucket, _, prefix = rest.partition("/")
    if not _is_bucket_name(bucket):
        raise ValueError(f"{bucket!r} cannot be a bucket; {_BUCKET_RULE}")
    prefix = prefix.rstrip("/")
    if not prefix:
        return f"s3://{bucket}"
    if any(segment in {"", ".", ".."} for segment in prefix.split("/")):
        raise ValueError("a prefix has no empty segment and none that is '.' or '..'")
    if not prefix.isprintable() or "\\" in prefix:
        raise ValueError("a prefix has neither control characters nor backslashes")
    if len(prefix.encode()) > _PREFIX_LIMIT_BYTES:
        raise ValueError(f"a prefix has at most {_PREFIX_LIMIT_BYTES} bytes")
    return f"s3://{bucket}/{prefix}"


def _check_file(rest: str) -> str:
    if not rest.startswith("/"):
        raise ValueError("a folder is named from the root, with three slashes: file:///mnt/disk/backups")
    segments = [segment for segment in rest.split("/") if segment]
    if not segments:
        raise ValueError("the root folder itself cannot be a destination; name a folder below it")
    if any(segment in {".", ".."} for segment in segments):
        raise ValueError("the folder's path has no '.' and no '..'")
    if "\0" in rest:
        raise ValueError("a folder's path has no NUL")
    return "file:///" + "/".join(segments)


def _is_bucket_name(name: str) -> bool:
    if _BUCKET.fullmatch(name) is None or ".." in name:
        return False
    try:
        IPv4Address(name)
    except ValueError:
        return True
    return False
