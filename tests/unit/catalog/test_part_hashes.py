"""What is remembered of the parts of large objects, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.history import SnapshotPlan
from asyncbackup.catalog.part_hashes import FORGET_UNUSED
from asyncbackup.model import Entry, Extent, Pending, RunId
from asyncbackup.resume import PartHashes
from tests.unit.catalog.entries import RUN, entry

if TYPE_CHECKING:
    from asyncbackup.catalog.catalog import Catalog

MADE = PartHashes(run=RUN, key="files/large", part_size=5, hashes=b"1" * 32 + b"2" * 32 + b"3" * 32)
EARLIER = msgspec.structs.replace(MADE, run="20260101T000000Z-0000", hashes=b"4" * 32)


def large(made: PartHashes, path: bytes = b"d/large") -> Entry:
    extent = Extent(run=made.run, key=made.key, length=12, part_size=made.part_size)
    return msgspec.structs.replace(entry(path), extent=extent)


def test_a_part_is_compared_with_that_of_its_number() -> None:
    assert MADE.has(1, b"1" * 32)
    assert MADE.has(3, b"3" * 32)
    assert not MADE.has(2, b"3" * 32)
    assert not MADE.has(4, b"4" * 32)


async def test_the_parts_of_what_an_upload_made(catalog: Catalog) -> None:
    await catalog.uploads.ended("one", made=MADE)
    await catalog.uploads.ended("two", made=EARLIER)
    assert await catalog.uploads.parts_of(MADE.run, MADE.key) == MADE
    assert await catalog.uploads.parts_of(EARLIER.run, EARLIER.key) == EARLIER
    assert await catalog.uploads.parts_of(RUN, "files/other") is None
    await catalog.uploads.ended("three")
    assert await catalog.uploads.parts_of(MADE.run, MADE.key) == MADE


async def test_a_commit_forgets_the_parts_of_what_no_entry_refers_to(catalog: Catalog) -> None:
    for made in (MADE, EARLIER):
        await catalog.uploads.ended("", made=made)
    await catalog.entries.save([(large(EARLIER), Pending.COMMITTED)])
    await catalog.entries.save([(large(MADE), Pending.CHANGED)])
    assert await catalog.uploads.parts_of(EARLIER.run, EARLIER.key) == EARLIER, "the run may yet fail"
    await catalog.history.commit(RunId(RUN), SnapshotPlan())
    assert await catalog.uploads.parts_of(EARLIER.run, EARLIER.key) is None
    assert await catalog.uploads.parts_of(MADE.run, MADE.key) == MADE


async def test_a_content_may_have_moved(catalog: Catalog) -> None:
    await catalog.uploads.ended("", made=MADE)
    await catalog.entries.save([(large(MADE), Pending.DELETED), (large(MADE, b"moved"), Pending.NEW)])
    await catalog.history.commit(RunId(RUN), SnapshotPlan())
    assert await catalog.uploads.parts_of(MADE.run, MADE.key) == MADE
    await catalog.entries.bury([(b"moved", False)])
    await catalog.history.commit(RunId(RUN), SnapshotPlan())
    assert await catalog.uploads.parts_of(MADE.run, MADE.key) is None


async def test_forgetting_reads_no_row_but_those_of_large_files(catalog: Catalog) -> None:
    plan = await catalog._connection.execute_fetchall(f"EXPLAIN QUERY PLAN {FORGET_UNUSED}")
    steps = [str(step[3]) for step in plan]
    assert any("SEARCH entries USING" in step and "entries_parts" in step for step in steps), steps
