"""Laying the changes of a newer manifest over an older snapshot, both as sorted streams."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from asyncbackup.model import Entry, split_path

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from asyncbackup.format.manifest import TreeItem

BATCH_ENTRIES = 4096


async def overlay(
    older: AsyncIterator[list[Entry]], newer: AsyncIterator[list[TreeItem]]
) -> AsyncGenerator[list[Entry], None]:
    """The entries of ``older`` with those of ``newer`` in their place, added, or (``Deleted``) left out.

    Both come in the order of (folder, name), and so does the result. One batch
    of each is held at a time; stretches of ``older`` without a change are
    copied whole, so a small change costs little beside a large snapshot.
    """
    async with aclosing(_merge(older, newer, keep_deleted=False)) as merged:
        async for batch in merged:
            yield cast("list[Entry]", batch)


async def merge_changes(
    older: AsyncIterator[list[TreeItem]], newer: AsyncIterator[list[TreeItem]]
) -> AsyncGenerator[list[TreeItem], None]:
    """Two differences, the newer one resting on the older, as one: deleted paths stay named."""
    async with aclosing(_merge(older, newer, keep_deleted=True)) as merged:
        async for batch in merged:
            yield batch


async def _merge(
    older: AsyncIterator[Sequence[TreeItem]], newer: AsyncIterator[list[TreeItem]], *, keep_deleted: bool
) -> AsyncGenerator[list[TreeItem], None]:
    changes = _Cursor(newer)
    ready: list[TreeItem] = []
    async for batch in older:
        start = 0
        while (change := await changes.peek()) is not None:
            key = split_path(change.path)
            place = bisect_left(batch, key, lo=start, key=_order)
            ready += batch[start:place]
            start = place
            if place == len(batch):
                break
            if batch[place].path == change.path:
                start += 1
            changes.advance()
            if keep_deleted or isinstance(change, Entry):
                ready.append(change)
            if len(ready) >= BATCH_ENTRIES:
                yield ready
                ready = []
        else:
            ready += batch[start:]
        if ready:
            yield ready
            ready = []
    while (change := await changes.peek()) is not None:
        changes.advance()
        if keep_deleted or isinstance(change, Entry):
            ready.append(change)
        if len(ready) >= BATCH_ENTRIES:
            yield ready
            ready = []
    if ready:
        yield ready


def _order(item: TreeItem) -> tuple[bytes, bytes]:
    return split_path(item.path)


class _Cursor:
    """The items of a stream of batches, one at a time."""

    __slots__ = ("_batch", "_batches", "_place")

    def __init__(self, batches: AsyncIterator[list[TreeItem]]) -> None:
        self._batches = batches
        self._batch: list[TreeItem] = []
        self._place = 0

    async def peek(self) -> TreeItem | None:
        """The next item, still to be passed by :meth:`advance`; ``None`` at the end."""
        while self._place == len(self._batch):
            try:
                self._batch = await anext(self._batches)
            except StopAsyncIteration:
                return None
            self._place = 0
        return self._batch[self._place]

    def advance(self) -> None:
        self._place += 1
