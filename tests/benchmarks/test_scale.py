"""The growth of cost: small real runs, and a report whose figures come from made-up samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from benchmarks import scale
from benchmarks.measure import Cost
from benchmarks.page import SCALE
from benchmarks.results import Sample
from benchmarks.scale_report import EMPTY, Scale, Size, markdown, rows, starts
from benchmarks.targets import MIRROR, PACKED
from benchmarks.trees import extent, folders, tiny_tree

WORKS = ("first", "unchanged", "restored")


def test_a_tree_is_measured_in_both_layouts_and_start_up_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, work = tmp_path / "docs", tmp_path / "work"
    docs.mkdir()
    (docs / "benchmarks.md").write_text("# Benchmarks\n")
    monkeypatch.setattr(scale, "DOCS", docs)
    assert scale.main(["--files", "130", "--runs", "1", "--work", str(work), "--publish"]) == 0
    told = msgspec.json.decode((docs / "benchmarks" / "scale.json").read_bytes(), type=Scale)
    assert [(size.name, size.files, size.folders) for size in told.sizes] == [
        (EMPTY, 0, 0),
        ("130 files", 130, 3),
    ]
    assert [(s.tree, s.tool, s.work) for s in told.samples] == [
        (size.name, tool, work) for size in told.sizes for tool in (MIRROR, PACKED) for work in WORKS
    ]
    first = {(s.tree, s.tool): s for s in told.samples if s.work == "first"}
    assert first["130 files", MIRROR].objects - first[EMPTY, MIRROR].objects == 133
    assert first["130 files", PACKED].objects - first[EMPTY, PACKED].objects < 5
    page = (docs / "benchmarks.md").read_text()
    assert page.count(SCALE.begin) == 1
    assert page.count(f"| {MIRROR}, first run | 130 |") == 1


def test_what_does_not_come_back_is_left_out_and_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def idle(command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path) -> Cost:
        """Restores nothing, which is right for the empty tree alone."""
        return Cost(1.0, 0.5, 50.0)

    monkeypatch.setattr("benchmarks.suite.run", idle)
    words = f"--files 20,1 --runs 2 --destination folder --work {tmp_path}"
    assert scale.main(words.split()) == 1
    told = msgspec.json.decode((tmp_path / "scale.json").read_bytes(), type=Scale)
    assert [size.files for size in told.sizes] == [0, 1, 20]
    assert [(s.tree, s.tool, s.run) for s in told.samples if s.work == "first"] == [
        (EMPTY, tool, run) for run in (1, 2) for tool in (MIRROR, PACKED)
    ]
    assert len(told.left_out) == 4
    assert "1 files, run 1: did not come back whole: missing: 000/00000/0.txt" in told.left_out[0]


def test_tiny_files_are_some_500_bytes_and_none_is_like_another(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "one", files=300)
    assert (tree.files, folders(tree.path)) == (300, 4)
    assert 450 < tree.bytes / tree.files < 550
    bodies = {path.relative_to(tree.path): path.read_bytes() for path in tree.path.rglob("*.txt")}
    assert len(set(bodies.values())) == 300
    again = tiny_tree(tmp_path / "two", files=300)
    assert bodies == {path.relative_to(again.path): path.read_bytes() for path in again.path.rglob("*.txt")}
    assert extent(tree.path) == (300, sum(map(len, bodies.values())))


def test_small_trees_are_measured_more_often_than_large_ones() -> None:
    assert [scale.counted_runs(files, 5) for files in (10_000, 100_000, 1_000_000)] == [5, 3, 1]
    assert scale.counted_runs(10_000, 2) == 2


@pytest.mark.parametrize("sizes", ["10,x", "0,10"])
def test_sizes_that_are_none_are_refused(sizes: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        scale.main(["--files", sizes])


def sample(tree: str, run: int, *, cpu: float, wall: float, peak: float = 100.0) -> Sample:
    return Sample(
        tool=MIRROR, tree=tree, work="unchanged", run=run, wall_seconds=wall, cpu_seconds=cpu, peak_mb=peak
    )


def made_up(*samples: Sample) -> Scale:
    return Scale(
        machine="m",
        destination="d",
        concurrency=32,
        sizes=[
            Size(EMPTY, 0, 0, 0),
            Size("small", 1000, 10, 500_000),
            Size("large", 10_000, 101, 5_000_000),
        ],
        samples=list(samples),
        left_out=["x: why"],
    )


def test_start_up_is_taken_off_and_told() -> None:
    told = made_up(
        *(sample(EMPTY, run, cpu=cpu, wall=0.5) for run, cpu in ((1, 0.3), (2, 0.4), (3, 0.9))),
        sample("small", 1, cpu=0.42, wall=0.55),
        sample("small", 2, cpu=0.44, wall=0.55, peak=170.0),
        sample("small", 3, cpu=0.50, wall=0.55),
        sample("large", 1, cpu=0.90, wall=0.10),
    )
    assert starts(told) == [(MIRROR, "unchanged", 0.5, 0.4)]
    small, large = rows(told)
    assert (small.microseconds_a_file, large.microseconds_a_file) == pytest.approx((440.0, 90.0))
    assert (small.bare_microseconds_a_file, large.bare_microseconds_a_file) == pytest.approx((40.0, 50.0))
    assert large.times_the_smallest == pytest.approx(90 / 440)
    assert large.bare_times_the_smallest == pytest.approx(1.25)
    assert large.entries_a_second == pytest.approx(101_010)
    assert small.peak_mb == 170.0
    page = markdown(told)
    assert f"| {MIRROR}, unchanged | ≤ 1.15 | 1.25 | **missed** |" in page
    assert f"10,000 files | {MIRROR}, unchanged | ≥ 100,000 | 101,010 | reached |" in page
    assert f"| peak memory | {MIRROR} | ≤ 160 MB | 170 MB | **missed** |" in page
    assert f"| {MIRROR} | unchanged | 0.50 | 0.40 |" in page
    assert "- x: why" in page


def test_a_cost_that_start_up_hides_is_no_ratio() -> None:
    told = made_up(
        sample(EMPTY, 1, cpu=0.5, wall=0.5),
        sample("small", 1, cpu=0.4, wall=0.5),
        sample("large", 1, cpu=0.6, wall=0.5),
    )
    assert [row.bare_microseconds_a_file for row in rows(told)] == pytest.approx([0.0, 10.0])
    assert f"| {MIRROR}, unchanged | ≤ 1.15 | start-up hides it | **missed** |" in markdown(told)
