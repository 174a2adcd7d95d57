"""Processes that die, or meet an error, at a chosen system call: ``strace -e inject``."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.battery.score import Score


@functools.cache
def can_inject() -> bool:
    """Whether strace is there and may trace children here."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-f", "-e", "trace=none", "true"], capture_output=True, check=False)
    return tried.returncode == 0


needs_strace = pytest.mark.skipif(not can_inject(), reason="strace is not here, or may not trace")


def injected(
    arguments: Sequence[str], calls: str, what: str, *, paths: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """One command line of which strace lets ``calls`` meet ``what``, e.g. ``signal=KILL:when=3``.

    strace counts the calls of each thread apart. With ``paths`` only calls on these files count.
    """
    command = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:{what}"]
    for path in paths:
        command += ["-P", str(path)]
    command += [sys.executable, "-m", "asyncbackup", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def killed_at(
    arguments: Sequence[str], calls: str, count: int, score: Score, *, paths: Sequence[Path] = ()
) -> bool:
    """Run a command line that is killed at a thread's ``count``-th call (from 1).

    Says whether it was; a process that made fewer calls has to end clean.
    """
    ended = injected(arguments, calls, f"signal=KILL:when={count}", paths=paths)
    # strace kills itself the same way as what it traced ended.
    if ended.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        score.kills += 1
        return True
    assert ended.returncode == 0, ended.stderr
    return False
