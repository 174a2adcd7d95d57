"""The checksums that S3 keeps beside an object, computed from digests that the caller has anyway."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable


def single_checksum(sha256: bytes) -> str:
    """S3's SHA-256 checksum of an object that was written whole: base64 of the digest."""
    return base64.b64encode(sha256).decode()


def composite_checksum(parts: Iterable[bytes]) -> str:
    """S3's composite checksum of a multipart object: the SHA-256 of the parts' digests, and their number."""
    digest, count = hashlib.sha256(), 0
    for sha256 in parts:
        digest.update(sha256)
        count += 1
    return f"{base64.b64encode(digest.digest()).decode()}-{count}"
