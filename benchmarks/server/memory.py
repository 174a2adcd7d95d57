"""What the server keeps: buckets, objects, unfinished uploads."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from email.utils import formatdate
from functools import lru_cache
from typing import NamedTuple

from benchmarks.server.message import Buffer, S3Error

_AFTER_ALL = "\U0010ffff"


@lru_cache(maxsize=1024)
def _http_date(seconds: int) -> str:
    """Kept, since thousands of objects are of the same second."""
    return formatdate(seconds, usegmt=True)


class StoredObject:
    """One object, whole. ``parts`` are its bytes in order, as they came."""

    __slots__ = ("checksum", "checksum_type", "etag", "headers", "modified", "parts", "size")

    def __init__(
        self,
        parts: tuple[Buffer, ...],
        *,
        etag: str,
        headers: dict[str, str],
        checksum: str = "",
        checksum_type: str = "FULL_OBJECT",
    ) -> None:
        self.parts = parts
        self.size = sum(map(len, parts))
        self.etag = etag
        """Without its quotes."""
        self.headers = headers
        """Those to give back: user metadata, content type and the like, storage class."""
        self.checksum = checksum
        """SHA-256 in base64, of a multipart object the composite one; empty where none was given."""
        self.checksum_type = checksum_type
        self.modified = time.time()

    def head_lines(self) -> str:
        lines = [f"{name}: {value}\r\n" for name, value in self.headers.items()]
        date = _http_date(int(self.modified))
        return f'ETag: "{self.etag}"\r\nLast-Modified: {date}\r\nAccept-Ranges: bytes\r\n{"".join(lines)}'

    def range(self, start: int, length: int) -> tuple[memoryview, ...]:
        """The bytes asked for, as views."""
        views: list[memoryview] = []
        for part in self.parts:
            if start < len(part) and length > 0:
                view = memoryview(part)[start : start + length]
                views.append(view)
                length -= len(view)
                start = 0
            else:
                start -= len(part)
        return tuple(views)


class Part(NamedTuple):
    """One part of an unfinished upload."""

    body: Buffer
    etag: str
    sha256: bytes
    modified: float


class Upload:
    """An unfinished multipart upload."""

    __slots__ = ("algorithm", "headers", "initiated", "key", "parts", "upload_id")

    def __init__(self, upload_id: str, key: str, headers: dict[str, str], algorithm: str) -> None:
        self.upload_id = upload_id
        self.key = key
        self.headers = headers
        self.algorithm = algorithm
        """``SHA256``, another one's name, or empty."""
        self.parts: dict[int, Part] = {}
        self.initiated = time.time()


class Bucket:
    """Objects by key, and their keys in order. That of strings is that of their UTF-8."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.created = time.time()
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, Upload] = {}
        self._ordered: list[str] = []
        self._new: list[str] = []
        self._stale = False

    @property
    def stored_bytes(self) -> int:
        return sum(kept.size for kept in self.objects.values())

    def object(self, key: str) -> StoredObject:
        """Raises ``S3Error``."""
        try:
            return self.objects[key]
        except KeyError:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.") from None

    def upload(self, upload_id: str, key: str) -> Upload:
        """Raises ``S3Error``."""
        upload = self.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise S3Error(404, "NoSuchUpload", "The specified upload does not exist.")
        return upload

    def put(self, key: str, stored: StoredObject) -> None:
        if key not in self.objects:
            self._new.append(key)
        self.objects[key] = stored

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self._stale = True

    def keys_after(self, marker: str, prefix: str) -> _Keys:
        """A cursor over the keys that have ``prefix``, from the first one behind ``marker``."""
        if self._stale:
            self._ordered, self._new, self._stale = sorted(self.objects), [], False
        elif self._new:
            # Mostly ordered already, which is what the sort is fast at.
            self._ordered.extend(self._new)
            self._ordered.sort()
            self._new = []
        return _Keys(self._ordered, marker, prefix)


class _Keys:
    """A cursor that can leap over all keys with a common prefix."""

    __slots__ = ("_index", "_ordered", "_prefix")

    def __init__(self, ordered: list[str], marker: str, prefix: str) -> None:
        self._ordered = ordered
        self._prefix = prefix
        self._index = max(bisect_right(ordered, marker) if marker else 0, bisect_left(ordered, prefix))

    def next(self) -> str | None:
        """The next key, or ``None`` at the end of the prefix."""
        if self._index >= len(self._ordered):
            return None
        key = self._ordered[self._index]
        if not key.startswith(self._prefix):
            return None
        self._index += 1
        return key

    def leap(self, prefix: str) -> None:
        """Go on behind everything that begins with ``prefix``."""
        self._index = bisect_right(self._ordered, prefix + _AFTER_ALL, self._index)
