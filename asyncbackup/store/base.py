"""The store: what the rest of asyncbackup may ask of a destination, and may rely on.

Keys are relative to the destination (``s3://bucket/prefix`` or
``file:///folder``), never start with ``/``, and are the printable strings that
``format/keys.py`` makes.

What every store promises:

* **Durability.** When ``put`` or ``complete_upload`` returns, the object
  survives a crash of this machine and (for ``file://``) of the kernel.
* **Atomicity.** An object is there with all its bytes and metadata, or not at
  all; a failed, cancelled or killed write leaves nothing under its final key.
* **Read after write.** ``get``, ``head`` and ``list`` see a finished write.
* **Integrity on the way.** ``sha256`` of a body is sent along, so that a store
  that checks refuses a body that changed on the wire.

What no store can promise: that an abort runs when the process is killed
(``list_uploads`` finds what was left), that a checksum it returns was verified
(``Capabilities``), or that a listing comes in byte order.

Every call is bounded in time, retries by the one policy of ``store/retry.py``,
and raises only :class:`~asyncbackup.errors.StoreError` and its children.
Cancelling a call leaves the store usable; whether the write happened is then
unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, NewType, Protocol

import msgspec

from asyncbackup.errors import StoreError

if TYPE_CHECKING:
    from asyncbackup.flow.load import RequestLoad
    from asyncbackup.model import RequestCounts

OTHER_SIZE = "OtherSize"
"""The code of the error that an object is not as large as was said."""

Buffer = bytes | bytearray | memoryview
Body = Buffer | Sequence[Buffer]
"""A body in memory: one buffer, or several that are sent one after another without joining.
The caller must not change them before the call returns."""

UploadId = NewType("UploadId", str)


class ObjectInfo(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What ``head`` and ``list`` tell. ``list`` fills key, size and modified_ns only.

    ``checksum`` is the base64 SHA-256 that the store returned (``…-N`` for a
    composite), ``""`` where it keeps none. ``metadata`` has lower-case names
    without ``x-amz-meta-``.
    """

    key: str
    size: int
    modified_ns: int = 0
    etag: str = ""
    checksum: str = ""
    storage_class: str = ""
    metadata: Mapping[str, str] = {}


