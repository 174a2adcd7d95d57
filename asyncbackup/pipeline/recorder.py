"""The recorder: outcomes in, catalog rows and figures out. The only stage that writes entries.

Rows are saved as they come: what arrives while one transaction is written makes
the next, so a killed run loses the receipts of one transaction at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from asyncbackup.flow.channel import EndOfChannel, Receiver
from asyncbackup.model import Entry, Failure, Kind, Pending, RunCounters, UploadReceipt
from asyncbackup.pipeline.results import Buried, Outcome, Revived, Unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BATCH_OUTCOMES = 2000
KEPT_FAILURES = 10_000
"""Failures beyond are counted but not kept, so that a tree full of them stays in bounds."""


class EntrySink(Protocol):
    """What the recorder asks of the catalog's entries."""

    async def save(self, entries: Iterable[tuple[Entry, Pending]]) -> None: ...

    async def bury(self, paths: Iterable[tuple[bytes, bool]]) -> int: ...

    async def revive(self, paths: Iterable[bytes]) -> None: ...


class Recorder:
    """Collects the figures of a run. ``failures`` holds what was not saved, in the order met."""

    def __init__(self, entries: EntrySink, counters: RunCounters) -> None:
        self.failures: list[Failure] = []
        self._entries = entries
        self._counters = counters

    async def run(self, outcomes: Receiver[Outcome]) -> None:
        """Work until the outcomes end."""
        with outcomes:
            while True:
                try:
                    batch = await outcomes.receive_some(BATCH_OUTCOMES)
                except EndOfChannel:
                    return
                await self._record(batch)

    async def _record(self, batch: Sequence[Outcome]) -> None:
        # A folder that became a file is buried before the file's receipt comes; within one batch too.
        buried = [(item.path, item.subtree) for item in batch if isinstance(item, Buried)]
        if buried:
            self._counters.files_deleted += await self._entries.bury(buried)
        revived = [item.path for item in batch if isinstance(item, Revived)]
        if revived:
            await self._entries.revive(revived)
        rows = [item for item in batch if isinstance(item, UploadReceipt | Unchanged)]
        if rows:
            await self._entries.save((row.entry, row.pending) for row in rows)
        for item in batch:
            self._count(item)

    def _count(self, item: Outcome) -> None:
        counters = self._counters
        match item:
            case UploadReceipt() | Unchanged():
                counters.bytes_read += item.bytes_read
                if item.entry.kind is Kind.FILE:
                    match item.pending:
                        case Pending.NEW:
                            counters.files_new += 1
                        case Pending.CHANGED:
                            counters.files_changed += 1
                        case _:
                            counters.files_unchanged += 1
            case Failure():
                if item.kind is Kind.FILE:
                    counters.files_failed += 1
                if len(self.failures) < KEPT_FAILURES:
                    self.failures.append(item)
            case _:
                pass
