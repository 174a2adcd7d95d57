"""The reader: batches of changes in, payloads (and receipts that need no upload) out.

Small files of a batch are read together in one thread hop; a large file is
read part by part by the task that met it, while other tasks go on with other
batches. Bytes are taken from the budget before they are read.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from asyncbackup.errors import SourceError
from asyncbackup.flow.pace import Pace
from asyncbackup.format.hidden import hidden_head
from asyncbackup.model import (
    ZSTD,
    Action,
    Change,
    Entry,
    Extent,
    Failure,
    Kind,
    UploadReceipt,
    source_entry,
)
from asyncbackup.pipeline.compression import BLOCK_BYTES, SAMPLE_BYTES, sample_pays
from asyncbackup.pipeline.large_reader import LargeFile, open_large
from asyncbackup.pipeline.parts import MIB, LargestParts, PartPlan, plan_like, plan_parts
from asyncbackup.pipeline.payload import (
    AbandonUpload,
    LargeUpload,
    PackBatch,
    PackItem,
    PartPayload,
    Payload,
    UploadEnd,
    WholePayload,
)
from asyncbackup.pipeline.small_reader import SmallReader, SmallResults
from asyncbackup.pipeline.underway import Sharer, Underway

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncbackup.flow.budget import ByteBudget
    from asyncbackup.flow.buffers import SpareBuffers
    from asyncbackup.flow.channel import Receiver, Sender
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.pipeline.holdings import Holdings
    from asyncbackup.pipeline.results import Outcome, Unchanged
    from asyncbackup.pipeline.side_reader import SideReader
    from asyncbackup.pipeline.transfer_settings import TransferSettings
    from asyncbackup.resume import ResumableUpload

log = logging.getLogger(__name__)

READ_ATTEMPTS = 3
KEPT_CHANGING = "it kept changing while it was read"
BATCH_BYTES = 4 * 1024 * 1024
"""Bytes that one hop reads at most, a single larger file apart; a quarter of the budget if that is less."""
MEMBER_BYTES = 1536
"""What the headers of a pack's member are counted with."""


class Outlets(NamedTuple):
    """Where a reading task sends to, and whether it reads ``here``, in this process. ``batches`` leads to
    the packer, in a packed section."""

    payloads: Sender[Payload]
    outcomes: Sender[Outcome]
    batches: Sender[PackBatch] | None
    here: bool


