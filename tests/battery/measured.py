"""Command lines whose memory and open files are measured: in a process of their own, by the kernel."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

from tests.workbench import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workbench import Workbench

OPEN_FILES = 256
CEILING_BYTES = 160_000_000
"""What a process may take at the most, interpreter and libraries included, at 64 MiB of file contents."""

# ru_maxrss will not do: the kernel counts into it what the parent had at the moment of the fork.
_CODE = """
import re, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
from asyncbackup.cli.app import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    sys.stderr.write("\\npeak " + re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
sys.exit(code)
"""


class Measured(msgspec.Struct, frozen=True):
    """How a command ended, and the most memory that it had (resident, in bytes)."""

    code: int
    said: str
    peak_bytes: int


def measured(
    bench: Workbench, *arguments: str, endpoint_url: str = "", config: Path | None = None
) -> Measured:
    """Run one command line that may have 256 files open, the standard streams included.

    One more makes it fail, so a clean end says that there were never more.
    """
    config = config or bench.config_file(endpoint_url=endpoint_url)
    ended = subprocess.run(
        [sys.executable, "-c", _CODE.format(limit=OPEN_FILES), "-c", str(config), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    said, _, peak = ended.stderr.rpartition("\npeak ")
    return Measured(ended.returncode, ended.stdout + said, int(peak or 0) * 1024)


def clean(bench: Workbench, *arguments: str) -> int:
    """The same of a command that has to succeed, under the ceiling; its peak in bytes."""
    ended = measured(bench, *arguments)
    assert ended.code == 0, ended.said
    assert 0 < ended.peak_bytes < CEILING_BYTES, f"{arguments[0]} took {ended.peak_bytes / MIB:.0f} MiB"
    return ended.peak_bytes
