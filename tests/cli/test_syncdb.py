"""``syncdb_remote``: a lost database comes back, and the next run uploads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


@pytest.fixture
def saved(cli: Cli) -> Cli:
    """A section with one snapshot, whose database is lost."""
    cli.section()
    assert cli.run("initdb").code == 0
    assert cli.run("run").code == 0
    (cli.folder / "state" / "home.sqlite3").unlink()
    return cli


@pytest.mark.parametrize(("options", "source"), [([], "manifests"), (["--from-objects"], "objects")])
def test_a_lost_database_comes_back(saved: Cli, options: list[str], source: str) -> None:
    done = saved.run("syncdb-remote", "home", *options, "--json")
    assert done.code == 0
    assert (done.summary["source"], done.summary["files"]) == (source, 2)
    after = saved.run("run", "--json")
    assert (after.code, after.summary["files_unchanged"]) == (0, 2)
    assert after.summary["bytes_uploaded"] == 0
    shown = saved.run("syncdb_remote", *options)
    assert shown.stdout.startswith(f"home: database rebuilt from {source}, it stands on snapshot ")


def test_where_the_manifests_are_gone_too(saved: Cli) -> None:
    for manifest in (saved.folder / "destination" / "home" / "snapshots").iterdir():
        manifest.unlink()
    done = saved.run("syncdb_remote", "--json")
    assert (done.code, done.summary["source"]) == (0, "objects")
    assert saved.run("restore", "--target", "back").code == 0
    assert (saved.folder / "back" / "docs" / "report.txt").read_text() == "a report\n"


def test_a_destination_that_holds_nothing(cli: Cli) -> None:
    cli.section()
    cli.run("initdb")
    (cli.folder / "state" / "home.sqlite3").unlink()
    done = cli.run("syncdb_remote", "--json")
    assert done.code == 1
    assert [event["event"] for event in done.events] == ["error"]
    assert not (cli.folder / "state" / "home.sqlite3").exists()


def test_a_folders_database_comes_back(cli: Cli) -> None:
    where = ["--path", "tree", "--to", f"file://{cli.folder}/destination"]
    assert cli.run("run", *where).code == 0
    (database,) = (cli.folder / "default-state").rglob("*.sqlite3")
    database.unlink()
    assert cli.run("syncdb_remote", *where).code == 0
    after = cli.run("run", *where, "--json")
    assert (after.code, after.summary["files_unchanged"]) == (0, 2)
