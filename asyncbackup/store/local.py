"""A folder as a store: ``file:///mnt/disk/backups``.

A key is a path below the folder, a key that ends in ``/`` a real folder; metadata and checksum
are extended attributes (``local_attributes``), where the file system has them. The checksum is
an echo of what the writer said, as with several S3 servers: reading it back proves that the
object was written whole, not that its bytes are still good.

The parts: ``local_files`` writes and reads objects, ``local_folders`` makes and syncs folders,
``local_uploads`` does multipart, ``local_listing`` lists, ``local_keys`` says which keys can be.
All of them block, so each call here is one hop to a bounded set of threads. A call cannot be
bounded in time: a thread in a file system that hangs cannot be stopped.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from asyncbackup.errors import ObjectRefusedError, StoreError
from asyncbackup.flow.hops import hop
from asyncbackup.flow.load import RequestLoad
from asyncbackup.flow.window import Window
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.store.base import (
    Body,
    Capabilities,
    ObjectInfo,
    ObjectPage,
    ObjectReader,
    PartList,
    PartReceipt,
    PutResult,
    UploadId,
    UploadPage,
    other_size,
)
from asyncbackup.store.body import pieces_of
from asyncbackup.store.checksums import single_checksum
from asyncbackup.store.local_attributes import supports_attributes
from asyncbackup.store.local_errors import translated
from asyncbackup.store.local_files import COPY_BYTES, Abandoned, LocalFiles, write_buffers
from asyncbackup.store.local_folders import FOLDER_MODE, Folders
from asyncbackup.store.local_keys import path_of_key
from asyncbackup.store.local_listing import list_objects, stale_temporaries
from asyncbackup.store.local_uploads import LocalUploads

if TYPE_CHECKING:
    from asyncbackup.model import RequestCounts

P = ParamSpec("P")
R = TypeVar("R")

READ_BYTES = 1024 * 1024
THREADS_LIMIT = 16
"""More threads than this only queue up at one file system's journal."""


