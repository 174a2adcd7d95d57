"""The operations that are measured, each through the store as a run would do it."""

from __future__ import annotations

import hashlib
import itertools
import os
from typing import TYPE_CHECKING, Protocol

from asyncbackup.bench.measurement import GET, HEAD, LIST, PUT
from asyncbackup.errors import StoreError

if TYPE_CHECKING:
    from asyncbackup.store.base import Body, PartReceipt, Store, UploadId
    from asyncbackup.traces import Traces

_STAMP_BYTES = 16


class Bodies:
    """Random bodies of any size up to ``largest``, no two alike, out of one block of memory."""

    def __init__(self, largest: int) -> None:
        self._block = memoryview(os.urandom(largest))
        self._numbers = itertools.count()
        self._salt = os.urandom(8)
        self._digests: dict[int, hashlib._Hash] = {}

    def make(self, size: int) -> tuple[Body, bytes]:
        """A body and its SHA-256. Nothing is copied; only the last bytes are new, and hashed."""
        stamp = (self._salt + next(self._numbers).to_bytes(8, "big"))[-min(size, _STAMP_BYTES) :]
        if not size:
            stamp = b""
        begin = self._block[: size - len(stamp)]
        digest = self._digests.get(size)
        if digest is None:
            digest = self._digests[size] = hashlib.sha256(begin)
        whole = digest.copy()
        whole.update(stamp)
        return [begin, stamp], whole.digest()


class Task(Protocol):
    """One operation; gives the bytes that it moved. ``number`` counts those of a round from 0."""

    async def __call__(self, number: int) -> int: ...


class ObjectWork:
    """PUT, GET, HEAD and LIST of objects of one size below ``folder``."""

    def __init__(self, store: Store, bodies: Bodies, traces: Traces, folder: str, *, size: int) -> None:
        self._store = store
        self._bodies = bodies
        self._traces = traces
        self._folder = folder
        self._size = size
        self._written = 0
        self.keys: list[str] = []
        """What is there to be read: objects whose PUT returned."""

    def task(self, operation: str) -> Task:
        """The operation of that name."""
        tasks: dict[str, Task] = {PUT: self._put, GET: self._get, HEAD: self._head, LIST: self._list}
        return tasks[operation]

    async def _put(self, number: int) -> int:
        # Objects are written once, as those of runs are.
        self._written += 1
        key = self._traces.key(f"{self._folder}/{self._written:06d}")
        body, digest = self._bodies.make(self._size)
        try:
            await self._store.put(key, body, sha256=digest)
        except StoreError as error:
            self._traces.write_failed(key, error)
            raise
        self.keys.append(key)
        return self._size

    async def _get(self, number: int) -> int:
        got = 0
        async with self._store.open(self._pick(number)) as reader:
            async for chunk in reader:
                got += len(chunk)
        return got

    async def _head(self, number: int) -> int:
        await self._store.head(self._pick(number))
        return 0

    async def _list(self, number: int) -> int:
        async for _ in self._store.list(f"{self._traces.prefix}{self._folder}/"):
            pass
        return 0

    def _pick(self, number: int) -> str:
        return self.keys[number % len(self.keys)]


class PartWork:
    """The parts of one multipart upload to a key of its own."""

    def __init__(self, store: Store, bodies: Bodies, traces: Traces, name: str, *, part_size: int) -> None:
        self._store = store
        self._bodies = bodies
        self._traces = traces
        self._part_size = part_size
        self._key = traces.key(name)
        self._upload: UploadId | None = None
        self._receipts: list[PartReceipt] = []

    async def begin(self) -> None:
        """Create the upload."""
        self._upload = await self._store.create_upload(self._key, metadata={})
        self._traces.note_upload(self._upload, self._key)

    async def send(self, number: int) -> int:
        """Send one part; gives its size."""
        assert self._upload is not None, "an upload is begun before its parts are sent"
        body, digest = self._bodies.make(self._part_size)
        self._receipts.append(
            await self._store.upload_part(self._key, self._upload, number + 1, body, sha256=digest)
        )
        return self._part_size

    async def complete(self) -> None:
        """Make the object out of the parts that were sent; those that failed are not in it."""
        assert self._upload is not None, "an upload is begun before it is completed"
        parts = sorted(self._receipts, key=lambda receipt: receipt.number)
        await self._store.complete_upload(self._key, self._upload, parts)
        self._traces.forget_upload(self._upload)
