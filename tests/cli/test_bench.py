"""``bench``: output, the page, exit codes."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli
    from tests.servers import S3Endpoint

QUICK = ("--sizes", "1KiB,64KiB", "--part-sizes", "5MiB", "--concurrency", "1,2", "--repeats", "1")


@pytest.fixture
def folder(cli: Cli) -> str:
    (cli.folder / "disk").mkdir()
    return f"file://{cli.folder}/disk"


def test_a_table_and_advice_without_a_configuration(cli: Cli, folder: str) -> None:
    done = cli.run("bench", folder, *QUICK)
    assert done.code == 0
    assert re.search(r"^  PUT +1\.00 KiB +1 ", done.stdout, re.MULTILINE)
    for setting in ("concurrency = ", 'part_size = "5 MiB"', "layout = "):
        assert setting in done.stdout
    assert list((cli.folder / "disk").iterdir()) == []


def test_events(cli: Cli, folder: str) -> None:
    done = cli.run("bench", folder, *QUICK, "--json")
    measurements = [event for event in done.events if event["event"] == "measurement"]
    assert len(measurements) == done.summary["measurements"] == 14
    assert {"operation", "size", "concurrency", "per_second", "p50", "p90", "p99"} <= measurements[0].keys()
    assert done.summary["recommended"].keys() == {"concurrency", "part_size", "layout"}  # type: ignore[attr-defined]
    assert done.summary["not_removed"] == 0


def test_the_endpoint_of_the_configuration(cli: Cli, moto_s3: S3Endpoint) -> None:
    cli.configure(f'[s3]\nendpoint_url = "{moto_s3.url}"\n')
    cli.section()
    done = cli.run("bench", f"s3://{moto_s3.fresh_bucket()}/x", *QUICK, "--report", "page.html")
    assert done.code == 0
    assert "this endpoint returns no checksums" in done.stdout
    page = (cli.folder / "page.html").read_text()
    assert moto_s3.url in page


def test_the_page_is_whole_and_needs_nothing_else(cli: Cli, folder: str) -> None:
    assert cli.run("bench", folder, *QUICK, "--report", "page.html").code == 0
    page = (cli.folder / "page.html").read_text()
    assert page.count("<svg") == page.count("</svg>") == 10
    assert page.count("<tr") == 1 + 14
    assert not re.search(r"<script|<link|@import|url\(|src=|https?:", page)
    assert "prefers-color-scheme:dark" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench"], "DESTINATION"),
        (["bench", "/disk"], "did you mean 'file:///disk'?"),
        (["bench", "s3://b-1", "--sizes", "1KiB,x"], "'x'"),
        (["bench", "s3://b-1", "--sizes", "1TiB"], "accepted are sizes from 1 B to 256 MiB"),
        (["bench", "s3://b-1", "--part-sizes", "1MiB"], "5 MiB"),
        (["bench", "s3://b-1", "--concurrency", "0"], "no whole number from 1 to 1024"),
        (["bench", "s3://b-1", "--max-bytes", "1KiB"], "no room for a single measurement"),
        (["bench", "s3://b-1", "--report", "nowhere/page.html"], "its folder cannot be written to"),
    ],
)
def test_usage(cli: Cli, arguments: list[str], says: str) -> None:
    done = cli.run(*arguments)
    assert done.code == 2
    assert says in done.stderr


def test_a_missing_folder(cli: Cli) -> None:
    done = cli.run("bench", f"file://{cli.folder}/nowhere", *QUICK)
    assert done.code == 1
    assert "nowhere" in done.stderr


def test_an_endpoint_that_is_not_there(cli: Cli) -> None:
    cli.configure('[s3]\nendpoint_url = "http://127.0.0.1:1"\n')
    cli.section()
    done = cli.run("bench", "s3://my-bucket", *QUICK)
    assert done.code == 1
    assert "no connection to http://127.0.0.1:1" in done.stderr
    # Nothing was sent, so nothing is said to be left.
    assert "could not be removed" not in done.stderr


async def test_ctrl_c_removes_everything(cli: Cli, folder: str) -> None:
    process = await cli.start("bench", folder, "--sizes", "1KiB,4KiB,16KiB", "--repeats", "100", "--json")
    assert process.stdout is not None
    first = await process.stdout.readline()
    assert b'"measurement"' in first
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode == 130
    assert b"interrupted" in errors
    assert list((cli.folder / "disk").iterdir()) == []
