"""Laying changes over a snapshot, both as sorted streams."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.format.manifest import Deleted, TreeItem
from asyncbackup.model import Entry, Kind, split_path
from asyncbackup.repository.overlay import BATCH_ENTRIES, overlay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

T = TypeVar("T")

PATHS = st.lists(st.sampled_from([b"a", b"a-", b"a0", b"b", b"\xff"]), min_size=1, max_size=3).map(b"/".join)


def entry(path: bytes, size: int) -> Entry:
    return Entry(path=path, kind=Kind.FILE, mode=0o100644, size=size)


async def batches(items: Sequence[T], sizes: Sequence[int]) -> AsyncIterator[list[T]]:
    start = 0
    for size in sizes:
        yield list(items[start : start + size])
        start += size
    yield list(items[start:])


async def merged(older: AsyncIterator[list[Entry]], newer: AsyncIterator[list[TreeItem]]) -> list[Entry]:
    async with aclosing(overlay(older, newer)) as stream:
        return [item async for batch in stream for item in batch]


@given(
    older=st.sets(PATHS, max_size=12),
    changed=st.dictionaries(PATHS, st.booleans(), max_size=12),
    older_sizes=st.lists(st.integers(0, 4), max_size=6),
    newer_sizes=st.lists(st.integers(0, 4), max_size=6),
)
async def test_it_gives_what_a_dictionary_would(
    older: set[bytes], changed: dict[bytes, bool], older_sizes: list[int], newer_sizes: list[int]
) -> None:
    wanted = {path: entry(path, 1) for path in older}
    changes: list[TreeItem] = []
    for path in sorted(changed, key=split_path):
        if changed[path]:
            changes.append(entry(path, 2))
            wanted[path] = entry(path, 2)
        else:
            changes.append(Deleted(path))
            wanted.pop(path, None)
    base = [entry(path, 1) for path in sorted(older, key=split_path)]
    found = await merged(batches(base, older_sizes), batches(changes, newer_sizes))
    assert found == [wanted[path] for path in sorted(wanted, key=split_path)]


async def test_batches_stay_small_however_much_is_added() -> None:
    added: list[TreeItem] = [entry(b"%06d" % number, 2) for number in range(3 * BATCH_ENTRIES)]
    base = [entry(b"~", 1)]
    async with aclosing(overlay(batches(base, []), batches(added, []))) as stream:
        sizes = [len(batch) async for batch in stream]
    assert sum(sizes) == len(added) + 1
    assert max(sizes) <= BATCH_ENTRIES