class LocalStore:
    """See :class:`~asyncbackup.store.base.Store` for what it promises; made by :meth:`connect`."""

    def __init__(self, url: str, root: int, *, attributes: bool, anonymous: bool, concurrency: int) -> None:
        self.url = url
        self.capabilities = Capabilities(
            keeps_checksums=attributes, keeps_metadata=attributes, conditional_writes=True
        )
        self.requests: RequestCounts = Counter()
        self.load = RequestLoad(Window(concurrency))
        self._root = root
        self._files = LocalFiles(Folders(root), attributes=attributes, anonymous=anonymous)
        self._uploads = LocalUploads(self._files)
        self._gate = ThreadGate("folder-store", min(concurrency, THREADS_LIMIT))
        self._closed = False

    @classmethod
    async def connect(
        cls, folder: Path, *, concurrency: int, create: bool = False, named_temporaries: bool = False
    ) -> Self:
        """A store in an existing folder; with ``create`` the folder is made if it is missing.

        ``named_temporaries`` does without ``O_TMPFILE``, as on systems that have none.
        """

        def look() -> tuple[int, bool, bool]:
            root = _open_root(folder, create=create)
            return root, supports_attributes(root), not named_temporaries and _has_anonymous_files(root)

        root, attributes, anonymous = await asyncio.to_thread(look)
        return cls(
            f"file://{folder}", root, attributes=attributes, anonymous=anonymous, concurrency=concurrency
        )

    async def aclose(self) -> None:
        """Wait for the threads, also for writes that were cancelled. Idempotent."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._gate.close)
            os.close(self._root)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: bytes,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> PutResult:
        pieces = list(pieces_of(body, COPY_BYTES))
        path_of_key("PutObject", key)
        if pieces and key.endswith("/"):
            reason = "a folder has no content"
            raise ObjectRefusedError("PutObject", key, reason, code="InvalidRequest")

        def write(abandoned: threading.Event) -> PutResult:
            return self._files.publish(
                "PutObject",
                key,
                lambda descriptor: write_buffers(descriptor, pieces, abandoned),
                metadata=metadata or {},
                checksum=single_checksum(sha256),
                if_absent=if_absent,
                abandoned=abandoned,
            )

        return await self._run_abandonable("PutObject", write)

    @asynccontextmanager
    async def open(
        self, key: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[ObjectReader]:
        opened: list[int] = []

        def start(abandoned: threading.Event) -> _LocalReader:
            descriptor, info = self._files.open("GetObject", key)
            opened.append(descriptor)
            if abandoned.is_set():
                _close_all(opened)
                raise Abandoned
            end = _end(info, offset, length)
            with translated("GetObject", key):
                first = os.pread(descriptor, min(READ_BYTES, end - offset), offset)
            return _LocalReader(self._gate, descriptor, info, first, offset, end)

        try:
            yield await self._run_abandonable("GetObject", start)
        finally:
            _close_all(opened)

    async def get(self, key: str, *, limit: int) -> bytes:
        def read() -> bytes:
            descriptor, info = self._files.open("GetObject", key)
            if key.endswith("/"):
                os.close(descriptor)
                return b""
            with open(descriptor, "rb") as file, translated("GetObject", key):
                if info.size > limit:
                    reason = f"it has {info.size} bytes, at most {limit} are accepted"
                    raise StoreError("GetObject", key, reason, code="TooLarge")
                return file.read(info.size)

        return await self._run("GetObject", read)

    async def fetch(self, key: str, *, size: int) -> list[bytes]:
        def read() -> bytes:
            descriptor, info = self._files.open("GetObject", key)
            try:
                content = b""
                if info.size == size and not key.endswith("/"):
                    with translated("GetObject", key):
                        content = os.pread(descriptor, size, 0)
            finally:
                os.close(descriptor)
            if info.size != size or len(content) != size:
                raise other_size(key, len(content) or info.size, size)
            return content

        return [await self._run("GetObject", read)]

    async def head(self, key: str) -> ObjectInfo:
        return await self._run("HeadObject", self._files.head, key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectPage]:
        pages = list_objects(self._files, prefix)
        while page := await self._run("ListObjectsV2", _next_page, pages):
            yield page

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            await self._run("DeleteObjects", self._files.delete, keys)

    async def copy(self, source: str, key: str, *, metadata: Mapping[str, str]) -> PutResult:
        return await self._run("CopyObject", self._files.copy, source, key, metadata)

    async def create_upload(self, key: str, *, metadata: Mapping[str, str]) -> UploadId:
        return await self._run("CreateMultipartUpload", self._uploads.create, key, metadata)

    async def upload_part(
        self, key: str, upload_id: UploadId, number: int, body: Body, *, sha256: bytes
    ) -> PartReceipt:
        def write(abandoned: threading.Event) -> PartReceipt:
            return self._uploads.write_part(key, upload_id, number, body, sha256, abandoned)

        return await self._run_abandonable("UploadPart", write)

    async def copy_part(
        self, source: str, key: str, upload_id: UploadId, number: int, *, offset: int, length: int
    ) -> PartReceipt:
        """As promised; the bytes are read once, so that the receipt tells the digest of what was copied."""

        def write(abandoned: threading.Event) -> PartReceipt:
            return self._uploads.copy_part(source, key, upload_id, number, offset, length, abandoned)

        return await self._run_abandonable("UploadPartCopy", write)

    async def list_parts(self, key: str, upload_id: UploadId) -> PartList:
        return await self._run("ListParts", self._uploads.list_parts, key, upload_id)

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartReceipt]) -> PutResult:
        return await self._run("CompleteMultipartUpload", self._uploads.complete, key, upload_id, parts)

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        await self._run("AbortMultipartUpload", self._uploads.abort, key, upload_id)

    async def list_uploads(self, prefix: str) -> AsyncIterator[UploadPage]:
        """Unfinished uploads, and temporary files of dead processes in the shape of uploads."""

        def look() -> UploadPage:
            return [*self._uploads.list(prefix), *stale_temporaries(self._files, prefix)]

        if page := await self._run("ListMultipartUploads", look):
            yield page

    async def _run(self, operation: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self.requests[operation] += 1
        return await self._gate.run(call, *args, **kwargs)

    async def _run_abandonable(self, operation: str, call: Callable[[threading.Event], R]) -> R:
        """Run a call that is told through its event when nobody waits for it any more.

        The buffers of a cancelled write may be changed by their owner at once: what the thread
        makes of them then never gets a name.
        """
        abandoned = threading.Event()
        try:
            return await self._run(operation, call, abandoned)
        except BaseException:
            abandoned.set()
            raise


class _LocalReader:
    """An open object; ``first`` was read together with opening it."""

    def __init__(
        self, gate: ThreadGate, descriptor: int, info: ObjectInfo, first: bytes, offset: int, end: int
    ) -> None:
        self.info = info
        self._gate = gate
        self._descriptor = descriptor
        self._first = first
        self._offset = offset
        self._end = end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        position, chunk = self._offset, self._first
        while position < self._end:
            if not chunk:
                raise self._ended_early(position)
            yield chunk
            position += len(chunk)
            chunk = await self._read(position)

    async def fill(self, view: memoryview) -> int:
        begin, view = self._offset, view[: self._end - self._offset]
        if view and self._first:
            first = self._first[: len(view)]
            view[: len(first)] = first
            self._first = self._first[len(first) :]
            self._offset += len(first)
        while room := view[self._offset - begin :]:
            with translated("GetObject", self.info.key):
                # The thread is waited for in any case: it writes into what is the caller's.
                count = await hop(self._gate, os.preadv, self._descriptor, [room], self._offset)
            if not count:
                raise self._ended_early(self._offset)
            self._offset += count
        return len(view)

    async def _read(self, position: int) -> bytes:
        wanted = min(READ_BYTES, self._end - position)
        if not wanted:
            return b""
        with translated("GetObject", self.info.key):
            return await self._gate.run(os.pread, self._descriptor, wanted, position)

    def _ended_early(self, position: int) -> StoreError:
        reason = f"the file ended {self._end - position} bytes early"
        return StoreError("GetObject", self.info.key, reason, code="ShortBody")


def _end(info: ObjectInfo, offset: int, length: int | None) -> int:
    end = info.size if length is None else offset + length
    if offset > info.size or end > info.size:
        reason = f"bytes up to {max(offset, end)} were asked for, the object has {info.size}"
        raise StoreError("GetObject", info.key, reason, code="InvalidRange")
    return end


def _close_all(descriptors: list[int]) -> None:
    """Close what is in the list. Whoever takes a descriptor out closes it, so two threads may call this."""
    with suppress(IndexError):
        while True:
            os.close(descriptors.pop())


def _next_page(pages: Iterator[ObjectPage]) -> ObjectPage:
    return next(pages, [])


def _open_root(folder: Path, *, create: bool) -> int:
    with translated("Open", str(folder)):
        if create:
            folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        try:
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            reason = "the folder does not exist; is its disk mounted? initdb makes a new one"
            raise StoreError("Open", str(folder), reason, code="ENOENT") from error
        except NotADirectoryError as error:
            raise StoreError("Open", str(folder), "it is not a folder", code="ENOTDIR") from error


def _has_anonymous_files(root: int) -> bool:
    """Whether files can be written before they have a name; also ``False`` where nothing can be written."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
        return False
    try:
        os.close(os.open(b".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=root))
    except OSError:
        return False
    return True
