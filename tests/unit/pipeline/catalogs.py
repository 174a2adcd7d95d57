"""A catalog in memory, with what the detector asks of the real one, and what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncbackup.catalog.rows import DEV, INO, STAT_COLUMNS, Row, row_of_entry
from asyncbackup.model import Entry, Pending, SourceEntry, split_path

STAT_COUNT = len(STAT_COLUMNS.split(","))


class MemoryEntries:
    """Rows by path. ``queries`` counts the calls, ``most_rows`` is the most that one gave."""

    def __init__(self) -> None:
        self.most_rows = 0
        self.rows: dict[bytes, Row] = {}
        self.queries = 0

    def add(self, entry: Entry, pending: Pending = Pending.COMMITTED) -> None:
        self.rows[entry.path] = row_of_entry(entry, pending)

    async def stats_of_folders(self, folders: Sequence[bytes], *, limit: int) -> list[Row]:
        self.queries += 1
        return self._some((row for row in self.rows.values() if row[0] in folders), limit)

    async def stats_of_range(
        self, folder: bytes, after: bytes | None, upto: bytes | None, *, limit: int
    ) -> list[Row]:
        self.queries += 1
        found = (
            row
            for path, row in self.rows.items()
            if row[0] == folder
            and (after is None or split_path(path)[1] > after)
            and (upto is None or split_path(path)[1] <= upto)
        )
        return self._some(found, limit)

    async def rows_of_names(self, names: Sequence[tuple[bytes, bytes]]) -> list[Row]:
        self.queries += 1
        return [row for row in self.rows.values() if (row[0], row[1]) in names]

    async def rows_of_inodes(self, inodes: Sequence[tuple[int, int]]) -> list[Row]:
        self.queries += 1
        return [row for row in self.rows.values() if (row[DEV], row[INO]) in inodes]

    async def is_empty(self) -> bool:
        self.queries += 1
        return not self.rows

    def _some(self, rows: Iterable[Row], limit: int) -> list[Row]:
        found = [row[:STAT_COUNT] for row in sorted(rows, key=lambda row: (row[0], row[1]))[:limit]]
        self.most_rows = max(self.most_rows, len(found))
        return found


class MemoryListings:
    """Digests by folder, for as long as nobody saves anything; ``noted`` are those told."""

    def __init__(self) -> None:
        self.noted: dict[bytes, bytes] = {}

    async def usable(self) -> bool:
        return bool(self.noted)

    async def find(self, folders: Sequence[bytes]) -> dict[bytes, bytes]:
        return {folder: self.noted[folder] for folder in folders if folder in self.noted}

    async def note(self, listings: Sequence[tuple[bytes, bytes]]) -> None:
        self.noted.update(listings)


class MemoryLinks:
    """Claims and kept names."""

    def __init__(self) -> None:
        self.firsts: dict[str, bytes] = {}
        self.deferred: list[tuple[bytes, Pending, bytes]] = []

    async def claim(self, names: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
        for label, path in names:
            self.firsts.setdefault(label, path)
        return {label: self.firsts[label] for label, _ in names}

    async def defer(self, links: Iterable[tuple[SourceEntry, Pending, bytes]]) -> None:
        self.deferred += [(entry.path, pending, first) for entry, pending, first in links]
