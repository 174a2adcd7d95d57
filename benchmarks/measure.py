"""One command run to its end: wall time, CPU time with its children's, peak memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_TAIL_CHARACTERS = 2000


class CommandFailedError(Exception):
    """The command ended with another code than 0; the message has the end of what it said."""


class Cost(NamedTuple):
    """``peak_mb`` is the largest resident set of any one of the processes.

    Linux counts for a new program what its parent had when it was forked, so this is never less than
    the memory of this process: nothing large may be imported here (plots are drawn elsewhere).
    """

    wall_seconds: float
    cpu_seconds: float
    peak_mb: float


def run(command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path) -> Cost:
    """Run a command in ``folder``, its output in ``log``. Raises ``CommandFailedError``."""
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a command line of the benchmark's own
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = log.read_text(errors="replace")[-_TAIL_CHARACTERS:]
        raise CommandFailedError(f"{command[0]} ended with {process.returncode}:\n{said}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
