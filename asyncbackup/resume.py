"""What is remembered of a multipart upload, so that a later run can go on at its next missing part."""

from __future__ import annotations

from typing import Protocol

import msgspec


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A part that the store acknowledged; ``sha256`` is the digest of its stored bytes."""

    number: int
    size: int
    etag: str
    sha256: bytes


class ResumableUpload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload of the file ``path`` as it was at ``size``, ``mtime_ns`` and ``ctime_ns``.

    ``key`` is relative to the run's prefix, ``run`` the run that began it.
    """

    path: bytes
    run: str
    key: str
    upload_id: str
    part_size: int
    size: int
    mtime_ns: int
    ctime_ns: int
    parts: tuple[PartRecord, ...] = ()


class UploadJournal(Protocol):
    """Where the uploader writes down what it does. Each call returns once that is durable
    against the death of the process."""

    async def begun(self, upload: ResumableUpload) -> None: ...

    async def part_sent(self, upload_id: str, part: PartRecord) -> None: ...

    async def ended(self, upload_id: str) -> None: ...
