"""The benchmark itself: trees that are the same everywhere, figures that count only what came back."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.launch import LocalServer, local_server
from benchmarks.measure import CommandFailedError, run
from benchmarks.report import BEGIN, END, markdown, put_between_marks
from benchmarks.results import Results, Sample, TreeFacts
from benchmarks.suite import Endpoint, Suite
from benchmarks.targets import DISTANT_TARGETS, MIRROR, PACKED, TARGETS, peaks, ratios
from benchmarks.tools import Place, Plan, Tool, all_tools
from benchmarks.trees import Tree, differences, large_tree, real_tree, small_tree


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with local_server() as running:
        yield running


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return small_tree(tmp_path_factory.mktemp("trees") / "small", files=120)


def contents(tree: Tree) -> dict[Path, bytes]:
    return {path.relative_to(tree.path): path.read_bytes() for path in tree.path.rglob("*") if path.is_file()}


def test_a_tree_is_the_same_wherever_it_is_made(tree: Tree, tmp_path: Path) -> None:
    again = small_tree(tmp_path / "small", files=120)
    assert contents(again) == contents(tree)
    assert tree.files == len(contents(tree)) == 120
    assert tree.bytes == sum(map(len, contents(tree).values()))
    assert contents(large_tree(tmp_path / "one", files=2, mib=1)) == contents(
        large_tree(tmp_path / "two", files=2, mib=1)
    )


def test_a_tree_is_kept_while_its_recipe_is_the_same(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, files=3)
    first = next(path for path in tree.path.rglob("*.txt"))
    inode = first.stat().st_ino
    assert small_tree(tmp_path, files=3) == tree
    assert first.stat().st_ino == inode
    assert small_tree(tmp_path, files=4).files == 4


def test_a_real_tree_has_regular_files_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for name in ("a", "sub/b", "sub/c"):
        (source / name).write_text(name)
    (source / "link").symlink_to("a")
    copied = real_tree(tmp_path / "real", source=source, files=2)
    assert contents(copied) == {Path("a"): b"a", Path("sub/b"): b"sub/b"}


def test_every_kind_of_difference_is_seen(tree: Tree, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tree.path, copy)
    assert differences(tree, copy) == []
    one, two, three = sorted(path for path in copy.rglob("*.txt") if path.stat().st_size > 1)[:3]
    one.unlink()
    two.write_bytes(two.read_bytes()[:-1])
    three.write_bytes(three.read_bytes() + b"x")
    (copy / "more").touch()
    told = differences(tree, copy)
    assert [line.partition(":")[0] for line in told] == [
        "missing", "not in the source", "other content", "other content",
    ]  # fmt: skip


def test_what_failed_is_told_with_its_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('why'); raise SystemExit(3)"]
    with pytest.raises(CommandFailedError, match=r"ended with 3:\s+why"):
        run(command, environment={}, folder=tmp_path, log=tmp_path / "log")


def test_the_tools_alternate_and_every_figure_is_there(
    server: LocalServer, tree: Tree, tmp_path: Path
) -> None:
    tools = [tool for tool in all_tools() if tool.name in (MIRROR, PACKED, "naive loop")]
    suite = Suite(Endpoint(server.url, server), tools, tmp_path, concurrency=4)
    assert len(list(suite.measure(tree, runs=1, warm_up=False))) == 3
    assert suite.left_out == []
    assert [(sample.tool, sample.work) for sample in suite.samples] == [
        (tool, work) for tool in (MIRROR, PACKED, "naive loop") for work in ("first", "unchanged", "restored")
    ]
    first, unchanged, restored = suite.samples[:3]
    assert first.requests["PutObject"] > 120
    assert first.stored_bytes >= tree.bytes
    assert unchanged.request_count < 10
    assert restored.requests["GetObject"] >= 120
    assert restored.sent_bytes >= tree.bytes
    assert all(sample.cpu_seconds > 0 and sample.peak_mb > 10 for sample in suite.samples)
    assert suite.samples[3].stored_bytes < tree.bytes
    assert not any(name.startswith("bench-") for name in server.traffic().buckets)


def test_what_does_not_come_back_whole_is_not_counted(
    server: LocalServer, tree: Tree, tmp_path: Path
) -> None:
    def lossy(tool: Tool, place: Place) -> Plan:
        nothing = ["cp", "--version"]
        lose = ["sh", "-c", f"cp -r {tree.path} {place.target} && rm {place.target}/000/00000/*-0.txt"]
        return Plan(nothing, nothing, lose, place.target)

    tools = [
        Tool("lossy", "/bin/cp", lossy, ("--version",)),
        Tool("missing", "", lossy, ()),
        Tool("elsewhere", "/bin/cp", lossy, (), frozenset({"large"})),
    ]
    suite = Suite(Endpoint(server.url, server), tools, tmp_path, concurrency=4)
    assert len(list(suite.measure(tree, runs=2, warm_up=True))) == 1
    assert suite.samples == []
    assert suite.left_out[0] == "missing: not installed"
    assert "lossy, small, run 0: did not come back whole: missing: 000/00000/" in suite.left_out[1]
    assert len(suite.left_out) == 2


def sample(tool: str, number: int, wall: float, *, work: str = "first", peak: float = 100.0) -> Sample:
    return Sample(
        tool=tool, tree="small", work=work, run=number, wall_seconds=wall, cpu_seconds=wall / 2, peak_mb=peak
    )


def results(*samples: Sample, latency_ms: float = 0.0) -> Results:
    return Results(
        machine="m", endpoint="e", latency_ms=latency_ms, concurrency=1, runs=3, warm_up=True, versions={},
        trees=[TreeFacts("small", 1, 1)], samples=list(samples), left_out=["x: why"],
    )  # fmt: skip


def test_ratios_are_taken_run_by_run() -> None:
    measured = results(
        *(sample(MIRROR, number, wall) for number, wall in ((1, 1.0), (2, 4.0), (3, 3.0))),
        *(sample("s5cmd", number, wall) for number, wall in ((1, 4.0), (2, 5.0), (3, 5.0), (4, 1.0))),
    )
    (ratio,) = ratios(measured)
    assert (ratio.least, ratio.middle, ratio.most, ratio.reached) == (0.25, 0.6, 0.8, False)


def test_the_fastest_is_looked_for_among_the_others() -> None:
    measured = results(
        sample(MIRROR, 1, 1.0, work="unchanged", peak=170.0),
        sample("s5cmd", 1, 4.0, work="unchanged"),
        sample("rclone", 1, 2.0, work="unchanged"),
        sample(PACKED, 1, 0.5, work="unchanged"),
    )
    assert [(ratio.peer, ratio.middle, ratio.reached) for ratio in ratios(measured)] == [
        ("rclone", 0.5, True),
        ("rclone", 0.25, True),
    ]
    assert peaks(measured) == {MIRROR: 170.0, PACKED: 100.0}


def test_with_latency_other_targets_hold() -> None:
    near, far = (
        results(sample(MIRROR, 1, 1.0), sample("s5cmd", 1, 1.1)),
        results(sample(MIRROR, 1, 1.0), sample("s5cmd", 1, 1.1), latency_ms=30.0),
    )
    assert [ratio.reached for ratio in (*ratios(near), *ratios(far))] == [False, True]
    names = {tool.name for tool in all_tools()}
    for target in (*TARGETS, *DISTANT_TARGETS):
        assert {target.tool, target.peer} <= names | {"the fastest"}


def test_the_report_stands_between_its_marks_and_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nwords\n")
    measured = results(sample(MIRROR, 1, 1.0), sample("s5cmd", 1, 4.0))
    for _ in range(2):
        put_between_marks(page, markdown(measured, plots=["benchmarks/small.svg"]))
    text = page.read_text()
    assert text.startswith("# Title\n\nwords\n")
    assert (text.count(BEGIN), text.count(END), text.count("| s5cmd | 4.00 (4.00 to 4.00) |")) == (1, 1, 1)
    assert "![small](benchmarks/small.svg)" in text
    assert "| small, first: asyncbackup mirror / s5cmd | **0.25** (0.25 to 0.25)" in text
    assert "- x: why" in text


def test_results_are_the_same_after_a_round_through_json() -> None:
    measured = results(sample(MIRROR, 1, 1.0))
    assert msgspec.json.decode(msgspec.json.encode(measured), type=Results) == measured