class Reader:
    """Reads what changed. ``run`` is called by several tasks at once."""

    def __init__(
        self,
        settings: TransferSettings,
        budget: ByteBudget,
        gate: ThreadGate,
        stop: StopRequest,
        holdings: Holdings | None = None,
        side: SideReader | None = None,
        *,
        buffers: SpareBuffers,
        tasks: int = 1,
    ) -> None:
        """``buffers`` are for the blocks of large files, and forgotten whenever none is read."""
        self._settings = settings
        self._side = side
        self._holdings = holdings
        self._same_size: dict[int, asyncio.Lock] = {}
        """By the size of every large file so far: two of one size may be copies."""
        self._budget = budget
        self._gate = gate
        self._buffers = buffers
        self._reading_large = 0
        self._stop = stop
        self._small = SmallReader(settings.reading)
        self._pace = Pace(gate, tasks)
        batch_bytes = min(BATCH_BYTES, budget.limit_bytes // 4)
        if settings.packed:
            # A pack exceeds its size by the batches that are being made frames of at the most.
            batch_bytes = min(batch_bytes, settings.pack_size_bytes // 4)
        self._batch_bytes = max(1, batch_bytes)
        self._member_bytes = MEMBER_BYTES if settings.packed else 0
        self._parts = LargestParts.of(settings, budget.limit_bytes)
        self._whole_bytes = min(settings.part_size_bytes, self._parts.readable)
        if settings.zstd_level and not self._parts.compressible:
            log.info(
                "memory_limit has no room to compress files over %d MiB: they are stored as they are",
                self._whole_bytes // MIB,
            )
        self._compressing = asyncio.Semaphore(1)
        """Held while a file is read to be compressed: what waits for its part to be full holds bytes."""

    async def run(
        self,
        changes: Receiver[list[Change]],
        payloads: Sender[Payload],
        outcomes: Sender[Outcome],
        batches: Sender[PackBatch] | None = None,
        *,
        here: bool = False,
    ) -> None:
        """Work until the changes end; once a stop is requested, take changes and read nothing.

        What is for packs goes to ``batches``, in a packed section. With ``here`` nothing is read in
        another process: further names of a file find what was read of the first.
        """
        to = Outlets(payloads, outcomes, batches, here)
        with changes, payloads, outcomes, batches if batches is not None else nullcontext():
            async for batch in changes:
                small, large = self._sort(batch)
                for part, cost in small:
                    if not self._stop.requested:
                        await self._read_small(part, cost, to)
                for change in large:
                    if not self._stop.requested:
                        await self._read_large(change, to)

    def _sort(self, batch: list[Change]) -> tuple[list[tuple[list[Change], int]], list[Change]]:
        """Changes to be read together in one hop, with what that takes from the budget, and those
        read part by part."""
        together: list[tuple[list[Change], int]] = []
        large: list[Change] = []
        current: list[Change] = []
        size = 0
        for change in batch:
            cost = self._cost(change)
            if change.action is not Action.MOVED and cost > self._whole_bytes:
                large.append(change)
                continue
            if current and size + cost > self._batch_bytes:
                together.append((current, size))
                current, size = [], 0
            current.append(change)
            size += cost
        if current:
            together.append((current, size))
        return together, large

    async def _read_small(
        self, changes: list[Change], cost: int, to: Outlets, *, attempts: int = READ_ATTEMPTS
    ) -> None:
        # A file that grew since it was listed is not read past the size it was listed with, so
        # what is taken here is what is read at most.
        taken = await self._budget.acquire(cost)
        try:
            results = await self._results_of(changes, here=to.here)
        except BaseException:
            self._budget.release(taken)
            raise
        kept = sum(payload.leased for payload in results.payloads if isinstance(payload, WholePayload))
        kept += sum(item.whole.leased for item in results.items if item.whole is not None)
        batch = PackBatch(
            items=results.items,
            leased=sum(len(item.body) + MEMBER_BYTES for item in results.items if item.whole is None),
            number=results.number,
        )
        self._budget.release(taken - kept - batch.leased)
        await to.outcomes.send_all(results.outcomes)
        await to.payloads.send_all(results.payloads)
        if results.items:
            assert to.batches is not None, "only a packed section has items"
            await to.batches.send(batch)
        for change in results.grown:
            await self._read_resized(change, to, attempts=attempts - 1)

    async def _results_of(self, changes: list[Change], *, here: bool) -> SmallResults:
        """Read by the process beside this one, if there is one. Where the disk is so slow that several
        threads are worth it, it is one of those who read, and threads are the others."""
        if self._side is not None and not here and (self._pace.at_once == 1 or self._side.idle):
            read = await self._side.read(changes)
            if read is not None:
                results, waited_seconds = read
                self._pace.learn(len(changes), waited_seconds)
                return results
        return await self._pace.run(len(changes), self._small.read, changes)

    async def _read_resized(self, change: Change, to: Outlets, *, attempts: int) -> None:
        """Read a file that turned out to have another size than it was listed with."""
        if not attempts:
            await to.outcomes.send(Failure(path=change.entry.path, reason=KEPT_CHANGING))
        elif self._stop.requested:
            pass
        elif (cost := self._cost(change)) > self._whole_bytes:
            await self._read_large(change, to, attempts=attempts)
        else:
            await self._read_small([change], cost, to, attempts=attempts)

    async def _read_large(self, change: Change, to: Outlets, *, attempts: int = READ_ATTEMPTS) -> None:
        """Send a large file, unless the section is packed and holds its content already."""
        self._reading_large += 1
        try:
            resized = await self._share_or_send_large(change, to, attempts=attempts)
        finally:
            self._reading_large -= 1
            if not self._reading_large:
                self._buffers.forget()
        if resized is not None:
            change, attempts = resized
            await self._read_resized(change, to, attempts=attempts)

    async def _share_or_send_large(
        self, change: Change, to: Outlets, *, attempts: int
    ) -> tuple[Change, int] | None:
        """As :meth:`_send_large`."""
        if self._holdings is None:
            return await self._send_large(change, to, attempts=attempts)
        size = change.entry.size
        # A copy that is read beside its original could not know of it.
        async with self._same_size.setdefault(size, asyncio.Lock()):
            if await self._holdings.may_hold_size(size) and await self._share_large(change, to):
                return None
            return await self._send_large(change, to, attempts=attempts)

    async def _share_large(self, change: Change, to: Outlets) -> bool:
        """Read a large file for its digest; whether its content is held, so that nothing is to be sent."""
        assert self._holdings is not None
        try:
            entry = await self._digest_large(change)
        except SourceError:
            return False  # sending it will tell
        if entry is None or self._stop.requested:
            return self._stop.requested
        if change.known is not None and change.known.sha256 == entry.sha256 and change.known.extent:
            await to.outcomes.send(self._small.known_content(change, entry, bytes_read=entry.size))
            return True
        item = PackItem(entry=entry, pending=change.pending, bytes_read=entry.size)
        recent = self._holdings.recent(entry.sha256)
        if recent is not None:
            underway, index = recent
            outcome = underway.share(
                Sharer(entry=entry, pending=change.pending, bytes_read=entry.size, index=index)
            )
            if outcome is not None:
                await to.outcomes.send(outcome)
            return True
        found = await self._holdings.find([entry.sha256])
        if entry.sha256 not in found:
            return False
        item = msgspec.structs.replace(item, known=found[entry.sha256])
        assert to.batches is not None
        await to.batches.send(PackBatch(items=[item], leased=0))
        return True

    def _open(self, change: Change) -> AbstractAsyncContextManager[LargeFile]:
        return open_large(self._settings.root, change.entry, self._gate, self._buffers)

    async def _digest_large(self, change: Change) -> Entry | None:
        """A large file's entry with its digest; ``None`` where a stop was requested meanwhile."""
        async with self._open(change) as file:
            return await self._digest(file)

    async def _digest(self, file: LargeFile) -> Entry | None:
        async with aclosing(file.blocks(self._budget, self._whole_bytes)) as blocks:
            async for block in blocks:
                try:
                    await file.digest_block(block, alone=False)
                finally:
                    self._budget.release(len(block))
                    del block
                if self._stop.requested:
                    return None
        return await file.finish()

    async def _send_large(self, change: Change, to: Outlets, *, attempts: int) -> tuple[Change, int] | None:
        """Send a large file in parts. One that is small by now is given back, with the attempts left."""
        path = change.entry.path
        resumable = self._settings.resumable.get(path)
        reason = KEPT_CHANGING
        for attempt in range(attempts):
            try:
                if change.action is Action.RECHECK:
                    async with self._open(change) as file:
                        outcome = await self._recheck(change, file)
                    if outcome is not None:
                        await to.outcomes.send(outcome)
                        return None
                if self._stop.requested:
                    return None
                async with self._open(change) as file:
                    entry = change.entry
                    fresher = source_entry(entry.folder, entry.name, file.status)
                    seen = msgspec.structs.replace(change, entry=fresher)
                    # As it was sorted: a file that is large by the header that it might get stays so.
                    shrunk = self._cost(seen) <= self._whole_bytes
                    if not shrunk and await self._send_parts(change, file, resumable, to.payloads):
                        return None
                if shrunk:
                    return seen, attempts - attempt - 1
            except SourceError as error:
                reason = error.reason
            resumable = None  # what was sent before belongs to another version of the file
            if self._stop.requested:
                return None
        await to.outcomes.send(Failure(path=path, reason=reason))
        return None

    async def _recheck(self, change: Change, file: LargeFile) -> UploadReceipt | Unchanged | None:
        """Read without uploading: what to report if the content is the known one, else ``None``."""
        known = change.known
        if known is None or not known.sha256 or known.extent is None or file.entry.size != known.size:
            return None
        entry = await self._digest(file)
        if entry is None or entry.sha256 != known.sha256:
            return None
        return self._small.known_content(change, entry, bytes_read=entry.size)

    async def _send_parts(
        self,
        change: Change,
        file: LargeFile,
        resumable: ResumableUpload | None,
        payloads: Sender[Payload],
    ) -> bool:
        """Read the file once and send it on in parts.

        ``False`` where what an earlier run uploaded turned out to differ from
        the file. Raises ``SourceError``; the upload is then given up. Once the
        uploader has given it up, nothing more is read.
        """
        if resumable is not None and (
            self._settings.sealed
            or resumable.part_size > self._parts.readable
            or not _same_file(resumable, file.entry)
        ):
            resumable = None
        upload, read_size = await self._begin(change, file, resumable)
        async with self._compressing if upload.compression else nullcontext():
            return await self._send_blocks(file, upload, read_size, payloads)

    async def _send_blocks(
        self, file: LargeFile, upload: LargeUpload, read_size: int, payloads: Sender[Payload]
    ) -> bool:
        resumable = upload.resumed
        sent = {part.number: part.sha256 for part in resumable.parts} if resumable else {}
        number = 0
        try:
            async with aclosing(file.blocks(self._budget, read_size)) as blocks:
                async for block in blocks:
                    number += 1
                    alone = number in sent or upload.goes_on
                    sha256 = await file.digest_block(block, alone=alone)
                    if number == 1 and upload.head:
                        part = PartPayload(
                            upload=upload,
                            number=number,
                            body=upload.head + block,
                            sha256=sha256,
                            leased=len(block),
                        )
                        await payloads.send(part)
                        del part
                    elif number in sent:
                        self._budget.release(len(block))
                        if sent[number] != sha256:
                            await payloads.send(AbandonUpload(upload=upload))
                            return False
                    else:
                        part = PartPayload(
                            upload=upload, number=number, body=block, sha256=sha256, leased=len(block)
                        )
                        await payloads.send(part)
                        del part
                    # While this waits for the next block it must not hold on to this one.
                    del block
                    if upload.abandoned:
                        await payloads.send(AbandonUpload(upload=upload))
                        return True
                    if self._stop.requested and number * read_size < file.entry.size:
                        # The journal keeps what was sent; the next run goes on from there.
                        return True
            entry = await file.finish()
            if self._holdings is not None:
                upload.underway = Underway()
                self._holdings.expect(entry.sha256, upload.underway)
        except SourceError:
            refused = upload.abandoned
            await payloads.send(AbandonUpload(upload=upload))
            if refused:
                return True
            raise
        await payloads.send(UploadEnd(upload=upload, entry=entry, part_count=number, bytes_read=entry.size))
        return True

    def _cost(self, change: Change) -> int:
        """The bytes that reading a change takes from the budget."""
        return change.content_bytes + self._member_bytes

    async def _begin(
        self, change: Change, file: LargeFile, resumable: ResumableUpload | None
    ) -> tuple[LargeUpload, int]:
        """A new upload of the file, or one that is gone on with, and how many bytes to read at once."""
        settings, entry = self._settings, file.entry
        earlier = None
        compression = ""
        if resumable is not None:
            plan = PartPlan(part_size=resumable.part_size, read_size=resumable.part_size)
            earlier = self._earlier(change, plan)
        else:
            plan = self._plan(entry)
            if plan.part_size <= self._parts.compressible and await self._compression_pays(file):
                compression = ZSTD
                plan = msgspec.structs.replace(plan, read_size=min(BLOCK_BYTES, plan.read_size))
            elif (like := self._plan_like(change, entry.size)) is not None:
                plan = like
                earlier = self._earlier(change, plan)
        upload = LargeUpload(
            entry=entry,
            pending=change.pending,
            run=resumable.run if resumable else settings.run,
            key=resumable.key if resumable else settings.content_key(entry.path, Kind.FILE),
            part_size=plan.part_size,
            stored_size=0 if compression or settings.hidden else settings.stored_size(entry),
            sealed=settings.sealed,
            resumed=resumable,
            earlier=earlier,
            compression=compression,
            head=b"" if settings.hidden is None else hidden_head(entry),
        )
        return upload, plan.read_size

    async def _compression_pays(self, file: LargeFile) -> bool:
        samples = await file.samples(SAMPLE_BYTES)
        return await self._gate.run(sample_pays, samples)

    def _earlier(self, change: Change, plan: PartPlan) -> Extent | None:
        """Where the content was stored before it changed, if parts of that can be parts of the new object."""
        known, settings = change.known, self._settings
        if known is None or known.extent is None or settings.sealed or known.size < settings.delta_from_bytes:
            return None
        extent = known.extent
        plain = not (extent.encrypted or extent.compression or extent.in_pack or extent.skip)
        return extent if plain and extent.part_size == plan.part_size else None

    def _plan_like(self, change: Change, size: int) -> PartPlan | None:
        """The plan that has the parts of the earlier object."""
        known = change.known
        if known is None or known.extent is None or not known.extent.part_size:
            return None
        plan = plan_like(known.extent.part_size, size, limit_bytes=self._parts.readable)
        return plan if plan is not None and self._earlier(change, plan) is not None else None

    def _plan(self, entry: Entry) -> PartPlan:
        return plan_parts(
            entry.size,
            sealed=self._settings.sealed,
            part_size_bytes=self._settings.part_size_bytes,
            limit_bytes=self._parts.readable,
            path=entry.path,
        )


def _same_file(upload: ResumableUpload, entry: Entry) -> bool:
    return (upload.size, upload.mtime_ns, upload.ctime_ns) == (entry.size, entry.mtime_ns, entry.ctime_ns)