class PutResult(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a finished write returned. ``checksum`` as in :class:`ObjectInfo`."""

    etag: str = ""
    checksum: str = ""


class PartReceipt(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One uploaded part of a multipart upload; ``number`` counts from 1."""

    number: int
    size: int
    etag: str
    sha256: bytes = b""


class UploadInfo(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload_id: UploadId
    initiated_ns: int = 0


ObjectPage = list[ObjectInfo]
UploadPage = list[UploadInfo]
PartList = list[PartReceipt]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the store is known to do; ``False`` also means "not known"."""

    keeps_checksums: bool = False
    keeps_metadata: bool = True
    keeps_folders: bool = True
    """A key that ends in ``/`` is an object beside the keys that begin with it. Where this is
    ``False``, ``put`` of such a key is a success that writes nothing."""
    server_side_copy: bool = True
    conditional_writes: bool = False
    part_copy: bool = True
    """``copy_part`` works. A store that finds out otherwise says ``False`` from then on."""
    uploads_known: bool = True
    """Of every multipart upload that was begun the caller was told. ``False`` once a request to begin one
    had to be sent again, whose first answer may have been lost."""


class ObjectReader(Protocol):
    """An open object. Iterate once, where chunks are of any size and become the caller's, or :meth:`fill`."""

    info: ObjectInfo

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def fill(self, view: memoryview) -> int:
        """Read the next bytes into ``view`` until that is full, fewer only at the end; returns how many.

        So a large object costs no memory but the caller's. Raises as iterating does. Nothing is
        written into ``view`` once this has returned, raised, or ended in a cancellation.
        """


class Store(Protocol):
    """See the module's docstring for the promises."""

    @property
    def url(self) -> str:
        """The destination."""

    @property
    def capabilities(self) -> Capabilities:
        """What is known so far; a store may learn more with every answer."""

    @property
    def requests(self) -> RequestCounts:
        """Requests sent so far by operation name; the folder store counts by the same names."""

    @property
    def load(self) -> RequestLoad:
        """What is under way, and how much more may be; live."""

    async def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: bytes,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> PutResult:
        """Write one object whole. ``sha256`` is the body's digest.

        With ``if_absent`` an existing key raises ``ObjectExistsError`` where
        the store can tell; a 412 that answers one's own successful write (a
        PUT sent twice) is recognised and is a success. Without, overwrites.
        """

    def open(
        self, key: str, *, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[ObjectReader]:
        """Open an object, or ``length`` bytes of it from ``offset``, for reading.

        A connection that breaks while reading is resumed at the byte where it
        broke. Fewer or more bytes than announced raise ``StoreError``.
        """

    async def get(self, key: str, *, limit: int) -> bytes:
        """The whole object. More than ``limit`` bytes raise ``StoreError`` before they are kept."""

    async def fetch(self, key: str, *, size: int) -> Sequence[bytes]:
        """The whole object in pieces, ``size`` bytes in all: the quickest way to a small one.

        Another size raises ``StoreError`` with the code ``OTHER_SIZE``; no more is kept than was asked for.
        """

    async def head(self, key: str) -> ObjectInfo:
        """Size, checksum and metadata. Raises ``ObjectMissingError``."""

    def list(self, prefix: str) -> AsyncIterator[ObjectPage]:
        """Every object whose key starts with ``prefix``, in pages, in no particular order."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; a key that does not exist is no error."""

    async def copy(self, source: str, key: str, *, metadata: Mapping[str, str]) -> PutResult:
        """Copy an object inside the store, replacing its metadata. At most 5 GiB.

        Raises ``UnsupportedError`` where the store cannot.
        """

    async def create_upload(self, key: str, *, metadata: Mapping[str, str]) -> UploadId:
        """Begin a multipart upload. The caller must complete or abort it."""

    async def upload_part(
        self, key: str, upload_id: UploadId, number: int, body: Body, *, sha256: bytes
    ) -> PartReceipt:
        """Send one part, numbered from 1. A part sent again replaces the earlier one."""

    async def copy_part(
        self, source: str, key: str, upload_id: UploadId, number: int, *, offset: int, length: int
    ) -> PartReceipt:
        """Make one part out of ``length`` bytes from ``offset`` of the object ``source``, inside the store.

        The receipt's ``sha256`` is that of the bytes that were copied where the
        store tells it, else ``b""``. Raises ``UnsupportedError`` where the store
        cannot (the upload is then as it was), ``ObjectMissingError`` where the
        source or the upload is gone, and ``StoreError`` for a range that ends
        after the source, where the store looks.
        """

    async def list_parts(self, key: str, upload_id: UploadId) -> PartList:
        """The parts that the store holds. Raises ``ObjectMissingError`` for an unknown upload."""

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartReceipt]) -> PutResult:
        """Make the object out of its parts (ascending numbers). Recognises an earlier
        Complete that was applied but not answered."""

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        """Give an upload up; an unknown upload is no error."""

    def list_uploads(self, prefix: str) -> AsyncIterator[UploadPage]:
        """Unfinished multipart uploads below ``prefix``, in pages.

        A folder store lists what dead processes left under temporary names in the same shape,
        so that aborting all that is listed leaves nothing behind.
        """

    async def aclose(self) -> None:
        """Close connections. Idempotent."""


def other_size(key: str, found: int, size: int) -> StoreError:
    """What ``fetch`` raises for an object that has ``found`` bytes, or more, instead of ``size``."""
    return StoreError("GetObject", key, f"holds {found} bytes, not {size}", code=OTHER_SIZE)
