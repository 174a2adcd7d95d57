"""Large files: streamed into their temporary file, very large ones in ranges at the same time."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.flow.groups import single_error
from asyncbackup.flow.hops import hop
from asyncbackup.format.expand import MAX_WINDOW_BYTES
from asyncbackup.restore.content import Checker, Content, check_digest
from asyncbackup.restore.fetcher import ATTEMPTS, Fetcher, Source
from asyncbackup.restore.outcome import ContentError, Outcome, failed
from asyncbackup.restore.temporary import READ_BYTES, TemporaryFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncbackup.catalog.selection import SelectedEntry
    from asyncbackup.flow.budget import ByteBudget
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.restore.builder import Builder
    from asyncbackup.restore.summary import RestoreCounters

EXPANDING_BYTES = MAX_WINDOW_BYTES + 1024 * 1024
"""Held at most while a content is expanded: the window that its frames may ask for, and a piece of them."""
OPEN_FILES = 16
"""Large files written at the same time: what keeps descriptors bounded at any concurrency."""


class LargeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``window_bytes`` are received before they are written, and held in memory meanwhile. Files
    from ``ranged_from_bytes`` on that are stored as they are come in ranges of ``range_bytes``,
    ``ranges_at_once`` at the same time."""

    window_bytes: int = 1024 * 1024
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
        checker = Checker(content, row.entry.sha256, source.opening)
        position = 0

        def write(pieces: Iterator[bytes]) -> int:
            nonlocal position
            begin = position
            for piece in pieces:
                temporary.write(position, piece)
                position += len(piece)
            return position - begin

        def write_all(chunks: list[bytes]) -> int:
            return sum(write(checker.feed(chunk)) for chunk in chunks)

        async def take(chunks: list[bytes]) -> None:
            progress.add(await hop(self._gate, write_all, chunks))

        window_bytes, expanding_bytes = self._settings.window_bytes, 0
        if content.compressed:
            room_bytes = self._budget.limit_bytes - window_bytes
            expanding_bytes = min(EXPANDING_BYTES, content.skip + content.size, room_bytes)
        leased = await self._budget.acquire(window_bytes + expanding_bytes)
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
        """Ranges at the same time; what arrived without a gap is read back and hashed meanwhile."""
        settings = self._settings
        if row.entry.sparse:
            await hop(self._gate, temporary.stretch)
        offsets = iter(range(0, content.length, settings.range_bytes))
        arrived: set[int] = set()
        change = asyncio.Condition()

        async def fetch_ranges(offsets: Iterator[int]) -> None:
            for offset in offsets:
                await self._fetch_range(source, offset, temporary, progress)
                async with change:
                    arrived.add(offset)
                    change.notify_all()

        async def hash_in_order() -> None:
            digest = hashlib.sha256()
            for offset in range(0, content.length, settings.range_bytes):
                async with change:
                    while offset not in arrived:
                        await change.wait()
                    arrived.remove(offset)
                end = min(offset + settings.range_bytes, content.length)
                await hop(self._gate, _hash_range, digest, temporary, offset, end)
            check_digest(content, row.entry.sha256, digest.digest())

        async with asyncio.TaskGroup() as group:
            group.create_task(hash_in_order())
            for _ in range(settings.ranges_at_once):
                group.create_task(fetch_ranges(offsets))

    async def _fetch_range(
        self, source: Source, offset: int, temporary: TemporaryFile, progress: _Progress
    ) -> None:
        position = offset
        length = min(self._settings.range_bytes, source.length - offset)

        def write(chunks: list[bytes]) -> None:
            nonlocal position
            for chunk in chunks:
                temporary.write(position, chunk)
                position += len(chunk)

        async def take(chunks: list[bytes]) -> None:
            await hop(self._gate, write, chunks)
            progress.add(sum(map(len, chunks)))

        leased = await self._budget.acquire(self._settings.window_bytes)
        try:
            await self._fetcher.pour(source, take, window_bytes=leased, offset=offset, length=length)
        finally:
            self._budget.release(leased)


class _Progress:
    """The content that one attempt has written, also in the live figures while it is under way."""

    __slots__ = ("_counters", "written_bytes")

    def __init__(self, counters: RestoreCounters) -> None:
        self.written_bytes = 0
        self._counters = counters

    def add(self, count: int) -> None:
        self.written_bytes += count
        self._counters.bytes_done += count


def _hash_range(digest: hashlib._Hash, temporary: TemporaryFile, offset: int, end: int) -> None:
    while offset < end:
        chunk = temporary.read(offset, min(READ_BYTES, end - offset))
        if not chunk:
            raise ContentError("the file was cut while it was being restored")
        digest.update(chunk)
        offset += len(chunk)
