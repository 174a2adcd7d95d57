"""The transfer: reader → compressor → encryptor → uploader, joined by channels.

Takes batches of changes and gives outcomes; knows neither walker nor catalog,
so that the same stages can run elsewhere than the rest.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.buffers import SpareBuffers
from asyncbackup.flow.channel import ChannelWatches, Receiver, Sender, open_channel
from asyncbackup.flow.stopwatch import Stopwatch
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.pipeline.compressor import Compressor
from asyncbackup.pipeline.encryptor import Encryptor
from asyncbackup.pipeline.holdings import Holdings, KnownContents
from asyncbackup.pipeline.packer import Packer
from asyncbackup.pipeline.reader import Reader
from asyncbackup.pipeline.side_reader import SideReader, open_side_reader
from asyncbackup.pipeline.uploader import Uploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import Change, RunCounters
    from asyncbackup.pipeline.payload import PackBatch, Payload
    from asyncbackup.pipeline.results import Outcome
    from asyncbackup.pipeline.transfer_settings import TransferSettings
    from asyncbackup.resume import UploadJournal
    from asyncbackup.store.base import Store

COMPUTING = ("packer", "compressor", "encryptor")
"""The stages that compute, each where the section needs it."""
READER_TASKS = 4
COMPRESSOR_TASKS = 2
ENCRYPTOR_TASKS = 2
PACK_BATCHES = 1
"""Batches that wait for the packer, beside those that the readers hold."""
PAYLOADS_PER_REQUEST = 2
"""Payloads that wait for the uploader, for each request that may be under way: enough that no
request slot waits for the reader, few enough that the budget is not all in the queue."""


class Transfer:
    """One transfer; ``budget`` tells what was in flight. Use :func:`open_transfer`."""

    def __init__(
        self,
        settings: TransferSettings,
        store: Store,
        journal: UploadJournal,
        counters: RunCounters,
        stop: StopRequest,
        contents: KnownContents | None = None,
        side: SideReader | None = None,
    ) -> None:
        self.budget = ByteBudget(settings.memory_limit_bytes)
        holdings = Holdings(contents, encrypted=settings.sealed) if contents and settings.packed else None
        self.bodies_waiting = Stopwatch()
        """Runs while bodies are ready and wait for a request."""
        self.stages = {stage: ChannelWatches() for stage in COMPUTING}
        """How long something waited for each stage that computes, and how long it had work."""
        self._settings = settings
        compressing = COMPRESSOR_TASKS if settings.zstd_level else 0
        sealing = ENCRYPTOR_TASKS if settings.sealed else 0
        # As many large buffers as the budget has room for, and those that are just being sealed into.
        parts = max(1, settings.memory_limit_bytes // settings.part_size_bytes) + sealing
        buffers = SpareBuffers(keep=parts)
        threads = READER_TASKS + bool(holdings) + compressing + sealing
        self._gate = ThreadGate("transfer", threads)
        self._reader = Reader(
            settings, self.budget, self._gate, stop, holdings, side, buffers=buffers, tasks=READER_TASKS
        )
        self._packer = (
            Packer(settings, holdings, self.budget, self._gate, stop, side.packer if side else None)
            if holdings
            else None
        )
        self._compressor = (
            Compressor(settings.zstd_level, self.budget, self._gate) if settings.zstd_level else None
        )
        self._encryptor = Encryptor(settings, settings.key, self._gate, buffers) if settings.key else None
        self._uploader = Uploader(settings, store, self.budget, journal, counters, stop)

    @property
    def hops(self) -> int:
        """Calls made in threads so far."""
        return self._gate.hops

    @property
    def sending(self) -> Stopwatch:
        """Runs while something is being sent, or waits for the recorder to take its receipt."""
        return self._uploader.sending

    async def run(
        self, changes: Receiver[list[Change]], outcomes: Sender[Outcome], *, in_order: bool = False
    ) -> None:
        """Work until the changes end and all that they led to is stored.

        With ``in_order`` they are read one batch after another, so that further names of a file find
        what was read of the first. Raises an ``ExceptionGroup`` of what went wrong in the stages.
        """
        capacity = self._settings.concurrency * PAYLOADS_PER_REQUEST
        into_reader: Sender[Payload]
        consumers = [ChannelWatches(self.bodies_waiting)]
        if self._encryptor is not None:
            consumers.append(self.stages["encryptor"])
        if self._compressor is not None:
            consumers.append(self.stages["compressor"])
        into_reader, ready = open_channel("payloads", capacity, watches=consumers.pop())
        async with asyncio.TaskGroup() as group:
            # The ends given out are clones; ours close at once, so that a channel ends with its tasks.
            with changes, outcomes, into_reader:
                into_packer: Sender[PackBatch] | None = None
                if self._packer is not None:
                    into_packer, batches = open_channel(
                        "for packs", PACK_BATCHES, watches=self.stages["packer"]
                    )
                    task = self._packer.run(batches, into_reader.clone(), outcomes.clone())
                    group.create_task(task)
                with into_packer if into_packer is not None else nullcontext():
                    for _ in range(1 if in_order else READER_TASKS):
                        task = self._reader.run(
                            changes.clone(),
                            into_reader.clone(),
                            outcomes.clone(),
                            into_packer.clone() if into_packer is not None else None,
                            here=in_order,
                        )
                        group.create_task(task)
                if self._compressor is not None:
                    into_compressor: Sender[Payload]
                    into_compressor, compressed = open_channel(
                        "compressed", capacity, watches=consumers.pop()
                    )
                    with ready, into_compressor:
                        for _ in range(COMPRESSOR_TASKS):
                            group.create_task(self._compressor.run(ready.clone(), into_compressor.clone()))
                    ready = compressed
                if self._encryptor is not None:
                    into_encryptor: Sender[Payload]
                    into_encryptor, sealed = open_channel("sealed", capacity, watches=consumers.pop())
                    with ready, into_encryptor:
                        for _ in range(ENCRYPTOR_TASKS):
                            group.create_task(self._encryptor.run(ready.clone(), into_encryptor.clone()))
                    ready = sealed
                with ready:
                    for _ in range(self._settings.concurrency):
                        group.create_task(self._uploader.run(ready.clone(), outcomes.clone()))

    async def aclose(self) -> None:
        """Abort what nobody can go on with, end the threads."""
        try:
            await self._uploader.aclose()
        finally:
            self._gate.close(wait=False)


@asynccontextmanager
async def open_transfer(
    settings: TransferSettings,
    store: Store,
    journal: UploadJournal,
    counters: RunCounters,
    stop: StopRequest,
    contents: KnownContents | None = None,
    reading: SideProcess | None = None,
) -> AsyncIterator[Transfer]:
    """A transfer that is cleaned up however the block ends. A packed section needs its ``contents``.

    ``reading`` is the process that reads small files, where there is one.
    """
    async with open_side_reader(reading, settings.reading) as side:
        transfer = Transfer(settings, store, journal, counters, stop, contents, side)
        try:
            yield transfer
        finally:
            await transfer.aclose()
