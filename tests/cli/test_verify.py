"""``verify``: exit codes, damage events, and how much is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli
    from tests.servers import S3Endpoint


def stored(cli: Cli, name: str) -> Path:
    """The stored content of one file."""
    (found,) = (cli.folder / "destination").rglob(f"files/{name}")
    return found


@pytest.fixture
def saved(cli: Cli) -> Cli:
    """A section with one snapshot."""
    cli.section()
    assert cli.run("initdb").code == 0
    assert cli.run("run").code == 0
    return cli


@pytest.mark.parametrize("options", [[], ["--read-data"], ["--read-data=50"], ["--snapshot", "latest"]])
def test_no_damage(saved: Cli, options: list[str]) -> None:
    done = saved.run("verify", *options, "--json")
    assert done.code == 0
    assert done.summary["damaged_objects"] == 0
    shown = saved.run("verify", *options)
    assert shown.stdout.startswith("home: no damage\n  checked    1 snapshot, ")


def test_the_word_after_read_data_is_the_section(saved: Cli) -> None:
    assert saved.run("verify", "--read-data", "home").code == 0
    assert "there is no section '5'" in saved.run("verify", "--read-data", "5").stderr


def test_a_missing_object_is_named(saved: Cli) -> None:
    stored(saved, "docs/report.txt").unlink()
    done = saved.run("verify", "--json")
    assert done.code == 4
    (damage,) = [event for event in done.events if event["event"] == "damage"]
    assert str(damage["key"]).endswith("/files/docs/report.txt")
    assert damage["paths"] == ["docs/report.txt"]
    assert done.summary["damaged_objects"] == 1
    shown = saved.run("verify")
    assert shown.code == 4
    assert shown.stdout.startswith("home: DAMAGED: 1 object\n")
    assert "docs/report.txt of 1 snapshot" in shown.stdout


def test_a_flipped_byte_is_found(saved: Cli) -> None:
    stored(saved, "docs/report.txt").write_text("A report\n")
    assert saved.run("verify", "--read-data").code == 4
    # Restoring leaves this file out, names it, and restores the others.
    restored = saved.run("restore", "--target", "back", "--json")
    assert restored.code == 4
    assert [event["path"] for event in restored.events if event["event"] == "failure"] == ["docs/report.txt"]
    assert sorted(path.name for path in (saved.folder / "back").rglob("*")) == ["docs", "empty", "link"]


def test_many_damages_are_cut_short(cli: Cli) -> None:
    for number in range(30):
        (cli.tree / f"file-{number:02}").write_text(str(number))
    cli.section()
    cli.run("initdb")
    cli.run("run")
    for number in range(30):
        stored(cli, f"file-{number:02}").unlink()
    assert "and 10 more; --verbose names more, --json all" in cli.run("verify").stdout
    every = cli.run("verify", "--verbose").stdout
    assert "more;" not in every
    assert every.count("/files/file-") == 30
    assert len(cli.run("verify", "--json").events) == 31


def test_an_endpoint_that_keeps_checksums_is_not_read(cli: Cli, seaweed_s3: S3Endpoint) -> None:
    cli.configure(f'state_dir = "state"\n[s3]\nendpoint_url = "{seaweed_s3.url}"\nregion = "us-east-1"\n')
    cli.section(destination=f"s3://{seaweed_s3.fresh_bucket()}/backups")
    assert cli.run("initdb").code == 0
    assert cli.run("run").code == 0
    done = cli.run("verify", "--json")
    assert (done.code, done.summary["objects_read"]) == (0, 0)


def test_a_percentage_may_have_its_sign(saved: Cli) -> None:
    assert saved.run("verify", "--read-data=50%").code == 0
    assert saved.run("verify", "--read-data=500%").code == 2


def test_a_repair_without_damage_runs_nothing(saved: Cli) -> None:
    done = saved.run("verify", "--repair", "--json")
    assert done.code == 0
    assert [event["event"] for event in done.events] == ["summary"]
    assert saved.run("verify", "--repair").stdout.startswith("home: no damage\n")


def test_a_repair_saves_again_what_is_still_there(saved: Cli) -> None:
    stored(saved, "docs/report.txt").unlink()
    done = saved.run("verify", "--repair", "--json")
    assert done.code == 4
    assert [event["event"] for event in done.events] == ["damage", "summary", "summary"]
    # The run's summary, and behind it the verification's.
    assert done.events[1]["files_changed"] == 1
    assert (done.summary["files_to_save"], done.summary["files_lost"]) == (1, 0)
    assert saved.run("verify", "--snapshot", "latest", "--read-data").code == 0
    assert saved.run("verify").code == 4


def test_a_repair_says_what_it_does_and_what_is_lost(saved: Cli) -> None:
    stored(saved, "docs/report.txt").unlink()
    stored(saved, "empty").unlink()
    (saved.tree / "empty").unlink()
    done = saved.run("verify", "--repair")
    assert done.code == 4
    verified, run, repaired = done.stdout.split("\nhome")
    assert verified.startswith("home: DAMAGED: 2 objects\n")
    assert "1 changed" in run or "changed" in run
    assert repaired.startswith(": 2 damaged files to be saved again\n")
    assert "1 file not in the tree any more as it was saved" in repaired
    assert "empty of 1 snapshot" in repaired


def test_a_repair_names_what_is_lost_as_events(saved: Cli) -> None:
    stored(saved, "empty").unlink()
    (saved.tree / "empty").unlink()
    done = saved.run("verify", "--repair", "--json")
    (lost,) = [event for event in done.events if event["event"] == "lost"]
    assert (lost["paths"], lost["files"]) == (["empty"], 1)
    assert len(lost["snapshots"]) == 1  # type: ignore[arg-type]


def test_a_repair_needs_a_database(saved: Cli) -> None:
    for path in (saved.folder / "state").iterdir():
        path.unlink()
    done = saved.run("verify", "--repair")
    assert done.code == 1
    assert "initdb" in done.stderr
