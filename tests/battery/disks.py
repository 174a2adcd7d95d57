"""File systems of a test's own: small ones that fill up, and such as keep any time."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted_tmpfs(folder: Path, *, size: str) -> Iterator[Path]:
    """A tmpfs at ``folder``, which is made; skips the test where this user may not mount."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    try:
        yield folder
    finally:
        if os.path.ismount(folder):
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: Path, size: str) -> None:
    """Make a mounted tmpfs larger."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@contextmanager
def mounted_ext4(image: Path, folder: Path, *, megabytes: int) -> Iterator[Path]:
    """An ext4 file system in a file, mounted at ``folder``; skips the test where that cannot be."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("only root mounts an ext4 image, and mkfs.ext4 makes it")
    with image.open("wb") as file:
        file.truncate(megabytes * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=False).returncode:
        pytest.skip("there is no loop device")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
