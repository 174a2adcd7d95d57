"""The recorder: outcomes in, catalog rows and figures out. The only stage that writes entries.

What arrives while one transaction is written makes the next, and where that is little, what comes
within a moment too: so a killed run loses the receipts of one transaction and of a full channel at
most, and a fast endpoint does not make a transaction of every few receipts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from asyncbackup.flow.channel import EndOfChannel, Receiver
from asyncbackup.model import Content, Entry, Failure, Kind, Pack, Pending, RunCounters, UploadReceipt
from asyncbackup.pipeline.results import Buried, Outcome, PackStored, Revived, Unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BATCH_OUTCOMES = 64
"""A transaction is begun for so many at the most, or after ``GATHER_SECONDS`` for fewer."""
GATHER_SECONDS = 0.01
CONTENTS_AT_ONCE = 16_384
"""Contents are noted so many at a time, in the order of their digests: each page of their table is then
written a fraction as often. Until then they are found among the recent ones (``Holdings``)."""
KEPT_FAILURES = 10_000
"""Failures beyond are counted but not kept, so that a tree full of them stays in bounds."""


class EntrySink(Protocol):
    """What the recorder asks of the catalog's entries."""

    async def save(self, entries: Iterable[tuple[Entry, Pending]]) -> None: ...

    async def bury(self, paths: Iterable[tuple[bytes, bool]]) -> int: ...

    async def revive(self, paths: Iterable[bytes]) -> None: ...


class ContentSink(Protocol):
    """What the recorder asks of the catalog's contents."""

    async def save(self, packs: Iterable[Pack], contents: Iterable[Content]) -> None: ...


class Recorder:
    """Collects the figures of a run. ``failures`` holds what was not saved, in the order met.

    ``contents`` is given where what ``run`` stores is to be found again by its digest. A transaction
    is begun for ``gather`` receipts, at most ``BATCH_OUTCOMES``, or a moment after the first: where few
    requests are under way, few receipts shall be lost with a killed run.
    """

    def __init__(
        self,
        entries: EntrySink,
        counters: RunCounters,
        *,
        contents: ContentSink | None = None,
        run: str = "",
        gather: int = BATCH_OUTCOMES,
    ) -> None:
        self.failures: list[Failure] = []
        self._entries = entries
        self._contents = contents
        self._run = run
        self._gather = max(1, min(gather, BATCH_OUTCOMES))
        self._unnoted: list[Content] = []
        self._counters = counters

    async def run(self, outcomes: Receiver[Outcome]) -> None:
        """Work until the outcomes end."""
        with outcomes:
            while True:
                try:
                    batch = await outcomes.receive_batch(
                        BATCH_OUTCOMES, at_least=self._gather, within_seconds=GATHER_SECONDS
                    )
                except EndOfChannel:
                    await self._note_contents()
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
        packs = [item for item in batch if isinstance(item, PackStored)]
        rows = [item for item in batch if isinstance(item, UploadReceipt | Unchanged)]
        for pack in packs:
            rows += pack.receipts
        if self._contents is not None:
            # Packs before the entries that lie in them: a manifest has to describe every one.
            await self._contents.save([pack.pack for pack in packs], ())
            self._unnoted += (
                Content(entry.sha256, entry.size, entry.extent)
                for entry in (row.entry for row in rows)
                if entry.size and entry.sha256 and entry.extent and entry.extent.run == self._run
            )
            if len(self._unnoted) >= CONTENTS_AT_ONCE:
                await self._note_contents()
        if rows:
            await self._entries.save((row.entry, row.pending) for row in rows)
        for item in batch:
            self._count(item)
        for pack in packs:
            for receipt in pack.receipts:
                self._count(receipt)

    async def _note_contents(self) -> None:
        if self._contents is not None and self._unnoted:
            unnoted, self._unnoted = self._unnoted, []
            await self._contents.save((), unnoted)

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
