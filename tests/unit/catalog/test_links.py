"""What one run notes of hard links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncbackup.catalog.links import PAGE_ROWS
from asyncbackup.model import Pending, SourceEntry, split_path
from tests.unit.catalog.entries import entry, fill

if TYPE_CHECKING:
    from asyncbackup.catalog.catalog import Catalog


def seen(path: bytes, *, mtime_ns: int = 5, ino: int = 1) -> SourceEntry:
    folder, name = split_path(path)
    return SourceEntry(folder, name, 0o100644, 7, mtime_ns, 6, 0, 0, 2, 1, ino, 8)


async def test_the_name_met_first_keeps_the_inode(catalog: Catalog) -> None:
    links = catalog.links
    assert await links.claim([("1:1", b"a"), ("1:1", b"b"), ("1:2", b"c")]) == {"1:1": b"a", "1:2": b"c"}
    assert await links.claim([("1:1", b"z"), ("1:3", b"d")]) == {"1:1": b"a", "1:3": b"d"}


async def test_clearing_forgets_claims_and_names(catalog: Catalog) -> None:
    links = catalog.links
    await links.claim([("1:1", b"a")])
    await links.defer([(seen(b"b"), Pending.NEW, b"a")])
    await links.clear()
    assert await links.claim([("1:1", b"z")]) == {"1:1": b"z"}
    assert [page async for page in links.deferred()] == []


async def test_a_deferred_name_comes_with_what_is_saved_by_then(catalog: Catalog) -> None:
    links = catalog.links
    await links.defer(
        [
            (seen(b"d/b"), Pending.CHANGED, b"a"),
            (seen(b"c"), Pending.NEW, b"lost"),
            (seen(b"e"), Pending.NEW, b"gone"),
        ]
    )
    await fill(catalog, b"a", b"d/b", b"gone")
    await catalog.entries.bury([(b"gone", False)])
    (page,) = [page async for page in links.deferred()]
    found = {link.entry.path: link for link in page}
    assert list(found) == [b"d/b", b"e", b"c"], "in the order of the first names"
    assert found[b"d/b"].first == entry(b"a")
    assert found[b"d/b"].known == entry(b"d/b")
    assert found[b"d/b"].pending is Pending.CHANGED
    assert (found[b"c"].first, found[b"c"].first_path, found[b"c"].known) == (None, b"lost", None)
    assert found[b"e"].first is None, "a tombstone carries no content"


@pytest.mark.parametrize("mark", [Pending.COMMITTED, Pending.NEW, Pending.CHANGED])
async def test_a_deferred_name_tells_how_its_row_stands_to_the_last_snapshot(
    catalog: Catalog, mark: Pending
) -> None:
    await fill(catalog, b"b", pending=mark)
    await catalog.links.defer([(seen(b"b"), Pending.CHANGED, b"a")])
    (page,) = [page async for page in catalog.links.deferred()]
    assert page[0].known_pending is mark


async def test_a_name_deferred_twice_is_kept_once_as_it_was_seen_last(catalog: Catalog) -> None:
    await catalog.links.defer([(seen(b"b"), Pending.NEW, b"a")])
    await catalog.links.defer([(seen(b"b", mtime_ns=99), Pending.NEW, b"a")])
    (page,) = [page async for page in catalog.links.deferred()]
    assert [link.entry.mtime_ns for link in page] == [99]


@pytest.mark.parametrize("time_ns", [-1, -(10**19), 2**63, 2**64, 10**22])
async def test_times_of_any_year_are_kept(catalog: Catalog, time_ns: int) -> None:
    await catalog.links.defer([(seen(b"b", mtime_ns=time_ns), Pending.NEW, b"a")])
    (page,) = [page async for page in catalog.links.deferred()]
    assert page[0].entry == seen(b"b", mtime_ns=time_ns)


async def test_more_names_than_a_page_come_in_pages_and_none_twice(catalog: Catalog) -> None:
    count = 2 * PAGE_ROWS + 1
    await catalog.links.defer(
        (seen(b"l/%06d" % number, ino=number), Pending.NEW, b"a") for number in range(count)
    )
    pages = [page async for page in catalog.links.deferred()]
    assert [len(page) for page in pages] == [PAGE_ROWS, PAGE_ROWS, 1]
    assert [link.entry.ino for page in pages for link in page] == list(range(count))


async def test_a_page_may_be_saved_before_the_next_is_asked_for(catalog: Catalog) -> None:
    """The run does so: further names are uploaded while the rest waits."""
    count = PAGE_ROWS + 10
    await catalog.links.defer(
        (seen(b"l/%06d" % number, ino=number), Pending.NEW, b"a") for number in range(count)
    )
    total = 0
    async for page in catalog.links.deferred():
        total += len(page)
        await fill(catalog, *(link.entry.path for link in page))
    assert total == count
