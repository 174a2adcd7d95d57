"""The list of runs, and the snapshots among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncbackup.catalog.runs import RunRecord
from asyncbackup.errors import CatalogError
from asyncbackup.model import Failure, Kind, RunId, RunSummary

if TYPE_CHECKING:
    from asyncbackup.catalog.catalog import Catalog

FIRST = RunId("20261122T195000Z-3fa2")
SECOND = RunId("20261122T195001Z-0000")
THIRD = RunId("20261123T000000Z-ffff")

SUMMARY = RunSummary(
    section="home",
    snapshot=FIRST,
    files_scanned=5,
    files_new=1,
    files_changed=1,
    files_unchanged=2,
    files_deleted=0,
    files_failed=1,
    files_ignored=0,
    symlinks=0,
    folders=1,
    bytes_scanned=2**60,
    bytes_read=2**60,
    bytes_uploaded=3,
    requests={"PutObject": 4},
    elapsed_seconds=1.5,
    peak_inflight_bytes=9,
    limited_by="walk",
    limited_by_shares={"walk": 1.0},
    failures=(Failure(path=b"odd \xff\n", reason="cannot read: Permission denied", kind=Kind.FILE),),
)


async def finish(catalog: Catalog, run: RunId, *, committed: bool = True) -> None:
    await catalog.runs.begin(run, started_ns=1)
    await catalog.runs.finish(run, finished_ns=2, committed=committed, summary=None)


async def test_at_first_there_is_none(catalog: Catalog) -> None:
    runs = catalog.runs
    assert await runs.all() == []
    assert await runs.last() is None
    assert await runs.last_snapshot() is None
    assert not await runs.ended_unclean()


async def test_a_run_is_unclean_until_it_is_finished(catalog: Catalog) -> None:
    runs = catalog.runs
    await runs.begin(FIRST, started_ns=-5)
    assert await runs.ended_unclean()
    assert await runs.last() == RunRecord(run=FIRST, started_ns=-5, finished_ns=None, committed=False)
    assert await runs.last_snapshot() is None
    await runs.finish(FIRST, finished_ns=7, committed=True, summary=SUMMARY)
    assert not await runs.ended_unclean()
    assert await runs.last_snapshot() == FIRST
    record = await runs.last()
    assert record == RunRecord(run=FIRST, started_ns=-5, finished_ns=7, committed=True, summary=SUMMARY)


async def test_the_last_snapshot_need_not_be_the_last_run(catalog: Catalog) -> None:
    await finish(catalog, FIRST)
    await finish(catalog, SECOND, committed=False)
    await catalog.runs.begin(THIRD, started_ns=3)
    last = await catalog.runs.last()
    assert last is not None
    assert last.run == THIRD
    assert await catalog.runs.last_snapshot() == FIRST
    assert [record.run for record in await catalog.runs.all()] == [FIRST, SECOND, THIRD]


async def test_settling_touches_only_unfinished_runs_before_ours(catalog: Catalog) -> None:
    await finish(catalog, FIRST)
    await catalog.runs.begin(SECOND, started_ns=1)
    await catalog.runs.begin(THIRD, started_ns=1)
    await catalog.runs.settle_unclean(finished_ns=50, before=THIRD)
    assert [record.finished_ns for record in await catalog.runs.all()] == [2, 50, None]
    assert [record.committed for record in await catalog.runs.all()] == [True, False, False]
    assert await catalog.runs.ended_unclean()


async def test_a_run_id_is_used_once(catalog: Catalog) -> None:
    await catalog.runs.begin(FIRST, started_ns=1)
    with pytest.raises(CatalogError):
        await catalog.runs.begin(FIRST, started_ns=2)


async def test_a_rebuild_replaces_all(catalog: Catalog) -> None:
    await finish(catalog, THIRD)
    records = [
        RunRecord(run=SECOND, started_ns=3, finished_ns=4, committed=True),
        RunRecord(run=FIRST, started_ns=1, finished_ns=2, committed=True),
    ]
    await catalog.runs.replace_all(records)
    assert await catalog.runs.all() == sorted(records, key=lambda record: record.run)
    assert await catalog.runs.last_snapshot() == SECOND
