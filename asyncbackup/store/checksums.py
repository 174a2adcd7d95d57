"""What every store computes and checks in the same way: S3's checksums, and the order of parts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from asyncbackup.errors import StoreError

if TYPE_CHECKING:
    from asyncbackup.store.base import PartReceipt


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


def check_parts(key: str, parts: Sequence[PartReceipt]) -> None:
    """Refuse what S3 refuses, as some endpoints do not: no parts, or parts out of order."""
    numbers = [part.number for part in parts]
    if not numbers or numbers != sorted(set(numbers)):
        reason = "the parts are not one or more in ascending order"
        raise StoreError("CompleteMultipartUpload", key, reason, code="InvalidPartOrder")
