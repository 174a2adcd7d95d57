"""The benchmark itself: trees that are the same everywhere, figures that count only what came back."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks import __main__ as command
from benchmarks.launch import ROOT, LocalServer, local_server
from benchmarks.measure import CommandFailedError, run
from benchmarks.page import PEERS, put_between
from benchmarks.report import markdown
from benchmarks.results import OTHER_ENDPOINT, OWN_SERVER, Results, Sample, TreeFacts
from benchmarks.settings import SETTINGS, TREES, fitting, narrowed, with_all
from benchmarks.suite import Endpoint, Suite
from benchmarks.targets import BEST_OF_ALL, ENCRYPTED, LIMIT, MIRROR, PACKED, TARGETS, peaks, ratios
from benchmarks.tools import Place, Plan, Tool, all_tools, asyncbackup
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
    (copy / "new").mkdir()
    (copy / "new" / "deeper").touch()
    assert sorted(differences(tree, copy, most=9)) == sorted(
        [
            f"missing: {one.relative_to(copy)}",
            f"other content: {two.relative_to(copy)}",
            f"other content: {three.relative_to(copy)}",
            "not in the source: more",
            "not in the source: new/deeper",
        ]
    )
    shutil.rmtree(copy / "000" / "00001")
    assert len(differences(tree, copy, most=9)) == 9
    assert len(differences(tree, tmp_path / "nowhere", most=1000)) == 120


def test_what_failed_is_told_with_its_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('why'); raise SystemExit(3)"]
    with pytest.raises(CommandFailedError, match=r"ended with 3:\s+why"):
        run(command, environment={}, folder=tmp_path, log=tmp_path / "log")


def test_the_tools_alternate_and_every_figure_is_there(
    server: LocalServer, tree: Tree, tmp_path: Path
) -> None:
    names = (MIRROR, ENCRYPTED, PACKED, "naive loop")
    tools = [tool for tool in all_tools() if tool.name in names]
    suite = Suite(Endpoint(server.url, server), tools, tmp_path, concurrency=4)
    assert len(list(suite.measure(tree, runs=1, warm_up=False))) == 4
    assert suite.left_out == []
    assert [(sample.tool, sample.work) for sample in suite.samples] == [
        (tool, work) for tool in names for work in ("first", "unchanged", "restored")
    ]
    first, unchanged, restored = suite.samples[:3]
    assert first.requests["PutObject"] > 120
    assert first.stored_bytes >= tree.bytes
    assert unchanged.request_count < 10
    assert restored.requests["GetObject"] >= 120
    assert restored.sent_bytes >= tree.bytes
    assert all(sample.cpu_seconds > 0 and sample.peak_mb > 10 for sample in suite.samples)
    sealed, packed = suite.samples[3], suite.samples[6]
    assert sealed.requests["PutObject"] > 120
    assert sealed.stored_bytes > first.stored_bytes  # not compressed, and each object a little longer
    assert packed.stored_bytes < tree.bytes
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


def test_a_folder_in_place_of_an_endpoint(tree: Tree, tmp_path: Path) -> None:
    tool = asyncbackup(MIRROR, ROOT, to_folder=True)
    suite = Suite(None, [tool], tmp_path, concurrency=4)
    assert len(list(suite.measure(tree, runs=1, warm_up=False))) == 1
    assert suite.left_out == []
    first = suite.samples[0]
    assert (first.requests, first.objects > 120, first.stored_bytes >= tree.bytes) == ({}, True, True)


def sample(
    tool: str,
    number: int,
    wall: float,
    *,
    work: str = "first",
    cpu: float | None = None,
    peak: float = 100.0,
) -> Sample:
    return Sample(
        tool=tool,
        tree="small",
        work=work,
        run=number,
        wall_seconds=wall,
        cpu_seconds=wall / 2 if cpu is None else cpu,
        peak_mb=peak,
    )


def results(*samples: Sample, latency_ms: float = 0.0, concurrency: int = 32, files: int = 1) -> Results:
    return Results(
        machine="m", endpoint=OWN_SERVER, latency_ms=latency_ms, concurrency=concurrency, runs=3,
        warm_up=True, versions={"s5cmd": "v1"}, trees=[TreeFacts("small", files, 1)], samples=list(samples),
        left_out=["x: why"],
    )  # fmt: skip


def test_ratios_are_taken_run_by_run_of_wall_and_cpu_each() -> None:
    measured = results(
        *(sample(MIRROR, number, wall, cpu=1.0) for number, wall in ((1, 1.0), (2, 4.0), (3, 3.0))),
        *(
            sample("s5cmd", number, wall, cpu=4.0)
            for number, wall in ((1, 4.0), (2, 5.0), (3, 5.0), (4, 1.0))
        ),
    )
    (ratio,) = ratios(measured)
    assert ratio.wall == ("s5cmd", 0.25, 0.6, 0.8)
    assert ratio.cpu == ("s5cmd", 0.25, 0.25, 0.25)
    assert (ratio.wall_reached, ratio.cpu_reached) == (False, True)


def test_the_best_is_looked_for_among_the_others_for_wall_and_cpu_each() -> None:
    measured = results(
        sample(MIRROR, 1, 1.0, work="unchanged", peak=170.0),
        sample("s5cmd", 1, 4.0, work="unchanged", cpu=0.5),
        sample("rclone", 1, 2.0, work="unchanged", cpu=1.5),
        sample(PACKED, 1, 0.5, work="unchanged"),
    )
    assert [(ratio.wall.peer, ratio.wall.middle) for ratio in ratios(measured)] == [
        ("rclone", 0.5),
        ("rclone", 0.25),
    ]
    assert [(ratio.cpu.peer, ratio.cpu.middle) for ratio in ratios(measured)] == [
        ("s5cmd", 1.0),
        ("s5cmd", 0.5),
    ]
    higher = results(sample(PACKED, 1, 0.5, peak=120.0), latency_ms=30.0)
    assert peaks([measured, higher]) == {MIRROR: 170.0, PACKED: 120.0}


def test_the_arithmetic_limit_is_files_times_latency_over_concurrency() -> None:
    # 3,200 files, 30 ms each, 32 at once: 3 seconds.
    measured = results(sample(MIRROR, 1, 3.15, cpu=1.5), latency_ms=30.0, files=3200)
    (ratio,) = ratios(measured)
    assert ratio.target.peer == LIMIT
    assert (round(ratio.wall.middle, 6), ratio.cpu.middle, ratio.wall_reached) == (1.05, 0.5, True)


def test_targets_hold_for_their_latency_and_concurrency_alone() -> None:
    pair = sample(MIRROR, 1, 1.0), sample("s5cmd", 1, 2.0)
    assert [ratio.target.most for ratio in ratios(results(*pair))] == [0.5]
    assert [ratio.target.peer for ratio in ratios(results(*pair, latency_ms=30.0))] == [LIMIT]
    assert [ratio.target.peer for ratio in ratios(results(*pair, latency_ms=30.0, concurrency=256))] == [
        "s5cmd"
    ]
    assert ratios(results(*pair, latency_ms=10.0)) == []


def test_the_settings_measure_what_the_targets_need_and_name_no_unknown_tool() -> None:
    names = {tool.name for tool in all_tools()}
    for target in TARGETS:
        (setting,) = fitting(target.latency_ms, target.concurrency)
        needed = {target.tool, *({target.peer} - {BEST_OF_ALL, LIMIT})}
        assert needed <= setting.tools[target.tree], target
    for setting in SETTINGS:
        assert frozenset().union(*setting.tools.values()) <= names


def test_a_run_is_narrowed_to_some_settings_trees_and_tools() -> None:
    assert fitting(None, None) == list(SETTINGS)
    assert [setting.concurrency for setting in fitting(30.0, None)] == [32, 256]
    assert [setting.latency_ms for setting in fitting(None, 32)] == [0.0, 30.0]
    assert fitting(10.0, None) == []
    near, far = SETTINGS[0], SETTINGS[2]
    assert narrowed(near, None, None) == near
    assert narrowed(near, ["large"], None).tools == {"large": near.tools["large"]}
    assert narrowed(far, ["large"], None).tools == {"large": far.tools["small"]}
    assert narrowed(far, None, ["aws"]).tools == {"small": {"aws"}}
    other = with_all(["aws", "borg"], 10.0, None)
    assert (other.latency_ms, other.concurrency) == (10.0, 32)
    assert other.tools == {tree: {"aws", "borg"} for tree in TREES}


def test_the_report_stands_between_its_marks_and_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nwords\n")
    measured = [
        results(sample(MIRROR, 1, 1.0, cpu=1.0), sample("s5cmd", 1, 4.0, cpu=1.25)),
        results(sample(MIRROR, 1, 9.0, peak=161.0), latency_ms=30.0, concurrency=256),
    ]
    for _ in range(2):
        put_between(PEERS, page, markdown(measured, plots="benchmarks"))
    text = page.read_text()
    assert text.startswith("# Title\n\nwords\n")
    assert (text.count(PEERS.begin), text.count(PEERS.end)) == (1, 1)
    assert text.count("| s5cmd | 4.00 (4.00 to 4.00) |") == 1
    assert (
        "| No latency, 32 at once: small, first | mirror / s5cmd | 0.5 "
        "| **0.25** (0.25 to 0.25) | reached | **0.80** (0.80 to 0.80) | **missed** |"
    ) in text
    assert f"| {MIRROR} | 160 | 161 | **missed** |" in text
    assert "### 30 ms a request, 256 at once" in text
    assert "![No latency, 32 at once: small](benchmarks/0ms-32-small.svg)" in text
    assert "![30 ms a request, 256 at once: small](benchmarks/30ms-256-small.svg)" in text
    assert "- x: why" in text


def test_the_command_measures_each_setting_and_publishes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs, work = tmp_path / "docs", tmp_path / "work"
    docs.mkdir()
    (docs / "benchmarks.md").write_text("# Benchmarks\n")
    monkeypatch.setattr(command, "DOCS", docs)
    monkeypatch.setattr(command, "PEERS_VENV", tmp_path / "nothing")
    words = f"--work {work} --trees small --files 20 --latency-ms 30 --runs 1 --no-warm-up --publish"
    assert command.main([*words.split(), "--only", MIRROR]) == 0
    measured = msgspec.json.decode((docs / "benchmarks" / "results.json").read_bytes(), type=list[Results])
    assert [(of.latency_ms, of.concurrency) for of in measured] == [(30.0, 32), (30.0, 256)]
    for of in measured:
        assert {(s.tool, s.tree, s.work) for s in of.samples} == {
            (MIRROR, "small", work) for work in ("first", "unchanged", "restored")
        }
        assert of.trees == [TreeFacts("small", 20, of.trees[0].bytes)]
    page = (docs / "benchmarks.md").read_text()
    assert page.count("#### small: 20 files") == 2
    assert f"mirror / {LIMIT}" in page
    assert "svg" not in page
    capsys.readouterr()
    assert command.main(["--only", "nothing of this name", "--work", str(work)]) == 2
    assert "no such tool: nothing of this name" in capsys.readouterr().err


def test_nobody_knows_how_far_away_another_endpoint_is() -> None:
    measured = msgspec.structs.replace(results(sample(MIRROR, 1, 1.0)), endpoint=OTHER_ENDPOINT)
    assert "### Another endpoint, 32 at once" in markdown([measured])


def test_results_are_the_same_after_a_round_through_json() -> None:
    measured = results(sample(MIRROR, 1, 1.0))
    assert msgspec.json.decode(msgspec.json.encode(measured), type=Results) == measured
