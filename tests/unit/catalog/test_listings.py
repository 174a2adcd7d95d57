"""Digests of listings: what they are of, and that none outlives a change of what it is of."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.catalog.listings import (
    LISTED_AT_ONCE,
    LONGEST_PATH_BYTES,
    NOTED_AT_ONCE,
    SavedListings,
    listing_digest,
)
from asyncbackup.catalog.repair import mark_damaged
from asyncbackup.catalog.replace import replacing
from asyncbackup.catalog.rows import NLINK, PENDING
from asyncbackup.excludes import exclude_nothing
from asyncbackup.model import Kind, Pending, RunId, split_path
from asyncbackup.pipeline.attributes import entry_of_source
from asyncbackup.pipeline.walker import FolderLister, WalkSettings
from tests.unit.catalog.entries import IDENTITY, RUN, entry, fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from asyncbackup.catalog.rows import Row

TREE = (b"", b"a/", b"a/x", b"a/y", b"b/", b"b/x")
FOLDERS = (b"", b"a", b"b")


async def note_saved(catalog: Catalog) -> None:
    """Note the digests of all folders, as the writing of a full manifest does."""
    saved = SavedListings(catalog.listings)
    async for rows in catalog.entries.rows_in_order():
        await saved.add(rows)
    await saved.finish()


async def rows_of(catalog: Catalog, folder: bytes) -> list[Row]:
    """The rows of a folder as a walker would make them if nothing had changed."""
    rows = await catalog.entries.stats_of_folders([folder])
    return [(*row[:PENDING], 0, *row[PENDING + 1 :]) for row in rows if row[PENDING] != Pending.DELETED]


async def settle(catalog: Catalog, number: int = 0) -> None:
    run = RunId(f"20261122T1950{number:02}Z-3fa2")
    await catalog.runs.begin(run, started_ns=number)
    await catalog.history.commit(run, await catalog.history.plan())


@pytest.fixture
async def noted(catalog: Catalog) -> Catalog:
    """A catalog with a small tree and the digests of its folders."""
    await fill(catalog, *TREE)
    await note_saved(catalog)
    return catalog


async def test_a_digest_is_that_of_the_rows_that_a_walker_makes(catalog: Catalog, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "f" / "folder").mkdir(parents=True)
    (tree / "f" / "file").write_bytes(b"content")
    (tree / "f" / "link").symlink_to("file")
    (tree / "f" / "twin").hardlink_to(tree / "f" / "file")
    lister = FolderLister(WalkSettings(root=bytes(tree), excludes=exclude_nothing), [b"f"])
    batch = lister.next_batch()
    assert batch is not None
    chunk = batch.chunks[0]
    assert chunk.whole
    assert len(chunk.rows) == 4
    later_ns = max(each.ctime_ns for each in chunk.entries) + 10**12
    entries = [entry_of_source(each, looked_ns=later_ns, xattrs=()) for each in chunk.entries]
    await catalog.entries.save((each, Pending.NEW) for each in entries)
    await note_saved(catalog)
    assert await catalog.listings.find([b"f", b"g"]) == {b"f": chunk.digest()}


async def test_every_folder_but_the_root_gets_its_own(noted: Catalog) -> None:
    found = await noted.listings.find(FOLDERS)
    assert found == {folder: listing_digest(await rows_of(noted, folder)) for folder in (b"a", b"b")}
    assert len(set(found.values())) == 2


async def test_settling_what_is_pending_forgets_none(catalog: Catalog) -> None:
    await fill(catalog, *TREE, pending=Pending.NEW)
    await note_saved(catalog)
    before = await catalog.listings.find(FOLDERS)
    assert not await catalog.listings.usable(), "a killed run leaves it like this"
    await settle(catalog)
    assert await catalog.listings.find(FOLDERS) == before
    assert await catalog.listings.usable()


async def test_settling_what_was_buried_forgets_none_either(noted: Catalog) -> None:
    await bury(noted)
    await note_saved(noted)
    before = await noted.listings.find(FOLDERS)
    await settle(noted)
    assert await noted.listings.find(FOLDERS) == before
    assert before == {folder: listing_digest(await rows_of(noted, folder)) for folder in (b"a", b"b")}


async def test_what_takes_the_place_of_something_buried_is_a_change(noted: Catalog) -> None:
    await bury(noted)
    await note_saved(noted)
    await save(noted, name="size", value=1)
    assert set(await noted.listings.find(FOLDERS)) == {b"b"}


async def test_without_any_they_are_not_asked_for(catalog: Catalog) -> None:
    await fill(catalog, *TREE)
    assert not await catalog.listings.usable()


async def save(catalog: Catalog, *, name: str, value: int) -> None:
    changed = msgspec.structs.replace(entry(b"a/x"), **{name: value})
    await catalog.entries.save([(changed, Pending.CHANGED)])


async def bury(catalog: Catalog) -> None:
    await catalog.entries.bury([(b"a/x", False)])


async def bury_all(catalog: Catalog) -> None:
    await catalog.entries.bury([(b"a", True)])


async def add(catalog: Catalog) -> None:
    await fill(catalog, b"a/z", pending=Pending.NEW)


async def mark(catalog: Catalog) -> None:
    async def damaged() -> AsyncIterator[list[tuple[str, str]]]:
        yield [(RUN, "files/" + b"a/x".hex())]

    await mark_damaged(catalog, damaged(), broken=())


DIFFERENT = {
    "mode": 0o100600, "size": 1, "mtime_ns": 1, "ctime_ns": 1, "uid": 1, "gid": 1, "nlink": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        *(pytest.param(partial(save, name=name, value=value), id=name) for name, value in DIFFERENT.items()),
        bury,
        bury_all,
        add,
        mark,
    ],
)
async def test_a_change_in_a_folder_forgets_its_digest_and_no_other(
    noted: Catalog, change: Callable[[Catalog], Awaitable[None]]
) -> None:
    await change(noted)
    assert set(await noted.listings.find(FOLDERS)) == {b"b"}


async def test_what_was_buried_and_is_taken_back_forgets_it_too(noted: Catalog) -> None:
    await bury(noted)
    await note_saved(noted)
    assert set(await noted.listings.find(FOLDERS)) == {b"a", b"b"}
    await noted.entries.revive([b"a/x"])
    assert set(await noted.listings.find(FOLDERS)) == {b"b"}


async def test_a_rebuild_forgets_all(noted: Catalog) -> None:
    async with replacing(noted, sealed=False) as new:
        await new.add_entries(entry(path.rstrip(b"/"), Kind.FOLDER) for path in TREE if path.endswith(b"/"))
    assert await noted.listings.find(FOLDERS) == {}
    await note_saved(noted)
    await add(noted)
    assert b"a" not in await noted.listings.find(FOLDERS), "and what forgets them is there again"


async def test_nothing_is_noted_of_a_folder_with_something_pending(catalog: Catalog) -> None:
    await fill(catalog, *TREE)
    await fill(catalog, b"b/z", pending=Pending.NEW)
    await catalog.listings.note([(b"a", b"1" * 32), (b"b", b"2" * 32)])
    assert await catalog.listings.find(FOLDERS) == {b"a": b"1" * 32}


async def test_a_folder_that_is_listed_in_parts_has_none(catalog: Catalog) -> None:
    await fill(catalog, *(b"large/%05d" % number for number in range(LISTED_AT_ONCE + 1)), b"small/x")
    await fill(catalog, *(b"limit/%05d" % number for number in range(LISTED_AT_ONCE)))
    await note_saved(catalog)
    assert set(await catalog.listings.find([b"large", b"limit", b"small"])) == {b"limit", b"small"}


async def test_a_folder_with_a_very_long_path_has_none(catalog: Catalog) -> None:
    longest = b"/".join([b"x" * 127] * (LONGEST_PATH_BYTES // 128)) + b"y"
    assert len(longest) == LONGEST_PATH_BYTES
    await fill(catalog, longest + b"/x", longest + b"y/x")
    await note_saved(catalog)
    assert set(await catalog.listings.find([longest, longest + b"y"])) == {longest}


async def test_many_folders_all_get_theirs(catalog: Catalog) -> None:
    folders = [b"%05d" % number for number in range(2 * NOTED_AT_ONCE + 100)]
    await fill(catalog, *(folder + b"/x" for folder in folders))
    await note_saved(catalog)
    assert len(await catalog.listings.find(folders)) == len(folders)


def test_what_has_no_place_in_64_bits_and_what_is_empty_has_no_digest() -> None:
    row: Row = (b"f", b"x", 0, 0o100644, 1, 2**64, 1, 0, 0, 1)
    assert len(row) == NLINK + 1
    assert listing_digest([row]) == b""
    assert listing_digest([]) == b""


async def test_a_time_beyond_64_bits_is_no_match(catalog: Catalog) -> None:
    """SQLite keeps it as text, of which a walker knows nothing: such a folder is compared row by row."""
    late = msgspec.structs.replace(entry(b"f/x"), mtime_ns=2**63)
    await catalog.entries.save([(late, Pending.COMMITTED)])
    await note_saved(catalog)
    seen: Row = (b"f", b"x", 0, late.mode, late.size, late.mtime_ns, late.ctime_ns, 0, 0, late.nlink)
    assert (await catalog.listings.find([b"f"])).get(b"f") != listing_digest([seen])


async def test_a_database_from_before_gets_the_table_when_opened(database: Path) -> None:
    async with Catalog.create(database, IDENTITY) as catalog:
        await fill(catalog, *TREE)
    with sqlite3.connect(database) as connection:
        for name in ("added", "removed", "changed", "buried"):
            connection.execute(f"DROP TRIGGER listings_{name}")
        connection.execute("DROP TABLE listings")
    connection.close()
    database.with_name(database.name + ".sha256").unlink()
    for _ in range(2):
        async with Catalog.open(
            database, section=IDENTITY.section, destination=IDENTITY.destination
        ) as catalog:
            await note_saved(catalog)
            await add(catalog)
            assert set(await catalog.listings.find(FOLDERS)) == {b"b"}


paths = st.sampled_from([b"a/x", b"a/y", b"b/x", b"b", b"a-b/x", b"a/b/x"])
steps = st.one_of(
    st.tuples(st.just("save"), paths, st.sampled_from([5, 6]), st.sampled_from(Pending)),
    st.tuples(st.just("bury"), paths, st.booleans(), st.none()),
    st.tuples(st.just("revive"), paths, st.none(), st.none()),
    st.tuples(st.just("settle"), st.none(), st.none(), st.none()),
    st.tuples(st.just("note saved"), st.none(), st.none(), st.none()),
    st.tuples(st.just("note"), paths, st.none(), st.none()),
    st.tuples(st.just("mark"), st.none(), st.none(), st.none()),
)


@given(steps=st.lists(steps, min_size=3, max_size=15))
@settings(max_examples=40, derandomize=True)
def test_whatever_happens_a_digest_is_that_of_what_the_rows_say(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, bytes, int, Pending]]
) -> None:
    async def follow() -> None:
        database = tmp_path_factory.mktemp("listings") / "home.sqlite3"
        async with Catalog.create(database, IDENTITY) as catalog:
            for number, (step, path, value, pending) in enumerate(steps):
                if step == "save":
                    await catalog.entries.save([(entry(path, mtime_ns=value), pending)])
                elif step == "bury":
                    await catalog.entries.bury([(path, bool(value))])
                elif step == "revive":
                    await catalog.entries.revive([path])
                elif step == "settle":
                    await settle(catalog, number)
                elif step == "mark":
                    await mark(catalog)
                elif step == "note":
                    folder = split_path(path)[0]
                    await catalog.listings.note([(folder, listing_digest(await rows_of(catalog, folder)))])
                else:
                    await note_saved(catalog)
                folders = {split_path(path)[0] for path in (b"a/x", b"b", b"b/x", b"a-b/x", b"a/b/x")}
                for folder, digest in (await catalog.listings.find(sorted(folders))).items():
                    assert digest == listing_digest(await rows_of(catalog, folder)), (step, path)

    asyncio.run(follow())
