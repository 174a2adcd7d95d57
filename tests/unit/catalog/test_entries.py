"""The tree as saved: reading by folder and range, burying, reviving, committing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.catalog.entries import (
    FIRST_PAGE_ROWS,
    MAX_FOLDERS_PER_QUERY,
    PAGE_FOLDER_BYTES,
    PAGE_ROWS,
    ROWS_PER_STATEMENT,
)
from asyncbackup.catalog.rows import entry_of_row
from asyncbackup.model import Kind, Pending, join_path, split_path
from tests.unit.catalog.entries import IDENTITY, entry, fill, in_order, pending_of

if TYPE_CHECKING:
    from asyncbackup.catalog.rows import Row

NEIGHBOURS = (
    b"a-b/",
    b"a-b/x",
    b"a.b",
    b"a0/",
    b"a0/x",
    b"aa/",
    b"aa/x",
    b"A/",
    b"A/a",
    b"a\xff/",
    b"a\xff/x",
    b"b",
)
BELOW_A = (b"a/", b"a/-", b"a/b/", b"a/b/c/", b"a/b/c/d", b"a/a", b"a/\xff/", b"a/\xff/\xff", b"a/0")


def names(rows: list[Row]) -> list[bytes]:
    return [join_path(bytes(row[0]), bytes(row[1])) for row in rows]  # type: ignore[arg-type]


async def test_rows_of_names_are_whole(catalog: Catalog) -> None:
    await fill(catalog, *(b"f/%05d" % number for number in range(5000)), b"g/00001")
    wanted = [(b"f", b"%05d" % number) for number in range(4999)] + [(b"f", b"missing"), (b"g", b"00001")]
    statements = catalog.entries.statements
    rows = await catalog.entries.rows_of_names(wanted)
    assert catalog.entries.statements == statements + 2
    assert {entry_of_row(row).path for row in rows} == {b"/".join(pair) for pair in wanted} - {b"f/missing"}
    assert await catalog.entries.rows_of_names([]) == []


async def test_many_rows_are_saved_in_a_few_statements(catalog: Catalog) -> None:
    paths = [b"f/%03d" % number for number in range(2 * ROWS_PER_STATEMENT + 3)]
    statements = catalog.entries.statements
    await fill(catalog, *paths)
    assert catalog.entries.statements == statements + 2 + 3
    assert [e for page in [page async for page in in_order(catalog)] for e in page] == [
        entry(path) for path in paths
    ]


async def test_rows_that_replace_others_are_counted_once(catalog: Catalog) -> None:
    paths = [b"f/%03d" % number for number in range(2 * ROWS_PER_STATEMENT)]
    await fill(catalog, *paths)
    larger = [msgspec.structs.replace(entry(path), size=1000) for path in (*paths, paths[0])]
    largest = msgspec.structs.replace(larger[0], size=5000)
    await catalog.entries.save((each, Pending.CHANGED) for each in (*larger, largest))
    assert await catalog.entries.get(paths[0]) == largest, "of two for one path the last"
    totals = await catalog.history.totals()
    assert (totals.files, totals.bytes) == (len(paths), 1000 * (len(paths) - 1) + 5000)


async def test_stats_of_folders_are_their_direct_children(catalog: Catalog) -> None:
    await fill(catalog, b"", b"x/", b"x/1", b"x/y/", b"x/y/2", b"x-y/", b"x-y/3", b"z")
    assert names(await catalog.entries.stats_of_folders([b"x", b"x-y", b"nothing"], limit=100)) == [
        b"x/1",
        b"x/y",
        b"x-y/3",
    ]
    assert names(await catalog.entries.stats_of_folders([b""], limit=100)) == [b"", b"x", b"x-y", b"z"]
    many = [b"%d" % number for number in range(MAX_FOLDERS_PER_QUERY)]
    assert await catalog.entries.stats_of_folders(many, limit=100) == []


async def test_tombstones_are_among_the_rows_and_nowhere_else(catalog: Catalog) -> None:
    await fill(catalog, b"", b"a", b"b")
    await catalog.entries.bury([(b"a", False)])
    assert names(await catalog.entries.stats_of_folders([b""], limit=100)) == [b"", b"a", b"b"]
    assert await catalog.entries.get(b"a") is None
    assert (await catalog.entries.get(b"b")) == entry(b"b")
    assert [e.path async for page in in_order(catalog) for e in page] == [b"", b"b"]
    assert await catalog.entries.count_files() == 1


@pytest.mark.parametrize(
    ("after", "upto", "expected"),
    [
        (None, None, [b"f/a", b"f/b", b"f/b0", b"f/c"]),
        (None, b"b", [b"f/a", b"f/b"]),
        (b"a", b"b", [b"f/b"]),
        (b"b", None, [b"f/b0", b"f/c"]),
        (b"a", b"a", []),
        (b"", None, [b"f/a", b"f/b", b"f/b0", b"f/c"]),
        (b"c", None, []),
    ],
)
async def test_a_range_leaves_its_lower_bound_out(
    catalog: Catalog, after: bytes | None, upto: bytes | None, expected: list[bytes]
) -> None:
    await fill(catalog, b"f/", b"f/a", b"f/b", b"f/b0", b"f/c", b"f/b/inner", b"e/a", b"g/a")
    assert names(await catalog.entries.stats_of_range(b"f", after, upto, limit=100)) == expected


async def test_rows_come_up_to_a_limit(catalog: Catalog) -> None:
    await fill(catalog, b"f/a", b"f/b", b"f/c", b"g/a")
    entries = catalog.entries
    assert names(await entries.stats_of_folders([b"g", b"f"], limit=2)) == [b"f/a", b"f/b"]
    assert names(await entries.stats_of_range(b"f", b"a", None, limit=1)) == [b"f/b"]


async def test_ranges_tell_the_root_from_its_children(catalog: Catalog) -> None:
    await fill(catalog, b"", b"\x01", b"a")
    assert names(await catalog.entries.stats_of_range(b"", None, b"", limit=9)) == [b""]
    assert names(await catalog.entries.stats_of_range(b"", b"", None, limit=9)) == [b"\x01", b"a"]


async def test_burying_a_folder_takes_all_below_it_and_none_of_its_neighbours(catalog: Catalog) -> None:
    await fill(catalog, b"", *BELOW_A, *NEIGHBOURS)
    assert await catalog.entries.count_files_below([(b"a", True)]) == 5
    assert await catalog.entries.bury([(b"a", True)]) == 5, "regular files, not folders"
    found = await pending_of(catalog)
    buried = {path for path, pending in found.items() if pending is Pending.DELETED}
    assert buried == {path.rstrip(b"/") for path in BELOW_A}
    assert {found[path.rstrip(b"/")] for path in NEIGHBOURS} == {Pending.COMMITTED}
    assert await catalog.entries.count_files_below([(b"a", True)]) == 0
    assert await catalog.entries.bury([(b"a", True)]) == 0, "once is enough"


async def test_burying_one_entry_leaves_what_lies_below_its_name(catalog: Catalog) -> None:
    await fill(catalog, b"a", b"a/x", b"ab")
    assert await catalog.entries.bury([(b"a", False), (b"not there", False)]) == 1
    assert await pending_of(catalog) == {
        b"a": Pending.DELETED,
        b"ab": Pending.COMMITTED,
        b"a/x": Pending.COMMITTED,
    }


async def test_what_no_snapshot_has_yet_vanishes_at_once(catalog: Catalog) -> None:
    await fill(catalog, b"a/", b"a/old")
    await fill(catalog, b"a/new", pending=Pending.NEW)
    await fill(catalog, b"a/changed", pending=Pending.CHANGED)
    assert await catalog.entries.bury([(b"a", True)]) == 3
    assert await pending_of(catalog) == {
        b"a": Pending.DELETED,
        b"a/changed": Pending.DELETED,
        b"a/old": Pending.DELETED,
    }


async def test_only_tombstones_are_revived(catalog: Catalog) -> None:
    await fill(catalog, b"a", b"b")
    await fill(catalog, b"new", pending=Pending.NEW)
    await catalog.entries.bury([(b"a", False)])
    await catalog.entries.revive([b"a", b"b", b"new", b"never was"])
    assert await pending_of(catalog) == {
        b"a": Pending.CHANGED,
        b"b": Pending.COMMITTED,
        b"new": Pending.NEW,
    }


async def test_saving_over_a_tombstone_brings_the_entry_back(catalog: Catalog) -> None:
    await fill(catalog, b"a")
    await catalog.entries.bury([(b"a", False)])
    await fill(catalog, b"a", pending=Pending.CHANGED)
    assert await pending_of(catalog) == {b"a": Pending.CHANGED}


async def test_entries_come_in_the_order_of_a_manifest_and_in_pages(catalog: Catalog) -> None:
    paths = [b"", b"a", b"a-b", b"b", b"a/b", b"a/b/c", b"a-b/c"]
    many = [b"m/%06d" % number for number in range(PAGE_ROWS + 1)]
    await fill(catalog, *reversed(paths), *many)
    pages = [page async for page in in_order(catalog)]
    assert max(map(len, pages)) <= PAGE_ROWS
    found = [e.path for page in pages for e in page]
    assert found == sorted(paths + many, key=split_path)


async def test_it_is_empty_until_something_besides_the_root_was_saved(catalog: Catalog) -> None:
    assert await catalog.entries.is_empty()
    await fill(catalog, b"")
    assert await catalog.entries.is_empty()
    await fill(catalog, b"a")
    assert not await catalog.entries.is_empty()


async def test_only_regular_files_are_counted(catalog: Catalog) -> None:
    await catalog.entries.save((entry(b"d/" + kind.value.encode(), kind), Pending.COMMITTED) for kind in Kind)
    await fill(catalog, b"d/")
    assert await catalog.entries.count_files() == 1
    assert await catalog.entries.count_files_below([(b"d", True)]) == 1
    assert await catalog.entries.count_files_below([(b"d", False)]) == 0
    assert await catalog.entries.bury([(b"d", True)]) == 1


@pytest.mark.parametrize("time_ns", [-1, -(10**18), 0, 2**63 - 1, 2**63, 10_000 * 365 * 86400 * 10**9])
async def test_times_before_1970_and_after_2262_survive_closing(database: Path, time_ns: int) -> None:
    saved = entry(b"a", mtime_ns=time_ns, ctime_ns=time_ns - 1)
    async with Catalog.create(database, IDENTITY) as catalog:
        await catalog.entries.save([(saved, Pending.NEW)])
    async with Catalog.open(database, section="home", destination=IDENTITY.destination) as catalog:
        assert await catalog.entries.get(b"a") == saved


segments = st.sampled_from([b"a", b"a-b", b"a0", b"b", b"\xff", b"a\x01"])


@given(
    rows=st.lists(
        st.tuples(st.lists(segments, min_size=1, max_size=3).map(b"/".join), st.sampled_from(Pending)),
        max_size=12,
        unique_by=lambda row: row[0],
    ),
    buried=st.lists(st.lists(segments, min_size=1, max_size=2).map(b"/".join), max_size=3),
    subtree=st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_burying_does_what_a_walk_over_all_paths_would(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[bytes, Pending]],
    buried: list[bytes],
    subtree: bool,
) -> None:
    expected = dict(rows)
    count = 0
    for target in buried:
        for path, pending in list(expected.items()):
            if path == target or (subtree and path.startswith(target + b"/")):
                count += pending is not Pending.DELETED
                if pending is Pending.NEW:
                    del expected[path]
                else:
                    expected[path] = Pending.DELETED

    async def bury() -> None:
        database = tmp_path_factory.mktemp("bury") / "home.sqlite3"
        async with Catalog.create(database, IDENTITY) as catalog:
            await catalog.entries.save((entry(path), pending) for path, pending in rows)
            targets = [(path, subtree) for path in buried]
            assert await catalog.entries.count_files_below(targets) == count
            assert await catalog.entries.bury(targets) == count
            assert await pending_of(catalog) == expected

    asyncio.run(bury())


async def test_pages_are_smaller_where_paths_are_long(catalog: Catalog) -> None:
    deep = b"d" * (PAGE_FOLDER_BYTES // 100)
    await fill(catalog, *(b"a/%04d" % number for number in range(FIRST_PAGE_ROWS + 10)))
    await fill(catalog, *(deep + b"/%04d" % number for number in range(300)))
    sizes = [len(page) async for page in in_order(catalog)]
    assert sum(sizes) == FIRST_PAGE_ROWS + 310
    # What is read ahead goes by what was there before.
    assert sizes[0] == FIRST_PAGE_ROWS
    assert sizes[1] == 310
    await fill(catalog, *(deep + b"/%04d" % number for number in range(300, 5000)))
    sizes = [len(page) async for page in in_order(catalog)]
    assert sizes[1] == PAGE_ROWS
    assert set(sizes[2:-1]) == {99}
