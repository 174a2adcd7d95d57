"""Doing without root's rights, in tests of what may not be read or written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run the block without root's rights (all threads; a user without them stays what it is)."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def open_folder_for_all() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's own are not; it ends with the block."""
    base = Path(tempfile.mkdtemp(prefix="asyncbackup-test-"))
    base.chmod(0o755)
    try:
        yield base
    finally:
        for folder, _, _ in os.walk(base):
            os.chmod(folder, 0o700)
        shutil.rmtree(base)
