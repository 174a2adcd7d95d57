"""A catalog in memory, with what the detector asks of the real one, and what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncbackup.catalog.rows import Row, row_of_entry
from asyncbackup.model import Entry, Pending, SourceEntry, split_path


class MemoryEntries:
    """Rows by path. ``queries`` counts the calls."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.queries = 0

    def add(self, entry: Entry, pending: Pending = Pending.COMMITTED) -> None:
        self.rows[entry.path] = row_of_entry(entry, pending)

    async def rows_of_folders(self, folders: Sequence[bytes]) -> list[Row]:
        self.queries += 1
        return self._sorted(row for row in self.rows.values() if row[0] in folders)

    async def rows_of_range(self, folder: bytes, after: bytes | None, upto: bytes | None) -> list[Row]:
        self.queries += 1
        return self._sorted(
            row
            for path, row in self.rows.items()
            if row[0] == folder
            and (after is None or split_path(path)[1] > after)
            and (upto is None or split_path(path)[1] <= upto)
        )

    @staticmethod
    def _sorted(rows: Iterable[Row]) -> list[Row]:
        return sorted(rows, key=lambda row: (row[0], row[1]))


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
