"""Neighbouring contents of one pack, fetched together: never one request a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from asyncbackup.catalog.selection import SelectedEntry
from asyncbackup.format.expand import EXTRA_BYTES
from asyncbackup.restore.content import Content, content_of
from asyncbackup.restore.outcome import ContentError

if TYPE_CHECKING:
    from asyncbackup.format.range_opener import RangeOpener

SPAN_BYTES = 4 * 1024 * 1024
"""Fetched by one request at most."""
GAP_BYTES = 256 * 1024
"""What is read over rather than asked for anew: a request's latency is worth more."""
SPAN_ROWS = 1024
"""Files of one span, after which the next frame begins a new one."""
SPAN_ROWS_MOST = 4096
"""Files of one span if they all lie in one frame."""
SPAN_PATH_BYTES = 1024 * 1024
"""What the paths of a span may add up to, about: ten thousand folders deep, each is tens of kilobytes."""


class Member(msgspec.Struct, frozen=True, gc=False):
    """One file and where in its pack its content lies."""

    row: SelectedEntry
    content: Content


class Span(msgspec.Struct, frozen=True):
    """A stretch of one pack, from ``start`` to ``stop`` before sealing, and what lies in it in its order."""

    key: str
    encrypted: bool
    start: int
    stop: int
    members: list[Member]

    @property
    def held_bytes(self) -> int:
        """Bytes in memory while the span is written: as it is stored (chunks of a sealed one rounded
        up), and one frame, opened and expanded (with what may follow its contents), beside it."""
        stored = self.stop - self.start
        opened = expanded = 0
        for member in self.members:
            content = member.content
            if content.encrypted:
                opened = max(opened, content.length)
            if content.compressed:
                expanded = max(expanded, content.skip + content.size + EXTRA_BYTES)
        return stored + opened + expanded

    def split(self, size: int) -> tuple[Span | None, list[Member]]:
        """What lies in the first ``size`` bytes of the pack, and the members that do not."""
        inside = [member for member in self.members if _stop(member.content) <= size]
        outside = [member for member in self.members if _stop(member.content) > size]
        if not inside:
            return None, outside
        stop = max(_stop(member.content) for member in inside)
        return Span(self.key, self.encrypted, self.start, stop, inside), outside

    def stored_range(self, opener: RangeOpener | None) -> tuple[int, int]:
        """Offset and length of the stored bytes. Raises ``ValueError`` beyond the end of a sealed pack."""
        length = self.stop - self.start
        return (self.start, length) if opener is None else opener.stored_range(self.start, length)


Job: TypeAlias = SelectedEntry | Span
"""What one worker does at a time: a file with an object of its own (or too large for a span), or a span."""


class SpanPlanner:
    """Cuts rows that come in the order of their packs into spans of at most ``span_bytes``.

    A row that fits in no span, or whose extent contradicts itself, comes back
    as it is: it is a job of its own.
    """

    def __init__(self, section: str, *, can_open: bool, span_bytes: int) -> None:
        self._section = section
        self._can_open = can_open
        self._span_bytes = span_bytes
        self._members: list[Member] = []
        self._start = self._stop = self._path_bytes = 0

    def add(self, rows: Iterable[SelectedEntry]) -> list[Job]:
        """The jobs that are complete now."""
        jobs: list[Job] = []
        for row in rows:
            try:
                content = content_of(row.entry, self._section, can_open=self._can_open)
            except ContentError:
                jobs.append(row)  # its worker meets the same and names it
                continue
            if max(content.length, content.skip + content.size) > self._span_bytes:
                jobs.append(row)
                continue
            if self._members and self._ends_before(content):
                jobs += self.finish()
            if not self._members:
                self._start = content.offset
            self._members.append(Member(row, content))
            self._stop = max(self._stop, _stop(content))
            self._path_bytes += len(row.entry.path)
        return jobs

    def finish(self) -> list[Span]:
        """The last span, if there is one; the planner then begins anew."""
        members = self._members
        if not members:
            return []
        first = members[0].content
        span = Span(first.key, first.encrypted, self._start, self._stop, members)
        self._members = []
        self._start = self._stop = self._path_bytes = 0
        return [span]

    def _ends_before(self, content: Content) -> bool:
        last = self._members[-1].content
        if (content.key, content.encrypted) != (last.key, last.encrypted):
            return True
        if content.offset > self._stop + GAP_BYTES or _stop(content) - self._start > self._span_bytes:
            return True
        count = len(self._members)
        full = count >= SPAN_ROWS and content.offset != last.offset
        return full or count >= SPAN_ROWS_MOST or self._path_bytes >= SPAN_PATH_BYTES


def spans_of(
    rows: Sequence[SelectedEntry], section: str, *, can_open: bool, span_bytes: int
) -> tuple[list[Span], list[SelectedEntry]]:
    """The spans of rows in any order, and the rows that are jobs of their own."""
    planner = SpanPlanner(section, can_open=can_open, span_bytes=span_bytes)
    jobs = [*planner.add(sorted(rows, key=_place)), *planner.finish()]
    return [job for job in jobs if isinstance(job, Span)], [
        job for job in jobs if isinstance(job, SelectedEntry)
    ]


def _place(row: SelectedEntry) -> tuple[str, str, int, int]:
    extent = row.entry.extent
    assert extent is not None, "only rows in packs are planned"
    return extent.run, extent.key, extent.offset, row.id


def _stop(content: Content) -> int:
    return content.offset + content.length
