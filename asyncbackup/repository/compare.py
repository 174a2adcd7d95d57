"""What two snapshots differ in, both read as sorted streams."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from asyncbackup.model import split_path
from asyncbackup.repository.difference import difference_of
from asyncbackup.repository.manifests import read_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from asyncbackup.model import Entry
    from asyncbackup.repository.difference import Difference
    from asyncbackup.repository.open import Repository

DIFFERENCES_AT_ONCE = 1000


async def compare_snapshots(
    repository: Repository, before: str, after: str
) -> AsyncGenerator[list[Difference], None]:
    """Every difference from ``before`` to ``after``, in the order of (folder, name), in batches.

    What counts as one is said at :func:`~asyncbackup.repository.difference.difference_of`.
    One batch of each snapshot is in memory.

    Raises as ``read_manifest`` does.
    """
    ready: list[Difference] = []
    async with (
        aclosing(read_manifest(repository, before)) as older,
        aclosing(read_manifest(repository, after)) as newer,
        aclosing(_pairs(older, newer)) as pairs,
    ):
        async for left, right in pairs:
            difference = difference_of(left, right)
            if difference is not None:
                ready.append(difference)
                if len(ready) >= DIFFERENCES_AT_ONCE:
                    yield ready
                    ready = []
    if ready:
        yield ready


async def _pairs(
    older: AsyncIterator[list[Entry]], newer: AsyncIterator[list[Entry]]
) -> AsyncGenerator[tuple[Entry | None, Entry | None], None]:
    """Entries side by side, ``None`` where one snapshot lacks the path; equal ones are left out."""
    left: list[Entry] = []
    right: list[Entry] = []
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
