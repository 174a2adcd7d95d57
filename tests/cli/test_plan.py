"""``plan``: output and exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

PRICES = """
source = "the corner shop, 2026"
currency = "EUR"
[classes.STANDARD]
storage_per_gb_month = 1000
put_per_1000 = 1000
get_per_1000 = 0
"""


def test_a_first_run_without_a_database(cli: Cli) -> None:
    cli.section(destination="s3://my-bucket/x")
    done = cli.run("plan", "--json")
    assert done.code == 0
    assert done.summary["has_database"] is False
    assert (done.summary["files_scanned"], done.summary["files_new"]) == (2, 2)
    assert done.summary["next_run"] == done.summary["first_run"]["mirror"]  # type: ignore[index]
    assert done.summary["currency"] == "USD"
    shown = cli.run("plan").stdout
    assert shown.startswith("home: plan of the first run to s3://my-bucket/x\n  files      2: 2 new")
    assert "'asyncbackup initdb home' comes first" in shown
    assert "STANDARD *" in shown
    assert "mirror (configured)" in shown


def test_after_a_run_there_is_nothing_to_upload(cli: Cli) -> None:
    cli.section()
    cli.run("initdb")
    assert cli.run("run").code == 0
    done = cli.run("plan", "--json")
    assert done.summary["files_unchanged"] == 2
    assert done.summary["next_run"]["objects"] == 0  # type: ignore[index]
    # A folder costs nothing.
    assert done.summary["by_storage_class"] == {}
    assert "$" not in cli.run("plan").stdout


def test_prices_of_a_file(cli: Cli) -> None:
    cli.section(destination="s3://my-bucket/x")
    (cli.folder / "prices.toml").write_text(PRICES)
    done = cli.run("plan", "--prices", "prices.toml", "--json")
    cost = done.summary["next_run"]["cost"]  # type: ignore[index]
    # Two files, two folders and a link; a mark, a listing and a manifest.
    assert cost["requests"] == 8.0
    shown = cli.run("plan", "--prices", "prices.toml").stdout
    assert "8.00 EUR for this run's requests" in shown
    assert "prices: the corner shop, 2026" in shown


def test_a_class_without_a_price_is_said(cli: Cli) -> None:
    cli.section(destination="s3://my-bucket/x", extra='storage_class = "OUTPOSTS"')
    done = cli.run("plan", "--json")
    assert done.summary["next_run"]["cost"] is None  # type: ignore[index]
    assert "the price list has no OUTPOSTS" in cli.run("plan").stdout


def test_wrong_options_are_usage_errors(cli: Cli) -> None:
    cli.section()
    assert cli.run("plan", "--prices", "none.toml").code == 2
    assert cli.run("plan", "--ratio", "2").code == 2
    assert "accepted are numbers over 0 and up to 1" in cli.run("plan", "--ratio", "x").stderr
    assert cli.run("plan", "nosection").code == 2
