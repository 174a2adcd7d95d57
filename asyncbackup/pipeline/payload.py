"""What travels between reader, encryptor and uploader. Bodies are in memory and in the byte budget.

``leased`` is what the body took from the budget; whoever consumes a payload
for good (the uploader, or a stage that fails) gives it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from asyncbackup.model import Entry, Extent, Pending
from asyncbackup.pipeline.underway import PackUnderway, Underway
from asyncbackup.store.base import Body, Buffer, PartReceipt, UploadId

if TYPE_CHECKING:
    from asyncbackup.resume import PartHashes, ResumableUpload


class WholePayload(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A content small enough for one PUT. ``entry`` lacks its extent, ``key`` is relative to the run.
    ``compression`` and ``skip`` are those of ``body``, as in an extent; the object of a hidden name
    skips its head. ``stands_for`` is where the content of a stand-in lies."""

    entry: Entry
    pending: Pending
    key: str
    metadata: Mapping[str, str]
    body: Buffer
    body_sha256: bytes
    encrypted: bool
    leased: int
    bytes_read: int
    compression: str = ""
    skip: int = 0
    stands_for: Extent | None = None
    underway: Underway | None = None


class LargeUpload:
    """The shared state of one multipart upload while its parts are under way.

    ``size`` is what the file has to give, ``stored_size`` what the object will
    have (0 where it is compressed: that shows at the end), ``part_size`` the
    stored size of every part but the last. ``compression`` is as in an extent,
    ``head`` what is put before the content of a hidden name. ``entry`` lacks
    digest and extent until the end was read. ``run`` is the run whose folder
    ``key`` lies in: an earlier one for an upload that is gone on with.
    ``earlier`` is where the file's content lay before it changed, if parts of
    that may be taken over, and ``earlier_parts`` what is remembered of them.
    """

    __slots__ = (
        "abandoned",
        "bytes_sent",
        "compression",
        "creating",
        "earlier",
        "earlier_parts",
        "end",
        "entry",
        "head",
        "in_flight",
        "key",
        "part_size",
        "parts",
        "pending",
        "resumed",
        "run",
        "sealed",
        "stored_size",
        "underway",
        "upload_id",
    )

    def __init__(
        self,
        *,
        entry: Entry,
        pending: Pending,
        run: str,
        key: str,
        part_size: int,
        stored_size: int,
        sealed: bool,
        resumed: ResumableUpload | None,
        earlier: Extent | None = None,
        compression: str = "",
        head: bytes = b"",
    ) -> None:
        self.entry = entry
        self.head = head
        self.pending = pending
        self.run = run
        self.key = key
        self.part_size = part_size
        self.stored_size = stored_size
        self.sealed = sealed
        self.resumed = resumed
        self.upload_id = UploadId(resumed.upload_id) if resumed else None
        self.parts: dict[int, PartReceipt] = {}
        if resumed:
            for part in resumed.parts:
                self.parts[part.number] = PartReceipt(
                    number=part.number, size=part.size, etag=part.etag, sha256=part.sha256
                )
        self.compression = compression
        self.earlier = earlier
        self.earlier_parts: PartHashes | None = None
        self.bytes_sent = 0
        self.creating = asyncio.Lock()
        self.in_flight = 0
        self.underway: Underway | None = None
        """What others wait for who share the content, once its digest is known."""
        self.end: UploadEnd | None = None
        self.abandoned = False

    @property
    def goes_on(self) -> bool:
        """Whether a later run can go on with it: parts of a sealed one must not be sealed again, and those
        of a compressed one may come out otherwise."""
        return not (self.sealed or self.compression)


class PartPayload(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One part. Before compressor and encryptor ``body`` is a block of the file, and ``sha256`` empty
    if it will be compressed or sealed."""

    upload: LargeUpload
    number: int
    body: Buffer
    sha256: bytes
    leased: int


class UploadEnd(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """All parts of an upload were sent on; ``entry`` now has its digest. ``part_count`` parts make it."""

    upload: LargeUpload
    entry: Entry
    part_count: int
    bytes_read: int


class AbandonUpload(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The file could not be read consistently: give its upload up. ``leased`` as of every body."""

    upload: LargeUpload
    leased: int = 0


class CopyPayload(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A further name of a content that is stored already at ``source``."""

    entry: Entry
    pending: Pending
    key: str
    source: Extent
    first_path: bytes


class PackItem(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One entry on its way to a pack, or to an object of its own unless its content is known.

    ``entry`` lacks its extent. ``known`` is where its content lies already,
    ``link_to`` the path of the file that it is a further name of. ``whole`` is
    the payload that it becomes if it is too large for a pack.
    """

    entry: Entry
    pending: Pending
    body: Buffer = b""
    bytes_read: int = 0
    known: Extent | None = None
    link_to: bytes = b""
    whole: WholePayload | None = None


class PackBatch(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What one hop read for packs. ``leased`` is what all its bodies and headers took from the budget,
    those of ``whole`` payloads apart, which carry their own. ``number`` is that of the batch in the
    process that read it, 0 where this one did."""

    items: list[PackItem]
    leased: int
    number: int = 0


class PackPayload(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A built pack. ``underway`` knows its members, ``body`` are its pieces in order."""

    underway: PackUnderway
    body: Body
    size: int
    body_sha256: bytes
    encrypted: bool
    leased: int


Payload: TypeAlias = WholePayload | PartPayload | UploadEnd | AbandonUpload | CopyPayload | PackPayload
