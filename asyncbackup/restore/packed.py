"""Files in packs: a span is downloaded by one request, and written in one thread hop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from asyncbackup.errors import AuthenticationError, FormatError
from asyncbackup.flow.budget import ByteBudget
from asyncbackup.format.expand import FrameExpander
from asyncbackup.format.range_opener import RangeOpener, SpanReader
from asyncbackup.format.stretch import Stretch
from asyncbackup.restore.builder import Written
from asyncbackup.restore.content import Content, check_content
from asyncbackup.restore.fetcher import ATTEMPTS, BeyondEndError, Fetcher
from asyncbackup.restore.outcome import ContentError, Outcome, failed
from asyncbackup.restore.side_writer import WriteRow
from asyncbackup.restore.spans import Member, Span

if TYPE_CHECKING:
    from asyncbackup.flow.pace import Pace
    from asyncbackup.flow.shared_slots import Slot
    from asyncbackup.restore.builder import Builder
    from asyncbackup.restore.side_writer import SideWriter


class PackedFiles:
    """Restores the files of single spans; any number of tasks may call :meth:`restore`."""

    def __init__(
        self,
        builder: Builder,
        fetcher: Fetcher,
        pace: Pace,
        budget: ByteBudget,
        side: SideWriter | None = None,
    ) -> None:
        self._side = side
        self._builder = builder
        self._fetcher = fetcher
        self._pace = pace
        self._budget = budget
        self._spans = ByteBudget(max(1, budget.limit_bytes // 2))

    async def restore(self, span: Span) -> list[Outcome]:
        """Download, check and place the files of a span. What came damaged is downloaded once more.

        Raises ``TargetError`` and ``StoreError``; what is confined to a file is
        its outcome.
        """
        outcomes: list[Outcome] = []
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._leased(span.held_bytes):
                    damaged = await self._restore(span, outcomes)
            except ContentError as error:
                told = {outcome.row.id for outcome in outcomes}
                left = (member.row for member in span.members if member.row.id not in told)
                return outcomes + [failed(row, error.reason) for row in left]
            if not damaged:
                break
            if attempt == ATTEMPTS:
                outcomes += [failed(member.row, error.reason) for member, error in damaged]
                break
            span = _span_of([member for member, _ in damaged])
        return outcomes

    @asynccontextmanager
    async def _leased(self, size_bytes: int) -> AsyncIterator[None]:
        """Bytes of the budget, of which spans take half: more of them would only wait to be written."""
        size_bytes = min(size_bytes, self._spans.limit_bytes)
        await self._spans.acquire(size_bytes)
        try:
            await self._budget.acquire(size_bytes)
            try:
                yield
            finally:
                self._budget.release(size_bytes)
        finally:
            self._spans.release(size_bytes)

    async def _restore(self, span: Span, outcomes: list[Outcome]) -> Sequence[tuple[Member, ContentError]]:
        """The members that came damaged; the others' outcomes are added. Raises ``ContentError``
        for what concerns the whole span."""
        opener = await self._fetcher.pack(span.key) if span.encrypted else None
        size = None if opener is None else opener.size
        try:
            stored, inside = await self._stretch(span, opener, size, outcomes)
        except BeyondEndError:
            # A file is said to lie beyond the pack's end: that is no reason to lose its neighbours.
            size = await self._fetcher.pack_size(span.key)
            stored, inside = await self._stretch(span, opener, size, outcomes)
        if inside is None:
            return ()
        written = await self._write(inside, stored, opener)
        outcomes += written.outcomes
        by_row = {member.row.id: member for member in inside.members}
        return [(by_row[row.id], error) for row, error in written.damaged]

    async def _write(self, span: Span, stored: Stretch, opener: RangeOpener | None) -> Written:
        """What writing the members led to. Where there is a process that writes, a thread opens, expands
        and checks their contents into memory that both see, as many at once as have room there."""
        written = Written()
        left = span.members
        contents = SpanContents(span, stored, opener)
        while left and self._side is not None and (self._pace.at_once == 1 or self._side.idle):
            # Waiting for room, rather than writing here, leaves the interpreter's lock to those who fill it.
            async with self._side.room() as slot:
                if slot is None:
                    break
                rows = await self._pace.compute(_put, contents, left, slot, written)
                told = await self._side.write(rows) if rows else (Written(), 0.0)
                del slot
            if told is not None:
                beside, waited_seconds = told
                if rows:
                    self._pace.learn(len(rows), waited_seconds)
                written.add(beside)
            done = {outcome.row.id for outcome in written.outcomes}
            done.update(row.id for row, _ in written.damaged)
            before = len(left)
            left = [member for member in left if member.row.id not in done]
            if told is None or len(left) == before:
                break  # It is gone, or what comes first has no room.
        if left:
            rest = Span(span.key, span.encrypted, span.start, span.stop, left)
            here = await self._pace.run(len(left), _write, self._builder, rest, stored, opener)
            written.add(here)
        return written

    async def _stretch(
        self, span: Span, opener: RangeOpener | None, size: int | None, outcomes: list[Outcome]
    ) -> tuple[Stretch, Span | None]:
        """The stored bytes of the part of a span that lies within ``size`` bytes (where that is known)."""
        inside: Span | None = span
        if size is not None and span.stop > size:
            inside, outside = span.split(size)
            reason = f"its object {span.key!r} holds only {size} bytes, and its content lies beyond them"
            outcomes += [failed(member.row, reason) for member in outside]
        if inside is None:
            return Stretch(()), None
        offset, length = inside.stored_range(opener)
        return Stretch(await self._fetcher.stretch(span.key, offset, length)), inside


class SpanContents:
    """The contents of a span's members, opened, expanded and checked. Used in a thread.

    Asked for in the span's order, each chunk of a sealed pack is opened and
    each frame expanded once, whoever shares it, and always into the same memory.
    """

    def __init__(self, span: Span, stored: Stretch, opener: RangeOpener | None) -> None:
        self._start = span.start
        self._stored = stored
        self._sealed = (
            None if opener is None else SpanReader(opener, span.start, span.stop - span.start, stored)
        )
        self._needed: dict[tuple[int, int], int] = {}
        for member in span.members:
            content = member.content
            if content.compressed:
                place = (content.offset, content.length)
                self._needed[place] = max(self._needed.get(place, 0), content.skip + content.size)
        self._expander = FrameExpander()
        self._place = (-1, -1)
        self._frame = memoryview(b"")
        self._error: FormatError | None = None

    def of(self, member: Member) -> memoryview:
        """The content of a member, valid until the next call. Raises ``ContentError`` unless it is
        what was saved."""
        content = member.content
        try:
            found = self._expanded(content) if content.compressed else self._read(content)
        except AuthenticationError as error:
            raise ContentError(str(error), damaged=True) from error
        check_content(content, member.row.entry.sha256, found)
        return found

    def _expanded(self, content: Content) -> memoryview:
        place = (content.offset, content.length)
        if place != self._place:
            self._frame, self._error = self._expander.prefix(
                self._read(content), self._needed[place], name=content.key
            )
            self._place = place
        stop = content.skip + content.size
        if stop > len(self._frame):
            raise ContentError(f"its object {self._error}", damaged=True)
        return self._frame[content.skip : stop]

    def _read(self, content: Content) -> memoryview:
        if self._sealed is not None:
            return self._sealed.read(content.offset, content.length)
        begin = content.offset - self._start
        return self._stored.view(begin, begin + content.length)


def _put(contents: SpanContents, members: Sequence[Member], slot: Slot, written: Written) -> list[WriteRow]:
    """The first members, as many as have room: their contents lie in the slot now. Those that cannot be
    had are told of in ``written``."""
    rows: list[WriteRow] = []
    filled = 0
    for member in members:
        if filled + member.content.size > len(slot.view):
            break
        try:
            found = contents.of(member)
        except ContentError as error:
            written.add_error(member.row, error)
            continue
        slot.view[filled : filled + len(found)] = found
        rows.append(WriteRow(member.row, slot.offset + filled, len(found), None))
        filled += len(found)
    return rows


def _write(builder: Builder, span: Span, stored: Stretch, opener: RangeOpener | None) -> Written:
    return builder.write_members(span.members, SpanContents(span, stored, opener))


def _span_of(members: list[Member]) -> Span:
    """The span of some members of another, in its order."""
    first = members[0].content
    stop = max(member.content.offset + member.content.length for member in members)
    return Span(first.key, first.encrypted, first.offset, stop, members)
