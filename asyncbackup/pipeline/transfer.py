"""The transfer: reader → encryptor → uploader, joined by channels.

Takes batches of changes and gives outcomes; knows neither walker nor catalog,
so that the same three stages can run elsewhere than the rest.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.pipeline.encryptor import Encryptor
from asyncbackup.pipeline.reader import Reader
from asyncbackup.pipeline.uploader import Uploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import Change, RunCounters
    from asyncbackup.pipeline.payload import Payload
    from asyncbackup.pipeline.results import Outcome
    from asyncbackup.pipeline.transfer_settings import TransferSettings
    from asyncbackup.resume import UploadJournal
    from asyncbackup.store.base import Store

READER_TASKS = 4
ENCRYPTOR_TASKS = 2
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
    ) -> None:
        self.budget = ByteBudget(settings.memory_limit_bytes)
        self._ready: Receiver[Payload] | None = None
        self._settings = settings
        self._gate = ThreadGate("transfer", READER_TASKS + (ENCRYPTOR_TASKS if settings.sealed else 0))
        self._reader = Reader(settings, self.budget, self._gate, stop)
        self._encryptor = Encryptor(settings, settings.key, self._gate) if settings.key else None
        self._uploader = Uploader(settings, store, self.budget, journal, counters, stop)

    @property
    def hops(self) -> int:
        """Calls made in threads so far."""
        return self._gate.hops

    @property
    def payloads_waiting(self) -> int:
        """Bodies that are ready and wait for a request slot."""
        return len(self._ready) if self._ready is not None else 0

    async def run(self, changes: Receiver[list[Change]], outcomes: Sender[Outcome]) -> None:
        """Work until the changes end and all that they led to is stored.

        Raises an ``ExceptionGroup`` of what went wrong in the stages.
        """
        capacity = self._settings.concurrency * PAYLOADS_PER_REQUEST
        into_reader: Sender[Payload]
        into_reader, read = open_channel("payloads", capacity)
        ready = read
        async with asyncio.TaskGroup() as group:
            # The ends given out are clones; ours close at once, so that a channel ends with its tasks.
            with changes, outcomes, into_reader:
                for _ in range(READER_TASKS):
                    task = self._reader.run(changes.clone(), into_reader.clone(), outcomes.clone())
                    group.create_task(task)
                if self._encryptor is not None:
                    into_encryptor: Sender[Payload]
                    into_encryptor, ready = open_channel("sealed", capacity)
                    with read, into_encryptor:
                        for _ in range(ENCRYPTOR_TASKS):
                            group.create_task(self._encryptor.run(read.clone(), into_encryptor.clone()))
                self._ready = ready
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
) -> AsyncIterator[Transfer]:
    """A transfer that is cleaned up however the block ends."""
    transfer = Transfer(settings, store, journal, counters, stop)
    try:
        yield transfer
    finally:
        await transfer.aclose()
