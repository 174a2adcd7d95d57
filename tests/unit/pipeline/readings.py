"""Reading real files through the reader, with nobody uploading."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.buffers import SpareBuffers
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.flow.stop import StopRequest
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.model import (
    Action,
    Change,
    Entry,
    Failure,
    Pending,
    RunId,
    SourceEntry,
    UploadReceipt,
    split_path,
)
from asyncbackup.pipeline.payload import PartPayload, Payload, WholePayload
from asyncbackup.pipeline.reader import Reader
from asyncbackup.pipeline.transfer_settings import TransferSettings

if TYPE_CHECKING:
    from asyncbackup.format.keyslots import RepositoryKey
    from asyncbackup.pipeline.results import Outcome
    from asyncbackup.resume import ResumableUpload

RUN = RunId("20261122T195000Z-3fa2")
MIB = 1024 * 1024


def transfer_settings(
    root: Path | bytes,
    *,
    part_size_bytes: int = 5 * MIB,
    memory_limit_bytes: int = 20 * MIB,
    concurrency: int = 4,
    key: RepositoryKey | None = None,
    resumable: Mapping[bytes, ResumableUpload] | None = None,
    prefix_bytes: int = 0,
) -> TransferSettings:
    return TransferSettings(
        root=os.fsencode(root),
        section="home",
        run=RUN,
        repository="0123456789abcdef0123456789abcdef",
        store_prefix_bytes=prefix_bytes,
        concurrency=concurrency,
        part_size_bytes=part_size_bytes,
        memory_limit_bytes=memory_limit_bytes,
        key=key,
        resumable=resumable or {},
    )


def see(root: Path | bytes, path: bytes) -> SourceEntry:
    """What the walker would tell of it right now."""
    status = os.lstat(os.path.join(os.fsencode(root), path) if path else os.fsencode(root))
    folder, name = split_path(path)
    return SourceEntry(
        folder,
        name,
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_dev,
        status.st_ino,
        status.st_blocks,
    )


def upload(seen: SourceEntry, *, action: Action = Action.UPLOAD, known: Entry | None = None) -> Change:
    pending = Pending.NEW if known is None else Pending.CHANGED
    return Change(entry=seen, action=action, pending=pending, known=known)


class Reading:
    """A reader, and what came out of it. Leases stay with the payloads until :meth:`release`."""

    def __init__(self, settings: TransferSettings, *, stop: StopRequest | None = None) -> None:
        self.settings = settings
        self.budget = ByteBudget(settings.memory_limit_bytes)
        self.stop = stop or StopRequest()
        self.gate = ThreadGate("read", 4)
        self.buffers = SpareBuffers(keep=4)
        self.reader = Reader(settings, self.budget, self.gate, self.stop, buffers=self.buffers)
        self.payloads: list[Payload] = []
        self.outcomes: list[Outcome] = []

    async def read(self, *changes: Change) -> Reading:
        """Read one batch to its end, giving bytes back as soon as they come."""
        await self.run([list(changes)])
        return self

    async def run(self, batches: Iterable[list[Change]], *, tasks: int = 1) -> None:
        changes_in: Sender[list[Change]]
        changes_in, changes = open_channel("changes", 100)
        payloads_in: Sender[Payload]
        payloads: Receiver[Payload]
        payloads_in, payloads = open_channel("payloads", 1)
        outcomes_in: Sender[Outcome]
        outcomes: Receiver[Outcome]
        outcomes_in, outcomes = open_channel("outcomes", 1000)
        with changes_in:
            await changes_in.send_all(batches)
        try:
            async with asyncio.TaskGroup() as group:
                with changes, payloads_in, outcomes_in:
                    for _ in range(tasks):
                        work = self.reader.run(changes.clone(), payloads_in.clone(), outcomes_in.clone())
                        group.create_task(work)
                async for payload in payloads:
                    self.payloads.append(payload)
                    await self.took(payload)
        finally:
            self.gate.close()
        self.outcomes += [outcome async for outcome in outcomes]

    async def took(self, payload: Payload) -> None:
        """Called with every payload before the next is taken."""
        if isinstance(payload, WholePayload | PartPayload):
            self.budget.release(payload.leased)

    @property
    def failures(self) -> dict[bytes, str]:
        return {o.path: o.reason for o in self.outcomes if isinstance(o, Failure)}

    @property
    def receipts(self) -> dict[bytes, UploadReceipt]:
        return {o.entry.path: o for o in self.outcomes if isinstance(o, UploadReceipt)}

    @property
    def wholes(self) -> dict[bytes, WholePayload]:
        return {p.entry.path: p for p in self.payloads if isinstance(p, WholePayload)}
