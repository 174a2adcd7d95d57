"""Sums over the ``entries`` table: what the section's tree and its objects add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.model import Kind, Pending, kind_of_mode

if TYPE_CHECKING:
    from asyncbackup.catalog.entries import EntryTable

# A later name of a hard link points at the object of the first: every object is counted once.
_STORED = """
SELECT extent_run, extent_encrypted, count(*), sum(extent_length) FROM (
    SELECT DISTINCT extent_run, extent_key, extent_encrypted, extent_length
    FROM entries WHERE extent_run IS NOT NULL
) GROUP BY extent_run, extent_encrypted ORDER BY extent_run
"""
_TREE = "SELECT pending, mode & 61440, count(*), sum(size) FROM entries GROUP BY pending, mode & 61440"


class StoredSum(msgspec.Struct, frozen=True, kw_only=True):
    """What the tree needs of one run's objects."""

    run: str
    encrypted: bool
    objects: int
    bytes: int


class EntrySum(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries of one kind are in one state, and the bytes of their contents."""

    kind: Kind
    pending: Pending
    entries: int
    bytes: int


class TreeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The tree as the catalog has it, by kind and state, and its objects by run, oldest first."""

    entries: tuple[EntrySum, ...]
    stored: tuple[StoredSum, ...]

    def count(self, kind: Kind) -> int:
        """Entries of a kind that exist."""
        return sum(each.entries for each in self.entries if each.kind is kind and _alive(each))

    def state(self, pending: Pending) -> int:
        """Entries of any kind in a state."""
        return sum(each.entries for each in self.entries if each.pending is pending)

    @property
    def bytes(self) -> int:
        """The bytes of all files that exist."""
        return sum(each.bytes for each in self.entries if each.kind is Kind.FILE and _alive(each))


async def tree_statistics(entries: EntryTable) -> TreeStatistics:
    """Sum up the whole table; some seconds for a million entries. Raises ``CatalogError``."""
    tree: list[EntrySum] = []
    async for rows in entries.pages(_TREE):
        for pending, type_bits, count, size in cast("list[tuple[int, int, int, int]]", rows):
            kind = kind_of_mode(type_bits)
            tree.append(EntrySum(kind=kind, pending=Pending(pending), entries=count, bytes=size))
    stored: list[StoredSum] = []
    async for rows in entries.pages(_STORED):
        for run, encrypted, count, size in cast("list[tuple[str, int, int, int]]", rows):
            stored.append(StoredSum(run=run, encrypted=bool(encrypted), objects=count, bytes=size))
    return TreeStatistics(entries=tuple(tree), stored=tuple(stored))


def _alive(each: EntrySum) -> bool:
    return each.pending is not Pending.DELETED
