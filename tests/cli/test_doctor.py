"""``doctor``: what it says of a set-up, and exit codes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Finished

ENCRYPTED = '[sections.home.encryption]\nenabled = true\npassphrase_file = "secret"\n'


def findings(done: Finished) -> dict[tuple[str, str], dict[str, object]]:
    return {
        (str(event["about"]), str(event["check"])): event
        for event in done.events
        if event["event"] == "finding"
    }


@pytest.fixture
def encrypted(cli: Cli) -> Cli:
    """A section that was set up and saved once."""
    secret = cli.folder / "secret"
    secret.write_text("a pass phrase\n")
    secret.chmod(0o600)
    (cli.folder / "destination").mkdir()
    cli.section(extra=ENCRYPTED)
    assert cli.run("initdb").code == 0
    assert cli.run("run").code == 0
    return cli


def level(done: Finished, about: str, check: str) -> object:
    return findings(done)[about, check]["level"]


def test_all_is_well(encrypted: Cli) -> None:
    done = encrypted.run("doctor", "--json")
    assert done.code == 0
    assert done.summary["problems"] == 0
    for check in ("source", "database", "secret-file", "secret"):
        about = "section home"
        if check == "source":  # The test's tree and its destination lie on one disk.
            check = "destination-disk"
        assert findings(done)[about, check]["level"] == ("note" if check == "destination-disk" else "ok")
    assert level(done, "configuration", "configuration") == "ok"
    assert level(done, "this machine", "state-folder") == "ok"
    shown = encrypted.run("doctor")
    assert shown.code == 0
    assert "section home\n" in shown.stdout
    assert "the secret opens the repository" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("nothing prevents backups, ")
    # Nothing stays at the destination.
    assert not [path for path in (encrypted.folder / "destination").iterdir() if "doctor" in path.name]


def test_before_initdb(cli: Cli) -> None:
    (cli.folder / "destination").mkdir()
    cli.section()
    done = cli.run("doctor", "--json")
    assert done.code == 0
    assert level(done, "section home", "database") == "note"
    assert "initdb home" in str(findings(done)["section home", "database"]["advice"])
    assert level(done, "section home", "repository") == "note"


def test_a_wrong_pass_phrase(encrypted: Cli) -> None:
    (encrypted.folder / "secret").write_text("another\n")
    done = encrypted.run("doctor", "--json")
    assert done.code == 1
    assert level(done, "section home", "secret") == "problem"
    assert "another" not in done.stdout


def test_a_secret_that_others_may_read_and_one_that_is_gone(encrypted: Cli) -> None:
    secret = encrypted.folder / "secret"
    secret.chmod(0o644)
    done = encrypted.run("doctor", "--json")
    assert done.code == 0
    assert level(done, "section home", "secret-file") == "note"
    assert "chmod 600" in str(findings(done)["section home", "secret-file"]["advice"])
    secret.unlink()
    done = encrypted.run("doctor", "--json")
    assert done.code == 1
    assert level(done, "section home", "secret-file") == "problem"


def test_a_damaged_database(encrypted: Cli) -> None:
    database = encrypted.folder / "state" / "home.sqlite3"
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * 8))
    done = encrypted.run("doctor", "--json")
    assert done.code == 1
    assert level(done, "section home", "database") == "problem"
    assert "syncdb_remote home" in str(findings(done)["section home", "database"]["advice"])


def test_others_may_look_into_the_state(encrypted: Cli) -> None:
    (encrypted.folder / "state").chmod(0o755)
    (encrypted.folder / "state" / "home.sqlite3").chmod(0o644)
    done = encrypted.run("doctor", "--json")
    assert done.code == 0
    assert level(done, "this machine", "state-folder") == "note"
    assert level(done, "section home", "database") == "note"


def test_a_source_and_a_destination_that_are_gone(encrypted: Cli) -> None:
    encrypted.tree.rename(encrypted.folder / "elsewhere")
    (encrypted.folder / "destination").rename(encrypted.folder / "away")
    done = encrypted.run("doctor", "--json")
    assert done.code == 1
    assert level(done, "section home", "source") == "problem"
    assert level(done, f"file://{encrypted.folder}/destination", "folder") == "problem"
    assert ("section home", "repository") not in findings(done)
    shown = encrypted.run("doctor")
    assert shown.stdout.splitlines()[-1].startswith("2 problems, ")
    assert "  PROBLEM  " in shown.stdout


def test_a_wrong_configuration_is_a_problem_and_the_rest_is_looked_at(cli: Cli) -> None:
    cli.configure('[sections.home]\npath = "tree"\ndestinatoin = "s3://b"\n')
    done = cli.run("doctor", "--json")
    assert done.code == 1
    assert "destinatoin" in str(findings(done)["configuration", "configuration"]["text"])
    assert level(done, "this machine", "python") == "ok"


def test_without_a_configuration(cli: Cli) -> None:
    done = cli.run("doctor", "--json")
    assert done.code == 1
    assert level(done, "configuration", "configuration") == "problem"
    (cli.folder / "disk").mkdir()
    done = cli.run("doctor", f"file://{cli.folder}/disk", "--json")
    assert done.code == 0
    assert level(done, "configuration", "configuration") == "note"
    assert level(done, f"file://{cli.folder}/disk", "read-after-write") == "ok"
    assert cli.run("doctor", "/disk").code == 2
