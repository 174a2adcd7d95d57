"""The commands of a RESTORE.md, taken from the page and run as somebody would who types them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

needs_aws = pytest.mark.skipif(shutil.which("aws") is None, reason="the AWS CLI is not installed")
needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed (Debian: zstd)")
needs_getfattr = pytest.mark.skipif(
    shutil.which("getfattr") is None, reason="getfattr is not installed (Debian: attr)"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners are restored by root alone")


def commands_below(page: str, title: str) -> str:
    """The indented blocks of the section with that title."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0].split("\n```python\n")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    assert lines
    return "\n".join(lines)


def of_one_run(commands: str, run: str) -> str:
    """What the page says to put in the loop for one run alone."""
    changed = re.sub(r"for run in \$\(.*\); do", f"for run in {run}/; do", commands)
    changed = re.sub(r"/data/\*/; do", f"/data/{run}/; do", changed)
    assert changed != commands
    return changed


def do(commands: str, folder: Path, *, endpoint: S3Endpoint | None = None, strict: bool = True) -> str:
    """Run commands in a new folder, and return what they complained about; if ``strict``, none may fail."""
    if endpoint is not None:
        commands = commands.replace("https://s3.example.org", endpoint.url)
    commands = re.sub(r"^pip install .*$", "", commands, flags=re.MULTILINE)
    folder.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(folder), "AWS_DEFAULT_REGION": "us-east-1"}
    if endpoint is not None:
        environment["AWS_ENDPOINT_URL"] = endpoint.url
    done = subprocess.run(
        ["sh", "-euc" if strict else "-uc", commands],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )
    complaints = done.stderr.decode(errors="replace")
    assert done.returncode == 0, complaints
    return complaints
