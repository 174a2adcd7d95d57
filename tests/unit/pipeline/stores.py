"""A store and a journal in memory that tell what was asked in which order, wait when told to, and fail when
told to. Only for what no real server can show; everything else is tested on real ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from asyncbackup.flow.load import RequestLoad
from asyncbackup.flow.window import Window
from asyncbackup.store.base import Body, Capabilities, PartReceipt, PutResult, UploadId
from asyncbackup.store.body import body_size, pieces_of

if TYPE_CHECKING:
    from asyncbackup.model import RequestCounts
    from asyncbackup.resume import PartHashes, PartRecord, ResumableUpload


class MemoryStore:
    """``log`` has the operations in the order in which they ended, with the last segment of their key.

    An operation named in ``held`` waits until its event is set; one named in ``faults`` fails with the
    next planned error. Every planned error has to be used: ask :meth:`all_used`.
    """

    url = "memory://"

    def __init__(self, *, copies: bool = True) -> None:
        self.capabilities = Capabilities(server_side_copy=copies)
        self.requests: RequestCounts = Counter()
        self.load = RequestLoad(Window(64))
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.uploads: dict[UploadId, dict[int, bytes]] = {}
        self.log: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self.faults: dict[str, list[Exception]] = {}
        self.under_way = 0
        self.most_under_way = 0

    def all_used(self) -> bool:
        return not any(self.faults.values())

    async def put(
        self, key: str, body: Body, *, sha256: bytes, metadata: Mapping[str, str] | None = None
    ) -> PutResult:
        await self._operate("put", key)
        self.objects[key] = _bytes(body)
        self.metadata[key] = dict(metadata or {})
        return PutResult()

    async def copy(self, source: str, key: str, *, metadata: Mapping[str, str]) -> PutResult:
        await self._operate("copy", key)
        self.objects[key] = self.objects[source]
        self.metadata[key] = dict(metadata)
        return PutResult()

    async def create_upload(self, key: str, *, metadata: Mapping[str, str]) -> UploadId:
        await self._operate("create", key)
        upload_id = UploadId(f"u{self.requests['create']}")
        self.uploads[upload_id] = {}
        self.metadata[key] = dict(metadata)
        return upload_id

    async def upload_part(
        self, key: str, upload_id: UploadId, number: int, body: Body, *, sha256: bytes
    ) -> PartReceipt:
        await self._operate("part", f"{key}/{number}")
        self.uploads[upload_id][number] = _bytes(body)
        return PartReceipt(number=number, size=body_size(body), etag=f"e{number}")

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartReceipt]) -> PutResult:
        await self._operate("complete", key)
        held = self.uploads.pop(upload_id)
        assert [part.number for part in parts] == sorted(held), "not the parts that were sent"
        self.objects[key] = b"".join(held[part.number] for part in parts)
        return PutResult()

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        await self._operate("abort", key)
        self.uploads.pop(upload_id, None)

    async def _operate(self, operation: str, key: str) -> None:
        self.requests[operation] += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if operation in self.held:
                await self.held[operation].wait()
            if self.faults.get(operation):
                raise self.faults[operation].pop(0)
        finally:
            self.under_way -= 1
        self.log.append(f"{operation} {key.rpartition('/')[2]}")


class MemoryJournal:
    """Writes into the log of a store, so that the order among them shows."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.records: dict[str, ResumableUpload] = {}
        self.parts: dict[str, list[PartRecord]] = {}
        self.made: dict[tuple[str, str], PartHashes] = {}

    async def begun(self, upload: ResumableUpload) -> None:
        self.store.log.append(f"begun {upload.upload_id}")
        self.records[upload.upload_id] = upload

    async def part_sent(self, upload_id: str, part: PartRecord) -> None:
        assert upload_id in self.records
        self.store.log.append(f"sent {part.number}")
        self.parts.setdefault(upload_id, []).append(part)

    async def ended(self, upload_id: str, *, made: PartHashes | None = None) -> None:
        if made is not None:
            self.made[made.run, made.key] = made
        self.store.log.append(f"ended {upload_id}")
        self.records.pop(upload_id, None)
        self.parts.pop(upload_id, None)

    async def parts_of(self, run: str, key: str) -> PartHashes | None:
        return self.made.get((run, key))


def _bytes(body: Body) -> bytes:
    return b"".join(bytes(piece) for piece in pieces_of(body, 2**30))
