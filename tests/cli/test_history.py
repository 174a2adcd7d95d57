"""``snapshots``, ``diff``, ``find`` and ``ls`` end to end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


@pytest.fixture
def history(cli: Cli) -> list[str]:
    """Three snapshots of a section; returns their ids."""
    cli.section()
    docs = cli.tree / "docs"
    for number in range(20):
        (docs / f"f{number:02}").write_text("the same\n")
    assert cli.run("initdb").code == 0
    ids = [str(cli.run("run", "--json").summary["snapshot"])]
    (docs / "report.txt").write_text("another report\n")
    (docs / "f00").chmod(0o600)
    (docs / "f01").unlink()
    ids.append(str(cli.run("run", "--json").summary["snapshot"]))
    (docs / "new.txt").write_text("new\n")
    (cli.tree / "link").unlink()
    (cli.tree / "link").mkdir()
    ids.append(str(cli.run("run", "--json").summary["snapshot"]))
    return ids


def test_snapshots_tell_what_the_database_knows(cli: Cli, history: list[str]) -> None:
    finished = cli.run("snapshots", "--json")
    first, second, third, summary = finished.events
    assert (finished.code, summary["snapshots"]) == (0, 3)
    assert [first["id"], second["id"], third["id"]] == history
    assert (first["base"], first["files"], first["files_new"]) == ("", 22, 22)
    assert (second["base"], second["files_changed"], second["files_deleted"]) == (history[0], 2, 1)
    assert isinstance(second["manifest_bytes"], int)
    assert "entries" not in second, "no manifest was read"
    lines = cli.run("snapshots").stdout.splitlines()
    assert lines[0] == f"home: 3 snapshots at file://{cli.folder}/destination"
    assert lines[1].split() == [
        "snapshot",
        "began",
        "files",
        "size",
        "new",
        "changed",
        "deleted",
        "manifest",
        "base",
        "host",
    ]
    assert history[1] in lines[3]
    assert f" {history[0]} " in lines[3]


def test_snapshots_need_no_database(cli: Cli, history: list[str]) -> None:
    (cli.folder / "state" / "home.sqlite3").unlink()
    events = cli.run("snapshots", "--json").events
    assert [set(event) for event in events[:3]] == [
        {"event", "section", "id", "started", "manifest_bytes"}
    ] * 3
    assert [line.split()[3:8] for line in cli.run("snapshots").stdout.splitlines()[2:]] == [["-"] * 5] * 3
    first, second, third, _ = cli.run("snapshots", "--details", "--json").events
    assert [event["files"] for event in (first, second, third)] == [22, 21, 22]
    assert (second["base"], second["entries"], second["deleted"]) == (history[0], 3, 1)
    assert first["host"]
    assert "files_new" not in second


def test_stats_show_the_growth(cli: Cli, history: list[str]) -> None:
    lines = cli.run("stats").stdout.splitlines()
    heading = next(place for place, line in enumerate(lines) if line.lstrip().startswith("snapshots"))
    assert lines[heading].split()[1:] == ["files", "size", "new", "changed", "gone", "uploaded", "manifest"]
    second = lines[heading + 2].split()
    assert (second[0], second[1], second[4:7]) == (history[1], "21", ["0", "2", "1"])
    growth = cli.run("stats", "--json").summary["snapshots"]
    assert isinstance(growth, list)
    assert [each["base"] for each in growth] == ["", history[0], ""], "the third changed more than a quarter"


def test_diff_lists_what_changed(cli: Cli, history: list[str]) -> None:
    finished = cli.run("diff", history[0], "latest")
    assert finished.code == 0
    assert finished.stdout.splitlines() == [
        "T link/  symlink -> folder",
        "U docs/f00  mode",
        "- docs/f01  9 B",
        "+ docs/new.txt  4 B",
        "M docs/report.txt  9 B -> 15 B",
    ]
    assert f"from {history[0]} to {history[2]}: 1 added, 1 removed, 1 with another content" in finished.stderr
    backwards = cli.run("diff", "home", "latest", history[0], "--content").stdout.splitlines()
    assert backwards == [
        "T link  folder -> symlink",
        "+ docs/f01  9 B",
        "- docs/new.txt  4 B",
        "M docs/report.txt  15 B -> 9 B",
    ]
    assert cli.run("diff", "latest", "latest").stdout == ""


def test_diff_as_figures_and_as_events(cli: Cli, history: list[str]) -> None:
    figures = cli.run("diff", "home", history[0], history[2], "--stat")
    assert figures.stdout == (
        f"home: from {history[0]} to {history[2]}: 1 added, 1 removed, 1 with another content, "
        "1 with other metadata, 1 of another type; +19 B, -18 B\n"
    )
    *events, summary = cli.run("diff", history[0], history[2], "--json").events
    assert {event["event"] for event in events} == {"difference"}
    report = events[-1]
    assert (report["path"], report["change"], report["fields"]) == (
        "docs/report.txt",
        "content",
        ["size", "content", "mtime"],
    )
    assert isinstance(report["before"], dict)
    assert isinstance(report["after"], dict)
    assert (report["before"]["size"], report["after"]["size"]) == (9, 15)
    assert "before" not in events[3]
    assert summary == {
        "event": "summary",
        "section": "home",
        "before": history[0],
        "after": history[2],
        "added": 1,
        "removed": 1,
        "content": 1,
        "metadata": 1,
        "type": 1,
        "bytes_added": 19,
        "bytes_removed": 18,
    }
    assert cli.run("diff", history[0], history[2], "--json", "--stat").events == [summary]


def test_find_says_which_snapshots_hold_what(cli: Cli, history: list[str]) -> None:
    finished = cli.run("find", "report*")
    assert finished.code == 0
    old, new = finished.stdout.splitlines()
    assert old.endswith(f" docs/report.txt  in {history[0]} (1 snapshot)")
    assert new.endswith(f" docs/report.txt  in {history[1]} to {history[2]} (2 snapshots)")
    assert re.match(r" +15 \d{4}-\d\d-\d\d \d\d:\d\d:\d\d docs/", new)
    assert "home: 1 path in 2 versions, 3 snapshots searched" in finished.stderr
    only = cli.run("find", "home", "REPORT*", "-i", "--snapshot", history[0]).stdout
    assert only == old + "\n"
    link, folder = cli.run("find", "/link").stdout.splitlines()
    assert f"link -> docs/report.txt  in {history[0]} to {history[1]}" in link
    assert folder.split()[:3] == ["-", "-", "link/"]


def test_find_as_events(cli: Cli, history: list[str]) -> None:
    match, summary = cli.run("find", "docs/f01", "--json").events
    assert (match["event"], match["path"], match["kind"]) == ("match", "docs/f01", "file")
    assert (match["first"], match["last"], match["snapshots"]) == (history[0], history[0], 1)
    assert (match["size"], match["mode"]) == (9, "100644")
    assert summary == {"event": "summary", "section": "home", "snapshots": 3, "paths": 1, "versions": 1}
    nothing = cli.run("find", "nothing", "--json")
    assert (nothing.code, nothing.summary["versions"]) == (0, 0)


@pytest.mark.parametrize(
    "arguments", [("diff", "19990101", "latest"), ("diff", "latest", "x"), ("find", "f*", "--snapshot", "x")]
)
def test_an_unknown_snapshot_is_a_usage_error(
    cli: Cli, history: list[str], arguments: tuple[str, ...]
) -> None:
    finished = cli.run(*arguments)
    assert finished.code == 2
    assert "has no snapshot" in finished.stderr
    assert history[0] in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("diff",), r"diff \[SECTION\] A B"),
        (("diff", "latest"), "name two snapshots"),
        (("diff", "home", "a", "b", "c"), "name two snapshots"),
        (("diff", "hom", "latest", "latest"), "did you mean 'home'"),
        (("find",), r"find \[SECTION\] PATTERN"),
        (("find", "hom", "x"), "did you mean 'home'"),
        (("find", "a//b"), "names nothing"),
    ],
)
def test_wrong_arguments_are_explained(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    cli.section()
    finished = cli.run(*arguments)
    assert finished.code == 2
    assert re.search(said, finished.stderr)


def test_with_several_sections(cli: Cli) -> None:
    cli.section()
    cli.section("mail")
    assert cli.run("initdb").code == 0
    assert cli.run("run").code == 0
    refused = cli.run("diff", "latest", "latest")
    assert (refused.code, "name the section: home, mail" in refused.stderr) == (2, True)
    assert cli.run("diff", "mail", "latest", "latest").code == 0
    events = cli.run("find", "empty", "--json").events
    assert [event["section"] for event in events] == ["home", "home", "mail", "mail"]
    assert len(cli.run("ls", "mail", "docs").stdout.splitlines()) == 2
    refused = cli.run("ls", "docs")
    assert (refused.code, "there is no section 'docs'" in refused.stderr) == (2, True)


def test_listing_parts_of_a_snapshot(cli: Cli, history: list[str]) -> None:
    def names(*arguments: str) -> list[str]:
        return [line.split()[4] for line in cli.run("ls", *arguments).stdout.splitlines()]

    assert names("home", "docs", "--snapshot", history[0])[:3] == ["docs/", "docs/f00", "docs/f01"]
    assert names("docs/f02", str(cli.tree / "link")) == ["link/", "docs/f02"]
    assert names(".") == names()
    missing = cli.run("ls", "docs/f01")
    assert missing.code == 2
    assert f"snapshot {history[2]} of section 'home' holds no 'docs/f01'" in missing.stderr
    assert cli.run("ls", "docs/f02", "--json").summary["files"] == 1


def test_a_long_listing_names_the_owner(cli: Cli, history: list[str]) -> None:
    (line,) = cli.run("ls", "docs/f02", "--long").stdout.splitlines()
    entry, _ = cli.run("ls", "docs/f02", "--json").events
    assert line.split()[:5] == ["-rw-r--r--", "1", entry["owner"], entry["group"], "9"]
    assert history[2]


def test_without_a_configuration_file(cli: Cli) -> None:
    there = ("--path", "tree", "--to", f"file://{cli.folder}/there")
    assert cli.run("run", *there).code == 0
    assert cli.run("diff", *there, "latest", "latest").code == 0
    assert "docs/report.txt" in cli.run("find", *there, "*.txt").stdout
    assert "docs/report.txt" in cli.run("ls", *there, "docs").stdout
    refused = cli.run("diff", *there, "home", "latest", "latest")
    assert (refused.code, "there is one section" in refused.stderr) == (2, True)
