"""Large files: streamed into their temporary file, very large ones in ranges at the same time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.flow.groups import single_error
from asyncbackup.flow.hops import hop
from asyncbackup.format.expand import MAX_WINDOW_BYTES
from asyncbackup.restore.content import Checker, Content
from asyncbackup.restore.fetcher import ATTEMPTS, Fetcher, Source
from asyncbackup.restore.outcome import ContentError, Outcome, failed
from asyncbackup.restore.ranged import RangedFile, Ranges, Take
from asyncbackup.restore.temporary import TemporaryFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncbackup.catalog.selection import SelectedEntry
    from asyncbackup.flow.budget import ByteBudget
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.restore.builder import Builder
    from asyncbackup.restore.summary import RestoreCounters
    from asyncbackup.store.base import Buffer

EXPANDING_BYTES = MAX_WINDOW_BYTES + 1024 * 1024
"""Held at most while a content is expanded: the window that its frames may ask for, and a piece of them."""
OPEN_FILES = 16
"""Large files written at the same time: what keeps descriptors bounded at any concurrency."""


class LargeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``window_bytes`` are held in memory of what one request brings: half of them are received while the
    other half is written (1 MiB costs an eighth more processor time, 8 MiB save nothing more). Files from
    ``ranged_from_bytes`` on that are stored as they are come in ranges of ``range_bytes``, up to
    ``ranges_at_once`` at the same time, of which those that only are written take half a window: so many
    small windows fit into the budget that a line with a long way gets all of its requests."""

    window_bytes: int = 4 * 1024 * 1024
    ranged_from_bytes: int = 64 * 1024 * 1024
    range_bytes: int = 16 * 1024 * 1024
    ranges_at_once: int = 8


class LargeFiles:
    """Restores single large files; any number of tasks may call :meth:`restore`."""

    def __init__(
        self,
        builder: Builder,
        fetcher: Fetcher,
        gate: ThreadGate,
        budget: ByteBudget,
        counters: RestoreCounters,
        settings: LargeSettings,
    ) -> None:
        self._builder = builder
        self._fetcher = fetcher
        self._gate = gate
        self._budget = budget
        self._counters = counters
        self._settings = settings
        self._places = asyncio.Semaphore(OPEN_FILES)

    async def restore(self, row: SelectedEntry, content: Content) -> Outcome:
        """Download, check and place one file.

        Raises ``TargetError`` and ``StoreError``; what is confined to the file
        is its outcome. Nothing but a whole file is left when cancelled.
        """
        async with self._places:
            try:
                temporary = await self._create(row)
            except OSError as error:
                return self._builder.outcome_of(row, error)
            try:
                await self._fill(row, content, temporary)
                return await hop(self._gate, self._builder.commit, temporary, row)
            except ContentError as error:
                return failed(row, error.reason)
            except OSError as error:
                return self._builder.outcome_of(row, error)
            finally:
                # Every thread that used it is done: hops see to that.
                temporary.abandon()

    async def _create(self, row: SelectedEntry) -> TemporaryFile:
        created: list[TemporaryFile] = []

        def create() -> None:
            created.append(TemporaryFile(self._builder.tree, row, self._builder.token))

        try:
            await hop(self._gate, create)
        except asyncio.CancelledError:
            for temporary in created:
                temporary.abandon()
            raise
        return created[0]

    async def _fill(self, row: SelectedEntry, content: Content, temporary: TemporaryFile) -> None:
        ranged = content.as_stored and content.length >= self._settings.ranged_from_bytes
        for attempt in range(1, ATTEMPTS + 1):
            progress = _Progress(self._counters)
            try:
                source = await self._fetcher.source(content)
                if ranged:
                    with single_error():
                        await self._fill_in_ranges(row, content, source, temporary, progress)
                else:
                    await self._fill_in_order(row, content, source, temporary, progress)
            except ContentError as error:
                if not error.damaged or attempt == ATTEMPTS:
                    raise
                await hop(self._gate, temporary.clear)
            else:
                return
            finally:
                # From here on the file counts as a whole, or begins again.
                self._counters.bytes_done -= progress.written_bytes

    async def _fill_in_order(
        self,
        row: SelectedEntry,
        content: Content,
        source: Source,
        temporary: TemporaryFile,
        progress: _Progress,
    ) -> None:
        checker = Checker(content, row.entry.sha256, source.opening, reusing=True)
        position = 0

        def write(pieces: Iterator[Buffer]) -> int:
            nonlocal position
            begin = position
            for piece in pieces:
                temporary.write(position, piece)
                position += len(piece)
            return position - begin

        async def take(stored: memoryview) -> None:
            progress.add(await hop(self._gate, write, checker.feed(stored)))

        window_bytes, expanding_bytes = self._settings.window_bytes, 0
        if content.compressed:
            room_bytes = self._budget.limit_bytes - window_bytes
            expanding_bytes = min(EXPANDING_BYTES, content.skip + content.size, room_bytes)
        leased = await self._budget.acquire(min(window_bytes, content.length) + expanding_bytes)
        try:
            await self._fetcher.pour(source, take, window_bytes=window_bytes)
            progress.add(await hop(self._gate, write, checker.finish()))
        finally:
            self._budget.release(leased)

    async def _fill_in_ranges(
        self,
        row: SelectedEntry,
        content: Content,
        source: Source,
        temporary: TemporaryFile,
        progress: _Progress,
    ) -> None:
        settings = self._settings
        if row.entry.sparse:
            await hop(self._gate, temporary.stretch)

        async def pour(offset: int, length: int, take: Take, *, in_turn: bool) -> None:
            window_bytes = settings.window_bytes if in_turn else max(1, settings.window_bytes // 2)
            leased = await self._budget.acquire(window_bytes)
            try:
                await self._fetcher.pour(source, take, window_bytes=leased, offset=offset, length=length)
            finally:
                self._budget.release(leased)

        ranges = Ranges(settings.range_bytes, settings.ranges_at_once)
        file = RangedFile(content, temporary, self._gate, ranges, pour, progress=progress.add)
        await file.fill(row.entry.sha256)


class _Progress:
    """The content that one attempt has written, also in the live figures while it is under way."""

    __slots__ = ("_counters", "written_bytes")

    def __init__(self, counters: RestoreCounters) -> None:
        self.written_bytes = 0
        self._counters = counters

    def add(self, count: int) -> None:
        self.written_bytes += count
        self._counters.bytes_done += count
