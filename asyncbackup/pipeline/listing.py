"""What the walker tells: entries by folder, in bounded chunks."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import msgspec

from asyncbackup.catalog.listings import listing_digest
from asyncbackup.catalog.rows import MODE, SIZE, Row
from asyncbackup.model import Failure, SourceEntry, source_entry

_SIZE_OF, _MODE_OF = itemgetter(SIZE), itemgetter(MODE)


class FolderChunk(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Entries of one folder, sorted by name: all with ``after`` < name ≤ ``upto``.

    ``None`` leaves a side open, so a chunk with neither bound is a folder as a whole.
    ``rows`` are what the catalog has of these entries if they did not change, in the order of
    ``STAT_COLUMNS``: whole folders are then compared at once, and nothing else is made of an entry
    until it turns out to differ. ``statuses`` has the ``lstat`` of each.
    ``unknown`` are names that are there but could not be looked at: they are neither changed
    nor deleted.
    """

    folder: bytes
    rows: Sequence[Row] = ()
    statuses: Sequence[os.stat_result] = ()
    unknown: tuple[bytes, ...] = ()
    after: bytes | None = None
    upto: bytes | None = None

    def entry(self, number: int) -> SourceEntry:
        """The entry at that place."""
        return source_entry(self.folder, self._name(number), self.statuses[number])

    @property
    def whole(self) -> bool:
        """Whether all of the folder is known."""
        return self.after is None and self.upto is None and not self.unknown

    def digest(self) -> bytes:
        """The digest of the rows (:func:`~asyncbackup.catalog.listings.listing_digest`)."""
        return listing_digest(self.rows)

    def _name(self, number: int) -> bytes:
        name = self.rows[number][1]
        assert isinstance(name, bytes), "the walker made it"
        return name

    @property
    def entries(self) -> tuple[SourceEntry, ...]:
        """All of them; made anew each time."""
        return tuple(map(self.entry, range(len(self.rows))))


class WalkBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What one thread hop found. ``unlisted`` are folders that could not be read: nothing is
    known of what lies below them. ``special`` are entries of kinds that are ignored (FIFOs,
    sockets, devices), ``excluded`` counts what the patterns left out."""

    chunks: tuple[FolderChunk, ...]
    unlisted: tuple[Failure, ...]
    special: tuple[bytes, ...]
    excluded: int


class Totals(NamedTuple):
    """What some entries add up to; ``size`` is that of the files, in bytes."""

    files: int
    folders: int
    symlinks: int
    size: int


def totals_of(rows: Sequence[Row]) -> Totals:
    """The totals of rows in the order of ``STAT_COLUMNS``."""
    # Entries of one folder have few modes, so that only counting them goes through all rows.
    modes: Counter[int] = Counter(map(_MODE_OF, rows))
    files = folders = 0
    for mode, entries in modes.items():
        if stat.S_ISREG(mode):
            files += entries
        elif stat.S_ISDIR(mode):
            folders += entries
    return Totals(files, folders, len(rows) - files - folders, sum(map(_SIZE_OF, rows)))
