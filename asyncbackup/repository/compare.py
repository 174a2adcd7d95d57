"""What two snapshots differ in, read as sorted streams."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, TypeVar

from asyncbackup.errors import FormatError
from asyncbackup.format.manifest import MAX_DEPTH, Deleted
from asyncbackup.model import Entry, split_path
from asyncbackup.repository.difference import difference_of
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.repository.manifests import read_header, read_manifest
from asyncbackup.repository.overlay import merge_changes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from asyncbackup.format.manifest import TreeItem
    from asyncbackup.repository.difference import Difference
    from asyncbackup.repository.open import Repository

DIFFERENCES_AT_ONCE = 1000

_Item = TypeVar("_Item", bound="TreeItem")


async def compare_snapshots(
    repository: Repository, before: str, after: str
) -> AsyncGenerator[list[Difference], None]:
    """Every difference from ``before`` to ``after``, in the order of (folder, name), in batches.

    What counts as one is said at :func:`~asyncbackup.repository.difference.difference_of`.
    Of two snapshots that rest on a third one that one is read once, as far as
    is needed, and compared with where their own lines are. A batch of each
    manifest is in memory.

    Raises as ``read_manifest`` does.
    """
    ready: list[Difference] = []
    older, newer = await _chain(repository, before), await _chain(repository, after)
    common = next((run for run in newer if run in older), None)
    pairs = (
        _pairs_of_all(repository, before, after)
        if common is None
        else _pairs_above(repository, common, older[: older.index(common)], newer[: newer.index(common)])
    )
    async with aclosing(pairs):
        async for left, right in pairs:
            difference = difference_of(left, right)
            if difference is not None:
                ready.append(difference)
                if len(ready) >= DIFFERENCES_AT_ONCE:
                    yield ready
                    ready = []
    if ready:
        yield ready


async def _chain(repository: Repository, run: str) -> list[str]:
    """The snapshots whose manifests make up that of ``run``, the newest first."""
    chain = [run]
    while (base := (await read_header(repository, chain[-1])).base) is not None:
        chain.append(base)
        if len(chain) > MAX_DEPTH + 1:
            raise FormatError(f"snapshot {run} rests on more than {MAX_DEPTH} others; no writer may do that")
    return chain


async def _pairs_of_all(
    repository: Repository, before: str, after: str
) -> AsyncGenerator[tuple[Entry | None, Entry | None], None]:
    """The entries that two snapshots have not alike, side by side."""
    async with (
        aclosing(read_manifest(repository, before)) as older,
        aclosing(read_manifest(repository, after)) as newer,
        aclosing(_side_by_side(older, newer)) as pairs,
    ):
        async for pair in pairs:
            yield pair


async def _pairs_above(
    repository: Repository, common: str, before: Sequence[str], after: Sequence[str]
) -> AsyncGenerator[tuple[Entry | None, Entry | None], None]:
    """The same of two snapshots that both rest on ``common``, from the manifests above it."""
    async with (
        aclosing(_changes(repository, before)) as older,
        aclosing(_changes(repository, after)) as newer,
        aclosing(_side_by_side(older, newer)) as pairs,
        aclosing(read_manifest(repository, common)) as entries,
    ):
        base = _Lookup(entries)
        async for left, right in pairs:
            item = left or right
            assert item is not None, "a pair has one side at least"
            found = await base.find(item.path)
            one, other = _state(left, found), _state(right, found)
            # What came and went above the base is in neither.
            if one is not None or other is not None:
                yield one, other


def _state(change: TreeItem | None, found: Entry | None) -> Entry | None:
    """What a snapshot has of a path: by its own lines, else by the base's entry."""
    if change is None:
        return found
    return None if isinstance(change, Deleted) else change


async def _changes(repository: Repository, chain: Sequence[str]) -> AsyncGenerator[list[TreeItem], None]:
    """The lines of manifests that rest on each other, the newest first, as those of one."""
    async with AsyncExitStack() as stack:
        merged: AsyncGenerator[list[TreeItem], None] | None = None
        for run in reversed(chain):
            stream = await stack.enter_async_context(ManifestStream(repository, run, in_windows=True))
            items = await stack.enter_async_context(aclosing(stream.items()))
            merged = (
                items
                if merged is None
                else await stack.enter_async_context(aclosing(merge_changes(merged, items)))
            )
        if merged is not None:
            async for batch in merged:
                yield batch


class _Lookup:
    """Entries of a sorted stream by their paths, asked for in that order."""

    __slots__ = ("_batch", "_entries", "_place")

    def __init__(self, entries: AsyncIterator[list[Entry]]) -> None:
        self._entries = entries
        self._batch: list[Entry] = []
        self._place = 0

    async def find(self, path: bytes) -> Entry | None:
        """The entry of ``path``, if there is one. No path may come before the one asked for last."""
        key = split_path(path)
        while not self._batch or split_path(self._batch[-1].path) < key:
            batch = await anext(self._entries, None)
            if batch is None:
                return None
            self._batch, self._place = batch, 0
        self._place = bisect_left(self._batch, key, lo=self._place, key=lambda entry: split_path(entry.path))
        entry = self._batch[self._place]
        return entry if entry.path == path else None


async def _side_by_side(
    older: AsyncIterator[list[_Item]], newer: AsyncIterator[list[_Item]]
) -> AsyncGenerator[tuple[_Item | None, _Item | None], None]:
    """Items of one path side by side, ``None`` where one stream lacks it; equal ones are left out."""
    left: list[_Item] = []
    right: list[_Item] = []
    a = b = 0
    while True:
        if a == len(left):
            left, a = await anext(older, []), 0
        if b == len(right):
            right, b = await anext(newer, []), 0
        if not left or not right:
            break
        while a < len(left) and b < len(right):
            one, other = left[a], right[b]
            if one.path == other.path:
                a += 1
                b += 1
                if one != other:
                    yield one, other
            elif split_path(one.path) < split_path(other.path):
                a += 1
                yield one, None
            else:
                b += 1
                yield None, other
    while left:
        for one in left[a:]:
            yield one, None
        left, a = await anext(older, []), 0
    while right:
        for other in right[b:]:
            yield None, other
        right, b = await anext(newer, []), 0
