"""What fits into the limits."""

from __future__ import annotations

import pytest

from asyncbackup.bench.measurement import HEAD, LIST
from asyncbackup.bench.schedule import GIB, KIB, MIB, QUICK, BenchSettings, schedule


@pytest.mark.parametrize("settings", [BenchSettings(), QUICK])
def test_the_bytes_stay_within_the_limit(settings: BenchSettings) -> None:
    plan = schedule(settings)
    assert sum(cell.bytes_per_repeat * cell.repeats for cell in plan.cells) <= settings.max_bytes
    # Small objects are measured at every concurrency, and as often as asked for.
    smallest = [cell for cell in plan.cells if cell.size == min(settings.sizes)]
    assert [cell.concurrency for cell in smallest] == list(settings.concurrencies)
    assert {cell.repeats for cell in smallest} == {settings.repeats}
    # Some multipart upload is measured in any case.
    assert any(cell.operations == ("MULTIPART",) for cell in plan.cells)


def test_each_is_measured_once_before_any_is_repeated() -> None:
    plan = schedule(
        BenchSettings(sizes=(MIB, 2 * MIB), part_sizes=(), concurrencies=(4,), max_bytes=24 * MIB)
    )
    assert [(cell.size, cell.repeats) for cell in plan.cells] == [(MIB, 1), (2 * MIB, 1)]
    more = schedule(
        BenchSettings(sizes=(MIB, 2 * MIB), part_sizes=(), concurrencies=(4,), max_bytes=32 * MIB)
    )
    assert [(cell.size, cell.repeats) for cell in more.cells] == [(MIB, 2), (2 * MIB, 1)]


def test_what_has_no_room_is_named() -> None:
    plan = schedule(
        BenchSettings(sizes=(KIB, 8 * MIB), part_sizes=(), concurrencies=(64,), max_bytes=GIB // 2)
    )
    assert [cell.name for cell in plan.left_out] == ["PUT/GET 8.00 MiB, 64 at once"]


def test_there_are_at_least_as_many_operations_as_go_at_once() -> None:
    for cell in schedule(BenchSettings()).cells:
        assert cell.count >= cell.concurrency


def test_few_list_at_once() -> None:
    cells = schedule(BenchSettings(concurrencies=(16, 32))).cells
    assert [cell.concurrency for cell in cells if LIST in cell.operations] == [16]
    assert [cell.concurrency for cell in cells if HEAD in cell.operations] == [16, 32]
