"""``run`` and ``restore`` with the process beside that reads or writes small files."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two processors"
)
TOLD = re.compile(rb"small files are (?:read|written) by process (\d+)")
ANSWERED = re.compile(rb"has answered (\d+) times")


def start(cli: Cli, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "asyncbackup", *arguments, "--debug"],
        cwd=cli.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def fill(cli: Cli) -> None:
    for folder in range(5):
        (cli.tree / f"folder{folder}").mkdir()
        for file in range(50):
            (cli.tree / f"folder{folder}" / f"file{file}").write_bytes(os.urandom(100 * file))
    os.link(cli.tree / "docs" / "report.txt", cli.tree / "report")
    os.setxattr(cli.tree / "empty", b"user.note", b"nothing in here")


def same(cli: Cli) -> None:
    restored = cli.folder / "restored"
    with start(cli, "restore", "home", "--target", str(restored)) as process:
        _, log = process.communicate()
    assert process.returncode == 0
    assert b"this one does its work itself" not in log
    told = TOLD.search(log)
    assert told is not None
    assert all(int(times) > 0 for times in ANSWERED.findall(log))
    with pytest.raises(ProcessLookupError):
        os.kill(int(told[1]), 0)
    for place in (cli.tree, *cli.tree.rglob("*")):
        there = restored / place.relative_to(cli.tree)
        assert there.is_symlink() == place.is_symlink()
        if place.is_file() and not place.is_symlink():
            assert there.read_bytes() == place.read_bytes()
            assert there.stat().st_mtime_ns == place.stat().st_mtime_ns
    assert os.getxattr(restored / "empty", b"user.note") == b"nothing in here"
    assert (restored / "report").samefile(restored / "docs" / "report.txt")


@pytest.mark.parametrize("layout", ["mirror", "packed"])
def test_it_reads_what_is_saved(cli: Cli, layout: str) -> None:
    cli.section(extra=f'layout = "{layout}"')
    fill(cli)
    assert cli.run("initdb").code == 0
    with start(cli, "run") as process:
        _, log = process.communicate()
    assert process.returncode == 0
    told = TOLD.search(log)
    assert told is not None
    times = ANSWERED.search(log)
    assert times is not None
    assert int(times[1]) > 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(told[1]), 0)
    same(cli)


def test_two_sections_share_it(cli: Cli) -> None:
    cli.section()
    cli.section("other", destination=f"file://{cli.folder}/other")
    fill(cli)
    assert cli.run("initdb").code == 0
    with start(cli, "run") as process:
        _, log = process.communicate()
    assert process.returncode == 0
    assert len(set(TOLD.findall(log))) == 1
    assert len(TOLD.findall(log)) == 2
    same(cli)


@pytest.mark.parametrize("layout", ["mirror", "packed"])
def test_a_run_whose_reading_process_is_killed_saves_all_the_same(cli: Cli, layout: str) -> None:
    """Whether it was asked for anything by then or not."""
    cli.section(extra=f'layout = "{layout}"')
    fill(cli)
    assert cli.run("initdb").code == 0
    log = b""
    with start(cli, "run") as process:
        assert process.stderr is not None
        while (told := TOLD.search(log)) is None:
            line = process.stderr.readline()
            assert line, log
            log += line
        os.kill(int(told[1]), signal.SIGKILL)
        log += process.stderr.read()
    assert process.returncode == 0, log
    same(cli)


def test_a_restore_whose_writing_process_is_killed_restores_all_the_same(cli: Cli) -> None:
    cli.section()
    fill(cli)
    assert cli.run("initdb").code == 0
    with start(cli, "run") as process:
        process.communicate()
    log = b""
    with start(cli, "restore", "home", "--target", str(cli.folder / "first")) as process:
        assert process.stderr is not None
        while (told := TOLD.search(log)) is None:
            line = process.stderr.readline()
            assert line, log
            log += line
        os.kill(int(told[1]), signal.SIGKILL)
        log += process.stderr.read()
    assert process.returncode == 0, log
    assert (cli.folder / "first" / "folder4" / "file49").read_bytes() == (
        cli.tree / "folder4" / "file49"
    ).read_bytes()
    same(cli)


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_closed_standard_streams_are_no_failure(cli: Cli, closed: str) -> None:
    cli.section()
    fill(cli)
    assert cli.run("initdb").code == 0
    closing = " ".join(f"{number}>&-" for number in closed.split())
    for arguments in ("run", f"restore home --target {cli.folder}/restored"):
        command = f"exec {shlex.quote(sys.executable)} -m asyncbackup {arguments} {closing}"
        done = subprocess.run(["sh", "-c", command], cwd=cli.folder, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    assert (cli.folder / "restored" / "folder4" / "file49").exists()
