"""``forget`` and ``prune`` as a user meets them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def three_snapshots(cli: Cli) -> list[str]:
    cli.section()
    cli.run("initdb")
    ids = []
    for content in ("one", "two", "three"):
        (cli.tree / "changing").write_text(content)
        (cli.tree / "docs" / "report.txt").write_text(content)
        ids.append(str(cli.run("run", "--json").summary["snapshot"]))
    return ids


def test_without_a_rule_nothing_is_forgotten(cli: Cli) -> None:
    three_snapshots(cli)
    for arguments in ((), ("--keep-daily", "0"), ("--keep-within", "0d")):
        finished = cli.run("forget", *arguments)
        assert finished.code == 2
        assert "at least one --keep option" in finished.stderr
    assert cli.run("snapshots", "--json").summary["snapshots"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--keep-last", "-1"), "-1"),
        (("--keep-within", "soon"), "no span of time"),
        (("--keep-last", "1", "--dry-run", "--prune"), "exclude each other"),
        (("--keep-last", "1", "nowhere"), "no section 'nowhere'"),
    ],
)
def test_wrong_arguments(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    three_snapshots(cli)
    finished = cli.run("forget", *arguments)
    assert finished.code == 2
    assert says in finished.stderr


def test_a_table_of_what_stays_and_why(cli: Cli) -> None:
    first, second, third = three_snapshots(cli)
    rehearsed = cli.run("forget", "--keep-last", "1", "--dry-run")
    assert rehearsed.code == 0
    assert "1 snapshot kept, 2 would be forgotten" in rehearsed.stdout
    assert cli.run("snapshots", "--json").summary["snapshots"] == 3
    finished = cli.run("forget", "home", "--keep-last", "1", "--keep-yearly", "1")
    lines = finished.stdout.splitlines()
    assert lines[0] == "home: 1 snapshot kept, 2 forgotten"
    assert [line.split()[0] for line in lines[1:]] == [first, second, third]
    assert lines[1].endswith("  forget")
    assert lines[3].endswith("  keep    last, yearly")
    assert cli.run("snapshots", "--json").events[0]["id"] == third


def test_events(cli: Cli) -> None:
    first, second, third = three_snapshots(cli)
    finished = cli.run("forget", "--keep-last", "2", "--json")
    assert [(event["event"], event.get("id"), event.get("rules")) for event in finished.events] == [
        ("forget", first, []),
        ("keep", second, ["last"]),
        ("keep", third, ["last"]),
        ("summary", None, None),
    ]
    assert (finished.summary["kept"], finished.summary["forgotten"]) == (2, 1)
    rehearsed = cli.run("prune", "--dry-run", "--json").summary
    summary = cli.run("prune", "--json").summary
    assert summary["objects_deleted"] == rehearsed["objects_deleted"]
    assert isinstance(summary["objects_deleted"], int)
    assert summary["objects_deleted"] > 2
    assert (summary["snapshots"], summary["snapshots_removed"], summary["dry_run"]) == (2, 1, False)
    assert "nothing to delete" in cli.run("prune").stdout


def test_forget_and_prune_in_one(cli: Cli) -> None:
    _, _, third = three_snapshots(cli)
    finished = cli.run("forget", "--keep-last", "1", "--prune")
    assert finished.code == 0
    assert "2 removed" in finished.stdout
    assert [path.name.partition(".")[0] for path in Path("destination/home/snapshots").iterdir()] == [third]
    assert cli.run("verify").code == 0
    assert cli.run("run").code == 0


def test_a_run_goes_on_after_a_prune_on_another_machine(cli: Cli) -> None:
    three_snapshots(cli)
    config = Path("asyncbackup.toml")
    here = config.read_text()
    config.write_text(here.replace('state_dir = "state"', 'state_dir = "elsewhere"'))
    assert cli.run("forget", "--keep-last", "1", "--prune").code == 0
    config.write_text(here)
    finished = cli.run("run")
    assert finished.code == 0
    assert "a prune on another machine came between; rebuilding the database first" in finished.stderr
    assert cli.run("run", "--json").summary["files_unchanged"] == 3
    assert cli.run("verify", "--read-data").code == 0


def test_an_age_has_no_months(cli: Cli) -> None:
    three_snapshots(cli)
    finished = cli.run("prune", "--min-age", "1m")
    assert finished.code == 2
    assert "hours, days or weeks" in finished.stderr
    assert cli.run("prune", "--min-age", "2 days").code == 0
