"""Command lines in a process whose memory is limited, and measured by its own highest mark.

Run as ``python -m tests.battery.limited ARGUMENTS…`` it is that process.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

MIB = 1024 * 1024
ADDRESS_SPACE_BYTES = 3 * 1024 * MIB
"""What a test that fails may take of the machine. Threads reserve far more than they use."""
LARGEST_FILE_BYTES = 256 * MIB
"""What it may write into one file."""
_ROOT = Path(__file__).parents[2]
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_TOLD = re.compile(r"peak=(\d+)\n\Z")


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a command line ended, and the most memory that it held at once."""

    code: int
    stdout: str
    stderr: str
    peak_bytes: int


def limited(arguments: Sequence[str], *, file_bytes: int = LARGEST_FILE_BYTES) -> Ended:
    """Run one command line of asyncbackup; a crash of the interpreter fails the test."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.battery.limited", str(file_bytes), *arguments],
        cwd=_ROOT, capture_output=True, check=False, text=True, errors="surrogateescape",
    )  # fmt: skip
    told = _TOLD.search(done.stderr)
    assert told is not None, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(
        code=done.returncode,
        stdout=done.stdout,
        stderr=done.stderr[: told.start()],
        peak_bytes=int(told[1]),
    )


def _main(file_bytes: int, arguments: Sequence[str]) -> int:
    for what, limit in ((resource.RLIMIT_AS, ADDRESS_SPACE_BYTES), (resource.RLIMIT_FSIZE, file_bytes)):
        resource.setrlimit(what, (limit, limit))
    from asyncbackup.cli.app import main  # what it imports counts

    code = main(arguments)
    sys.stdout.flush()
    # Not ru_maxrss: that remembers the process that this one was made by.
    peak = _PEAK.search(Path("/proc/self/status").read_text())
    assert peak is not None
    os.write(2, b"peak=%d\n" % (int(peak[1]) * 1024))
    return int(code)


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), sys.argv[2:]))
