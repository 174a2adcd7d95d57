"""How rows are cut into spans, and how the beginnings of packs are asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncbackup.catalog.selection import Role, SelectedEntry, State
from asyncbackup.format.envelope import Sealer
from asyncbackup.format.expand import EXTRA_BYTES
from asyncbackup.format.keyslots import RepositoryKey
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener
from asyncbackup.model import Extent
from asyncbackup.restore.heads import PACKS_REMEMBERED, PackHeads
from asyncbackup.restore.outcome import ContentError
from asyncbackup.restore.spans import (
    GAP_BYTES,
    SPAN_PATH_BYTES,
    SPAN_ROWS,
    SPAN_ROWS_MOST,
    Span,
    SpanPlanner,
    spans_of,
)
from tests.unit.restore.backup import file_entry

RUN = "20260921T141320Z-da77"
MIB = 1024 * 1024


def row(
    number: int, offset: int, size: int, *, path: str = "", key: str = "packs/000001.tar", **extent: Any
) -> SelectedEntry:
    fields: dict[str, Any] = {"length": size} | extent
    place = Extent(run=RUN, key=key, offset=offset, **fields)
    entry = file_entry(path or f"f{number}", size=size, sha256=b"s" * 32, extent=place)
    return SelectedEntry(number, State.TODO, Role.FILE, False, None, entry)


def planner(span_bytes: int = MIB) -> SpanPlanner:
    return SpanPlanner("home", can_open=True, span_bytes=span_bytes)


def cut(rows: list[SelectedEntry], span_bytes: int = MIB) -> list[tuple[int, int, list[int]]]:
    """Spans as start, stop and rows."""
    made = planner(span_bytes)
    jobs = [*made.add(rows), *made.finish()]
    assert all(isinstance(job, Span) for job in jobs)
    return [
        (job.start, job.stop, [member.row.id for member in job.members])
        for job in jobs
        if isinstance(job, Span)
    ]


def test_small_gaps_are_read_over_and_large_ones_are_not() -> None:
    rows = [row(1, 512, 100), row(2, 612 + GAP_BYTES, 100), row(3, 713 + 2 * GAP_BYTES, 100)]
    assert cut(rows) == [
        (512, 712 + GAP_BYTES, [1, 2]),
        (713 + 2 * GAP_BYTES, 813 + 2 * GAP_BYTES, [3]),
    ]


def test_a_span_has_at_most_its_bytes() -> None:
    rows = [row(number, number * 1000, 1000) for number in range(10)]
    assert cut(rows, 3000) == [
        (0, 3000, [0, 1, 2]),
        (3000, 6000, [3, 4, 5]),
        (6000, 9000, [6, 7, 8]),
        (9000, 10000, [9]),
    ]


def test_each_pack_begins_a_span() -> None:
    rows = [row(1, 0, 10), row(2, 10, 10), row(3, 20, 10, key="packs/000002.tar")]
    rows.append(row(4, 30, 10, key="packs/000002.tar", encrypted=True))
    assert [found[2] for found in cut(rows)] == [[1, 2], [3], [4]]


def test_spans_do_not_end_with_the_page() -> None:
    made = planner()
    assert made.add([row(1, 0, 10)]) == []
    assert made.add([row(2, 10, 10)]) == []
    (span,) = made.finish()
    assert (span.start, span.stop) == (0, 20)
    assert made.finish() == []


def test_overlapping_extents_stay_within_the_span() -> None:
    """Nobody writes them, but somebody may claim them."""
    assert cut([row(1, 0, 1000), row(2, 10, 20), row(3, 500, 600)]) == [(0, 1100, [1, 2, 3])]


def test_copies_share_a_frame_and_many_files_end_a_span_at_a_frame() -> None:
    frame: dict[str, Any] = {"compression": "zstd", "length": 50}
    rows = [row(number, 0, 10, **frame) for number in range(SPAN_ROWS + 5)]
    rows += [row(10_000, 50, 10, **frame)]
    assert [(start, stop, len(ids)) for start, stop, ids in cut(rows)] == [
        (0, 50, SPAN_ROWS + 5),
        (50, 100, 1),
    ]
    rows = [row(number, 0, 10, **frame) for number in range(SPAN_ROWS_MOST + 5)]
    assert [len(ids) for _, _, ids in cut(rows)] == [SPAN_ROWS_MOST, 5]


def test_long_paths_end_a_span() -> None:
    rows = [row(number, number * 10, 10, path="d" * (SPAN_PATH_BYTES // 4)) for number in range(9)]
    assert [len(ids) for _, _, ids in cut(rows)] == [4, 4, 1]


@pytest.mark.parametrize(
    "odd",
    [
        row(2, 10, 2 * MIB),
        row(2, 10, 10, compression="zstd", length=2 * MIB),
        row(2, 10, 10, compression="zstd", skip=2 * MIB),
        row(2, 10, 10, length=11),
    ],
    ids=["large", "large frame", "far in its frame", "contradiction"],
)
def test_what_fits_in_no_span_is_a_job_of_its_own(odd: SelectedEntry) -> None:
    rows = [row(3, 20, 10), odd, row(1, 0, 10)]
    spans, singles = spans_of(rows, "home", can_open=True, span_bytes=MIB)
    assert [[member.row.id for member in span.members] for span in spans] == [[1, 3]]
    assert singles == [odd]


def test_what_a_span_holds_in_memory() -> None:
    made = planner()
    rows = [row(1, 0, 300), row(2, 300, 500)]
    made.add(rows)
    assert made.finish()[0].held_bytes == 800
    made.add([row(1, 0, 300, encrypted=True), row(2, 300, 500, encrypted=True)])
    assert made.finish()[0].held_bytes == 800 + 500
    frame: dict[str, Any] = {"compression": "zstd", "length": 50, "encrypted": True}
    made.add([row(1, 0, 300, **frame), row(2, 0, 500, skip=300, **frame), row(3, 50, 100, **frame)])
    assert made.finish()[0].held_bytes == 100 + 50 + 800 + EXTRA_BYTES


def opener_of(key: str) -> RangeOpener:
    secret = RepositoryKey(b"k" * 32)
    place = {"repository": "8f14e45fceea167a5a36dedd4bea2543", "section": "home", "object_key": key}
    sealer = Sealer(secret, size=10, **place)
    stored = sealer.start() + bytes(sealer.update(bytes(10))) + sealer.finalize()
    return RangeOpener(secret, head=stored[:HEAD_SIZE], stored_size=len(stored), **place)


class Heads:
    """Answers once ``release`` is set; counts who asked. ``failing`` answers are errors."""

    def __init__(self, *, failing: int = 0) -> None:
        self.asked: list[str] = []
        self.release = asyncio.Event()
        self.failing = failing

    async def fetch(self, key: str) -> RangeOpener:
        self.asked.append(key)
        await self.release.wait()
        if self.failing:
            self.failing -= 1
            raise ContentError("planned")
        return opener_of(key)


async def test_of_several_that_ask_at_once_one_fetches() -> None:
    heads = Heads()
    packs = PackHeads(heads.fetch)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(packs.get("a")) for _ in range(5)]
        await asyncio.sleep(0)
        heads.release.set()
    assert len({id(task.result()) for task in tasks}) == 1
    assert await packs.get("a") is tasks[0].result()
    assert heads.asked == ["a"]


async def test_one_failure_is_not_everybodys() -> None:
    heads = Heads(failing=1)
    packs = PackHeads(heads.fetch)
    tasks = [asyncio.ensure_future(packs.get("a")) for _ in range(3)]
    await asyncio.sleep(0)
    heads.release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, ContentError) for result in results] == [True, False, False]
    assert heads.asked == ["a", "a"]


async def test_one_cancellation_is_not_everybodys() -> None:
    heads = Heads()
    packs = PackHeads(heads.fetch)
    tasks = [asyncio.ensure_future(packs.get("a")) for _ in range(2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    heads.release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], RangeOpener)


async def test_the_least_used_is_forgotten() -> None:
    heads = Heads()
    heads.release.set()
    packs = PackHeads(heads.fetch)
    for number in range(PACKS_REMEMBERED):
        await packs.get(str(number))
    await packs.get("0")
    await packs.get("one more")
    await packs.get("0")
    assert len(heads.asked) == PACKS_REMEMBERED + 1
    await packs.get("1")
    assert len(heads.asked) == PACKS_REMEMBERED + 2
