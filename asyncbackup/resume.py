"""What is remembered of a multipart upload, so that a later run can go on at its next missing part, and of
the parts of what it made, so that a later run need not send those again that did not change."""

from __future__ import annotations

from typing import Protocol

import msgspec

DIGEST_BYTES = 32


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


class PartHashes(msgspec.Struct, frozen=True, kw_only=True):
    """The SHA-256 of each part of a plain object, 32 bytes one after another.

    ``key`` is relative to the prefix of ``run``; all parts but the last have ``part_size`` bytes.
    """

    run: str
    key: str
    part_size: int
    hashes: bytes

    def has(self, number: int, sha256: bytes) -> bool:
        """Whether part ``number``, counted from 1, has this digest."""
        return self.hashes[(number - 1) * DIGEST_BYTES : number * DIGEST_BYTES] == sha256


class UploadJournal(Protocol):
    """Where the uploader writes down what it does. Each call returns once that is durable
    against the death of the process."""

    async def begun(self, upload: ResumableUpload) -> None: ...

    async def part_sent(self, upload_id: str, part: PartRecord) -> None: ...

    async def ended(self, upload_id: str, *, made: PartHashes | None = None) -> None:
        """Forget an upload that was completed or aborted, and remember the parts of what it made."""

    async def parts_of(self, run: str, key: str) -> PartHashes | None:
        """What is remembered of the parts of an object."""
