"""From rows to files: workers download, writers put small files in place a batch a thread hop.

    jobs ───▶ workers (one request each) ──batches──▶ writers (threads) ──▶ tally
                  ├── large files: streamed by the worker itself ─────────────▲
                  └── spans of packs: one request, one hop ───────────────────┘

A worker takes bytes of the budget before it downloads; the writer gives them
back. Writers wait for nobody but threads, so the two channels cannot deadlock;
and no batch waits for files that wait for its bytes (``batches.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.flow.groups import single_error
from asyncbackup.restore.batches import Batches
from asyncbackup.restore.builder import Builder, FetchedFile, Written
from asyncbackup.restore.content import Content, content_of
from asyncbackup.restore.outcome import ContentError, Outcome, failed
from asyncbackup.restore.side_writer import SLOT_BYTES, WriteRow
from asyncbackup.restore.spans import SPAN_ROWS_MOST, Job, Span

if TYPE_CHECKING:
    from asyncbackup.catalog.selection import SelectedEntry
    from asyncbackup.flow.pace import Pace
    from asyncbackup.flow.shared_slots import Slot
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.restore.fetcher import Fetcher
    from asyncbackup.restore.large import LargeFiles
    from asyncbackup.restore.packed import PackedFiles
    from asyncbackup.restore.side_writer import SideWriter
    from asyncbackup.restore.tally import Tally
    from asyncbackup.store.base import Buffer

BATCHES_WAITING = 2
SMALL_LIMIT_BYTES = 1024 * 1024
"""Larger files are streamed: their content is never whole in memory."""
SPAN_ROWS_AT_ONCE = 2 * SPAN_ROWS_MOST
"""Rows of spans that wait or are under way: about 1 KB each."""


class Transfer:
    """Downloads and writes files. ``small_limit_bytes`` bounds what is held whole."""

    def __init__(
        self,
        builder: Builder,
        fetcher: Fetcher,
        large: LargeFiles,
        packed: PackedFiles,
        pace: Pace,
        budget: ByteBudget,
        tally: Tally,
        stop: StopRequest,
        side: SideWriter | None = None,
        *,
        section: str,
        workers: int,
    ) -> None:
        self._side = side
        self.small_limit_bytes = min(SMALL_LIMIT_BYTES, budget.limit_bytes // 4)
        self._builder = builder
        self._fetcher = fetcher
        self._large = large
        self._packed = packed
        self._pace = pace
        self._budget = budget
        self._tally = tally
        self._stop = stop
        self._section = section
        self._workers = workers

    async def run(self, pages: AsyncIterator[Sequence[Job]]) -> None:
        """Restore the files of all jobs; begins nothing new once a stop is requested.

        Raises the first error that ends a restore.
        """
        fetched_in: Sender[list[FetchedFile]]
        fetched_in, fetched_out = open_channel("batches to write", BATCHES_WAITING)
        with single_error():
            async with asyncio.TaskGroup() as group:
                downloads = group.create_task(self._download_all(pages, fetched_in))
                with fetched_out:
                    for _ in range(self._pace.threads):
                        group.create_task(self._write(fetched_out.clone()))
            if (failure := downloads.result()) is not None:
                raise failure

    async def _download_all(
        self, pages: AsyncIterator[Sequence[Job]], fetched: Sender[list[FetchedFile]]
    ) -> BaseExceptionGroup[BaseException] | None:
        """What the downloads failed of, to be raised once all files that came are written: whoever
        goes on need not ask for them again."""
        failure: BaseExceptionGroup[BaseException] | None = None
        jobs_in: Sender[Job]
        jobs_in, jobs_out = open_channel("files to fetch", 2 * self._workers)
        rows = ByteBudget(SPAN_ROWS_AT_ONCE)
        batches = Batches(fetched, self._budget)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed(pages, jobs_in, rows))
                with jobs_out:
                    for _ in range(self._workers):
                        group.create_task(self._work(jobs_out.clone(), batches, rows))
        except BaseExceptionGroup as error:
            failure = error
        await batches.send()
        fetched.close()
        return failure

    async def _feed(self, pages: AsyncIterator[Sequence[Job]], jobs: Sender[Job], rows: ByteBudget) -> None:
        with jobs:
            async for page in pages:
                for job in page:
                    if self._stop.requested:
                        return
                    if isinstance(job, Span):
                        await rows.acquire(len(job.members))
                    await jobs.send(job)

    async def _work(self, jobs: Receiver[Job], batches: Batches, rows: ByteBudget) -> None:
        with jobs:
            async for job in jobs:
                if isinstance(job, Span):
                    if not self._stop.requested:
                        await batches.send()
                        self._tally.counters.current_path = job.members[0].row.entry.path
                        await self._tally.add(await self._packed.restore(job))
                    rows.release(len(job.members))
                elif not self._stop.requested:  # all are taken out, so that nobody waits for room
                    await self._restore(job, batches)

    async def _restore(self, row: SelectedEntry, batches: Batches) -> None:
        self._tally.counters.current_path = row.entry.path
        try:
            content = content_of(row.entry, self._section, can_open=self._fetcher.can_open)
            if content.in_pack or max(content.length, content.size) > self.small_limit_bytes:
                await batches.send()
                await self._tally.add([await self._large.restore(row, content)])
            else:
                await self._fetch(row, content, batches)
        except ContentError as error:
            await self._tally.add([failed(row, error.reason)])

    async def _fetch(self, row: SelectedEntry, content: Content, batches: Batches) -> None:
        leased = await batches.lease(content.length)
        try:
            file = await self._download(row, content)
        except BaseException:
            self._budget.release(leased)
            raise
        await batches.add(file)

    async def _download(self, row: SelectedEntry, content: Content) -> FetchedFile:
        source = await self._fetcher.source(content)
        stored = await self._fetcher.all_of(source)
        return FetchedFile(row, content, stored, source.opening)

    async def _write(self, fetched: Receiver[list[FetchedFile]]) -> None:
        with fetched:
            async for files in fetched:
                try:
                    await self._tally.add(await self._write_batch(files))
                finally:
                    self._budget.release(sum(file.content.length for file in files))

    async def _write_batch(self, files: Sequence[FetchedFile]) -> list[Outcome]:
        written = await self._written(files)
        outcomes = written.outcomes
        if written.damaged:
            contents = {file.row.id: file.content for file in files}
            for row, _ in written.damaged:
                outcomes.append(await self._once_more(row, contents[row.id]))
        return outcomes

    async def _written(self, files: Sequence[FetchedFile]) -> Written:
        """What writing files led to: in the process beside this one, if there is one. Where the disk is so
        slow that several threads are worth it, it is one of those who write, and threads are the others."""
        side = self._side
        if side is not None and (self._pace.at_once == 1 or side.idle):
            if not all(file.content.as_stored for file in files):
                if (written := await self._opened_and_written(files, side)) is not None:
                    return written
            elif (slot := side.take(sum(file.content.length for file in files))) is not None:
                told = await side.write(_put(files, slot))
                if told is not None:
                    written, waited_seconds = told
                    self._pace.learn(len(files), waited_seconds)
                    return written
        return await self._pace.run(len(files), self._builder.write_files, files)

    async def _opened_and_written(self, files: Sequence[FetchedFile], side: SideWriter) -> Written | None:
        """What writing led to of files that a thread opens, expands and checks before; ``None`` where they
        have no room together in the memory that both processes see."""
        if sum(file.content.size for file in files) > SLOT_BYTES:
            return None
        async with side.room() as slot:
            if slot is None:
                return None
            opened = Written()
            rows = await self._pace.compute(_put_opened, files, slot, opened)
            if rows and (told := await side.write(rows)) is not None:
                written, waited_seconds = told
                self._pace.learn(len(rows), waited_seconds)
                opened.add(written)
            elif rows:
                # They cannot be opened again (``FetchedFile.pieces``), but lie in the memory.
                await self._pace.run(len(rows), _write_here, self._builder, rows, slot, opened)
            del slot
        return opened

    async def _once_more(self, row: SelectedEntry, content: Content) -> Outcome:
        """Download a file again that came damaged: a bit may have flipped on the way. Its bytes
        of the budget are still taken."""
        try:
            file = await self._download(row, content)
        except ContentError as error:
            return failed(row, error.reason)
        written = await self._pace.run(1, self._builder.write_files, [file])
        if written.damaged:
            return failed(row, written.damaged[0][1].reason)
        return written.outcomes[0]


def _put(files: Sequence[FetchedFile], slot: Slot) -> list[WriteRow]:
    """Files whose contents lie in the slot now, one behind the other."""
    rows: list[WriteRow] = []
    begin = 0
    for file in files:
        stop = _lay(file.stored, slot, begin)
        rows.append(WriteRow(file.row, slot.offset + begin, stop - begin, file.content))
        begin = stop
    return rows


def _put_opened(files: Sequence[FetchedFile], slot: Slot, opened: Written) -> list[WriteRow]:
    """Files whose contents lie in the slot now, opened and checked; the others are told of in ``opened``."""
    rows: list[WriteRow] = []
    begin = 0
    for file in files:
        try:
            pieces = file.pieces()
        except ContentError as error:
            opened.add_error(file.row, error)
            continue
        stop = _lay(pieces, slot, begin)
        rows.append(WriteRow(file.row, slot.offset + begin, stop - begin, None))
        begin = stop
    return rows


def _lay(pieces: Sequence[Buffer], slot: Slot, begin: int) -> int:
    """Where the pieces end that lie in the slot from ``begin`` on now, one behind the other."""
    for piece in pieces:
        slot.view[begin : begin + len(piece)] = piece
        begin += len(piece)
    return begin


def _write_here(builder: Builder, rows: Sequence[WriteRow], slot: Slot, written: Written) -> None:
    for row in rows:
        begin = row.offset - slot.offset
        builder.write_given(row.row, None, slot.view[begin : begin + row.size], written)
