"""What a restore does with what it finds at an entry's place."""

from __future__ import annotations

import enum
import os
import stat

from asyncbackup.model import Entry, Kind


class Overwrite(enum.StrEnum):
    """``always`` replaces it, ``changed`` leaves files and symlinks that look the same, ``never``
    leaves everything, the metadata of existing folders included."""

    ALWAYS = "always"
    CHANGED = "changed"
    NEVER = "never"


def looks_same(status: os.stat_result, entry: Entry, *, tolerance_ns: int = 0) -> bool:
    """Whether what stands there has the entry's kind, size and modification time.

    Times may differ by ``tolerance_ns``. Of a symlink only kind and time are
    compared; its target is the caller's to look at.
    """
    if abs(status.st_mtime_ns - entry.mtime_ns) > tolerance_ns:
        return False
    if entry.kind is Kind.FILE:
        return stat.S_ISREG(status.st_mode) and status.st_size == entry.size
    return stat.S_ISLNK(status.st_mode)
