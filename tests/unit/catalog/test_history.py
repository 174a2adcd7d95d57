"""What a new snapshot rests on and differs in, whatever happened to the runs before it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.history import (
    MAX_DEPTH_WRITTEN,
    STATEMENTS_OF_A_BASE,
    STATEMENTS_OF_A_DIFFERENCE,
    SnapshotPlan,
    Totals,
)
from asyncbackup.catalog.replace import replacing
from asyncbackup.catalog.runs import RunRecord
from asyncbackup.errors import CatalogError
from asyncbackup.format.manifest import Deleted
from asyncbackup.model import Entry, Extent, Kind, Pack, Pending, RunId
from tests.unit.catalog.entries import RUN, entry, fill, in_order, pending_of

if TYPE_CHECKING:
    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.format.manifest import TreeItem

FILES = [b"f%02d" % number for number in range(40)]


def run_id(number: int) -> RunId:
    return RunId(f"20261101T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}Z-0000")


async def commit(catalog: Catalog, number: int) -> SnapshotPlan:
    """One run that makes a snapshot of what is there; returns how."""
    run = run_id(number)
    await catalog.runs.begin(run, started_ns=number)
    plan = await catalog.history.plan()
    await catalog.history.commit(run, plan)
    await catalog.runs.finish(run, finished_ns=number, committed=True, summary=None)
    return plan


async def prune(catalog: Catalog, number: int) -> None:
    """What a prune does to a snapshot that it deletes."""
    await catalog.runs.finish(run_id(number), finished_ns=1, committed=False, summary=None)


async def changes(catalog: Catalog, plan: SnapshotPlan) -> list[TreeItem]:
    return [item async for page in catalog.history.changes(plan) for item in page]


async def paths(catalog: Catalog, plan: SnapshotPlan) -> list[bytes]:
    return [item.path for item in await changes(catalog, plan)]


@pytest.fixture
async def begun(catalog: Catalog) -> Catalog:
    """A catalog with the snapshot 0 of forty files."""
    await fill(catalog, b"", *FILES, pending=Pending.NEW)
    assert await commit(catalog, 0) == SnapshotPlan()
    return catalog


async def test_the_first_snapshot_is_full_and_everything_is_settled(begun: Catalog) -> None:
    assert set((await pending_of(begun)).values()) == {Pending.COMMITTED}
    assert await begun.runs.last_snapshot() == run_id(0)


async def test_a_snapshot_rests_on_the_number_without_its_lowest_bit(begun: Catalog) -> None:
    for number in range(1, 40):
        await fill(begun, FILES[number % 4], pending=Pending.CHANGED)
        plan = await commit(begun, number)
        base = number & (number - 1)
        assert plan == SnapshotPlan(
            number=number, depth=number.bit_count(), base=run_id(base), base_number=base
        )
    assert [(r.number, r.depth) for r in await begun.runs.all()] == [(n, n.bit_count()) for n in range(40)]


async def test_a_difference_holds_what_changed_since_its_base(begun: Catalog) -> None:
    for number in range(1, 4):
        await fill(begun, FILES[number], pending=Pending.CHANGED)
        plan = await commit(begun, number)
    assert await paths(begun, plan) == [FILES[3]], "3 rests on 2"
    await fill(begun, FILES[9], pending=Pending.CHANGED)
    plan = await commit(begun, 4)
    assert await paths(begun, plan) == [FILES[1], FILES[2], FILES[3], FILES[9]], "4 rests on 0"


async def test_a_run_without_a_change_differs_in_nothing(begun: Catalog) -> None:
    plan = await commit(begun, 1)
    assert plan.base == run_id(0)
    assert await changes(begun, plan) == []


async def test_what_is_gone_is_named_as_long_as_the_base_has_it(begun: Catalog) -> None:
    await begun.entries.bury([(FILES[5], False)])
    plan = await begun.history.plan()
    assert await changes(begun, plan) == [Deleted(FILES[5])], "before the commit it is a tombstone"
    assert await commit(begun, 1) == plan
    assert await pending_of(begun) == dict.fromkeys([b"", *FILES[:5], *FILES[6:]], Pending.COMMITTED)
    plan = await commit(begun, 2)
    assert plan.base_number == 0
    assert await changes(begun, plan) == [Deleted(FILES[5])]
    await fill(begun, FILES[5], pending=Pending.NEW)
    plan = await commit(begun, 3)
    assert await changes(begun, plan) == [entry(FILES[5])]


async def test_items_come_in_the_order_of_a_manifest(begun: Catalog) -> None:
    await fill(begun, b"a/", b"a-b/", b"a/x", b"a-b/x", pending=Pending.NEW)
    await begun.entries.bury([(FILES[0], False)])
    plan = await commit(begun, 1)
    assert await paths(begun, plan) == [b"a", b"a-b", FILES[0], b"a/x", b"a-b/x"]


async def test_a_snapshot_that_the_catalog_did_not_settle_is_no_base(begun: Catalog) -> None:
    await fill(begun, FILES[1], pending=Pending.CHANGED)
    await begun.runs.begin(run_id(1), started_ns=1)
    lost = await begun.history.plan()  # its manifest is written, and the process dies
    await fill(begun, FILES[2], pending=Pending.CHANGED)
    plan = await commit(begun, 2)
    assert plan == lost
    assert await paths(begun, plan) == [FILES[1], FILES[2]]
    after = await commit(begun, 3)
    assert (after.base, after.base_number) == (run_id(0), 0)


async def test_what_a_killed_run_saved_and_a_later_one_missed_is_a_change(begun: Catalog) -> None:
    changed = msgspec.structs.replace(entry(FILES[1]), size=1000)
    await begun.entries.save([(changed, Pending.CHANGED)])  # killed
    await begun.entries.bury([(FILES[1], False)])  # it was away for a moment; killed again
    await begun.entries.revive([FILES[1]])  # there, as it was saved last
    plan = await commit(begun, 1)
    assert await changes(begun, plan) == [changed]


async def test_what_a_killed_run_added_and_is_gone_does_no_harm(begun: Catalog) -> None:
    await fill(begun, b"new", pending=Pending.NEW)
    await begun.history.plan()  # noted, and the process dies
    await begun.entries.bury([(b"new", False)])
    plan = await commit(begun, 1)
    assert await changes(begun, plan) == [Deleted(b"new")]


@pytest.mark.parametrize("in_one_run", [True, False])
async def test_beyond_a_quarter_a_full_manifest_is_due(begun: Catalog, in_one_run: bool) -> None:
    if not in_one_run:
        await fill(begun, *FILES[5:10], pending=Pending.CHANGED)
        assert (await commit(begun, 1)).base == run_id(0)
    await fill(begun, *FILES[:10], pending=Pending.CHANGED)
    assert (await commit(begun, 2)).base is not None, "ten of forty-one are less"
    await fill(begun, *FILES[:11], pending=Pending.CHANGED)
    assert await commit(begun, 3) == SnapshotPlan()
    plan = await commit(begun, 4)
    assert (plan.number, plan.depth, plan.base) == (1, 1, run_id(3)), "it begins anew"
    assert await changes(begun, plan) == []


async def test_deleting_much_is_a_change_too(begun: Catalog) -> None:
    await begun.entries.bury([(path, False) for path in FILES[:11]])
    assert await commit(begun, 1) == SnapshotPlan()


async def test_a_base_that_was_pruned_is_passed_over_for_the_next_lower(begun: Catalog) -> None:
    for number in range(1, 7):
        await fill(begun, FILES[number], pending=Pending.CHANGED)
        await commit(begun, number)
    await prune(begun, 6)
    assert await begun.runs.last_snapshot() == run_id(5)
    await fill(begun, FILES[0], pending=Pending.CHANGED)
    plan = await commit(begun, 7)
    assert (plan.number, plan.base_number) == (6, 4)
    assert await paths(begun, plan) == [FILES[n] for n in (0, 5, 6)], "also what the pruned one changed"
    await prune(begun, 4)
    plan = await commit(begun, 8)
    assert (plan.number, plan.base_number) == (7, 6)
    await prune(begun, 7)
    plan = await commit(begun, 9)
    assert (plan.number, plan.base_number, plan.depth) == (8, 0, 1)
    assert await paths(begun, plan) == FILES[:7]


async def test_a_snapshot_of_before_the_full_one_is_never_a_base(begun: Catalog) -> None:
    await commit(begun, 1)
    await fill(begun, *FILES, pending=Pending.CHANGED)
    assert (await commit(begun, 2)).base is None
    await prune(begun, 2)
    assert await commit(begun, 3) == SnapshotPlan()


async def test_a_rebuilt_catalog_goes_on_from_what_it_was_rebuilt_from(begun: Catalog) -> None:
    await fill(begun, FILES[1], pending=Pending.CHANGED)
    await commit(begun, 1)

    records = [
        RunRecord(run=run_id(number), started_ns=1, finished_ns=1, committed=True, depth=depth)
        for number, depth in ((5, 0), (7, 3))
    ]
    async with replacing(begun, sealed=False) as new:
        await new.add_entries([entry(b"", Kind.FOLDER), *map(entry, FILES[:30])])
        await new.add_runs(records)
    assert await begun.history.totals() == Totals(
        files=30, folders=1, symlinks=0, bytes=sum(map(len, FILES[:30]))
    )
    for number, depth in ((1, 4), (2, 4), (3, 5)):
        plan = await commit(begun, 10 + number)
        assert (plan.number, plan.depth) == (number, depth)
    assert await changes(begun, SnapshotPlan()) == [], "what was touched before counts no more"


async def test_a_chain_that_grew_too_deep_ends(begun: Catalog) -> None:
    records = [
        RunRecord(run=run_id(1), started_ns=1, finished_ns=1, committed=True, depth=MAX_DEPTH_WRITTEN - 1)
    ]

    async with replacing(begun, sealed=False) as new:
        await new.add_entries([entry(b"", Kind.FOLDER), *map(entry, FILES)])
        await new.add_runs(records)
    assert (await commit(begun, 2)).depth == MAX_DEPTH_WRITTEN
    assert (await commit(begun, 3)).depth == MAX_DEPTH_WRITTEN
    assert await commit(begun, 4) == SnapshotPlan()


async def test_totals_follow_whatever_happens_to_entries(catalog: Catalog) -> None:
    entries = catalog.entries

    async def check() -> None:
        found = {kind: [0, 0] for kind in Kind}
        async for page in in_order(catalog):
            for each in page:
                found[each.kind][0] += 1
                found[each.kind][1] += each.size
        assert await catalog.history.totals() == Totals(
            files=found[Kind.FILE][0],
            folders=found[Kind.FOLDER][0],
            symlinks=found[Kind.SYMLINK][0],
            bytes=found[Kind.FILE][1],
        )

    await fill(catalog, b"", b"d/", b"d/a", b"d/b", b"d/c", b"e", pending=Pending.NEW)
    await entries.save([(entry(b"l", Kind.SYMLINK), Pending.NEW)])
    await check()
    await catalog.history.commit(run_id(0), SnapshotPlan())
    await entries.save([(msgspec.structs.replace(entry(b"d/a"), size=1 << 40), Pending.CHANGED)])
    await entries.save([(entry(b"d/b", Kind.SYMLINK), Pending.CHANGED), (entry(b"l"), Pending.CHANGED)])
    await check()
    await entries.bury([(b"d", True), (b"e", False)])
    await check()
    await entries.revive([b"d", b"d/a"])
    await entries.save([(entry(b"d/c", Kind.FOLDER), Pending.CHANGED)])
    await check()
    await entries.bury([(b"d/a", False)])
    await catalog.history.commit(run_id(0), SnapshotPlan())
    await check()
    assert (await catalog.history.totals()).entries == 4


def packed(path: bytes, run: str, key: str) -> Entry:
    return msgspec.structs.replace(entry(path), extent=Extent(run=run, key=key, length=3, offset=512))


async def describe(catalog: Catalog, *packs: Pack) -> None:
    async with catalog._lock.transaction() as connection:
        await connection.executemany(
            "INSERT INTO packs VALUES (?, ?, ?, ?, ?, ?)", [msgspec.structs.astuple(pack) for pack in packs]
        )


async def test_packs_are_those_of_the_entries(begun: Catalog) -> None:
    later = "20261123T195000Z-3fa2"
    first, second, third, fourth = (
        Pack(RUN, "packs/000001.tar", 100, "c1"),
        Pack(RUN, "packs/000002.tar", 200, "c2", True, "zstd"),
        Pack(later, "packs/000001.tar", 300, "c3"),
        Pack(later, "packs/000002.tar", 400, "c4"),
    )
    await describe(begun, third, first, second, fourth)
    await begun.entries.save(
        [
            (packed(FILES[0], later, third.key), Pending.COMMITTED),
            (packed(FILES[1], RUN, second.key), Pending.COMMITTED),
            (packed(FILES[2], RUN, second.key), Pending.CHANGED),
            (packed(FILES[3], RUN, first.key), Pending.CHANGED),
            (packed(FILES[4], later, fourth.key), Pending.CHANGED),
        ]
    )
    await begun.entries.bury([(FILES[4], False)])
    plan = await begun.history.plan()
    assert plan.base is not None
    assert [pack async for page in begun.history.packs(plan) for pack in page] == [first, second]
    full = [pack async for page in begun.history.packs(SnapshotPlan()) for pack in page]
    assert full == [first, second, third]


@pytest.mark.parametrize("full", [True, False])
async def test_a_pack_without_a_description_is_no_pack(begun: Catalog, full: bool) -> None:
    await begun.entries.save([(packed(FILES[0], RUN, "packs/000009.tar"), Pending.CHANGED)])
    plan = SnapshotPlan() if full else await begun.history.plan()
    with pytest.raises(CatalogError, match=f"pack {RUN}/packs/000009.tar .*syncdb_remote"):
        assert [page async for page in begun.history.packs(plan)]


@pytest.mark.parametrize("statement", STATEMENTS_OF_A_DIFFERENCE)
async def test_a_difference_never_goes_through_all_entries(catalog: Catalog, statement: str) -> None:
    marks = (1,) * statement.count("?")
    steps = await catalog._connection.execute_fetchall(f"EXPLAIN QUERY PLAN {statement}", marks)
    looked = [str(step[3]) for step in steps]
    assert any("entries" in step or "e USING" in step for step in looked)
    assert not [step for step in looked if re.fullmatch("SCAN (e|entries)", step)]


@pytest.mark.parametrize("statement", STATEMENTS_OF_A_BASE)
async def test_choosing_a_base_never_goes_through_all_runs(catalog: Catalog, statement: str) -> None:
    marks = (1,) * statement.count("?")
    steps = await catalog._connection.execute_fetchall(f"EXPLAIN QUERY PLAN {statement}", marks)
    assert all("USING INDEX runs_number" in str(step[3]) for step in steps)
