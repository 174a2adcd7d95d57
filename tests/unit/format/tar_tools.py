"""The tools that have to read every pack: GNU tar, bsdtar, busybox tar and Python's tarfile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NOBODY = 65534

_TARFILE = """
import os, sys, tarfile, warnings
warnings.simplefilter("error")
if len(sys.argv) > 4:
    # Here, since others may not be allowed to start this interpreter.
    user = int(sys.argv[4])
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
with tarfile.open(sys.argv[2], errorlevel=2) as archive:
    if sys.argv[1] == "list":
        print(*[ascii(member.name) for member in archive], sep="\\n")
    else:
        archive.extractall(sys.argv[3], filter="fully_trusted")
"""


@dataclass(frozen=True)
class Tool:
    """One reader of tar. ``needs`` is its binary, ``package`` the Debian package that has it."""

    name: str
    needs: str
    package: str
    lists: tuple[str, ...]
    extracts: tuple[str, ...]
    tolerance_ns: int
    """How far an extracted mtime may be off; 0 for whole nanoseconds."""
    xattrs: bool = False
    folders: bool = True
    """Whether folders get their own mode and time."""
    link_owners: bool = True
    special_bits: bool = True
    """Whether a user who is not root gets setuid and setgid bits."""
    root: bool = True
    """Whether the folder that it extracts into gets the root's mode and time."""

    def list(self, pack: Path, *, locale: str) -> bytes:
        """What the tool prints of the pack's members."""
        return self.run([*self.lists, str(pack)], locale)

    def extract(self, pack: Path, target: Path, *, locale: str, user: int | None) -> None:
        """Extract all, as the user with that id if there is one."""
        if self.name == "tarfile":
            arguments = [*self.extracts, str(pack), str(target), *(() if user is None else (str(user),))]
            assert self.run(arguments, locale) == b""
        else:
            arguments = [*self.extracts, str(pack), "-C", str(target)]
            assert self.run(arguments, locale, user) == b""

    def run(self, arguments: Sequence[str], locale: str, user: int | None = None) -> bytes:
        """What the tool prints, which ends with 0 and complains about nothing."""
        binary = sys.executable if self.name == "tarfile" else shutil.which(self.needs)
        if binary is None:
            pytest.skip(f"{self.needs} is not installed (Debian: {self.package})")
        done = subprocess.run(
            [binary, *arguments],
            capture_output=True,
            env={"LC_ALL": locale, "PATH": os.environ["PATH"], "TZ": "UTC"},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            name="GNU tar",
            needs="tar",
            package="tar",
            lists=("-tvvf",),
            # Folders get their times and modes last, also where what is in them does not follow at once.
            extracts=("--xattrs", "--xattrs-include=*", "--delay-directory-restore", "-xpf"),
            tolerance_ns=0,
            xattrs=True,
        ),
        Tool(
            name="bsdtar",
            needs="bsdtar",
            package="libarchive-tools",
            lists=("-tvf",),
            extracts=("-xpf",),
            tolerance_ns=0,
            xattrs=True,
            root=False,
        ),
        Tool(
            name="busybox",
            needs="busybox",
            package="busybox-static",
            lists=("tar", "-tvf"),
            extracts=("tar", "-xpf"),
            tolerance_ns=10**9,
            folders=False,
            link_owners=False,
            special_bits=False,
            root=False,
        ),
        Tool(
            name="tarfile",
            needs="python3",
            package="python3",
            lists=("-c", _TARFILE, "list"),
            extracts=("-c", _TARFILE, "extract"),
            tolerance_ns=10**3,
        ),
    )
}


@contextmanager
def readable_folder(user: int | None) -> Iterator[Path]:
    """A new folder that ``user`` may read and write; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        if user is not None:
            os.chown(name, user, user)
        yield Path(name)
