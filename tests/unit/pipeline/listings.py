"""What the walker tells of entries that are on no disk."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncbackup.catalog.rows import Row
    from asyncbackup.model import SourceEntry

SECOND = 10**9


def status_of(entry: SourceEntry) -> os.stat_result:
    """The ``lstat`` in which the entry was seen."""
    mtime, ctime = entry.mtime_ns, entry.ctime_ns
    return os.stat_result(
        (
            entry.mode, entry.ino, entry.dev, entry.nlink, entry.uid, entry.gid, entry.size,
            0, mtime // SECOND, ctime // SECOND,
            0.0, mtime / SECOND, ctime / SECOND,
            0, mtime, ctime,
            4096, entry.blocks, 0,
        )
    )  # fmt: skip


def unchanged_row(entry: SourceEntry) -> Row:
    """Its row in a catalog that knows it as it is."""
    is_file, is_folder = stat.S_ISREG(entry.mode), stat.S_ISDIR(entry.mode)
    return (
        entry.folder, entry.name, 0, entry.mode, entry.size if is_file else 0, entry.mtime_ns,
        entry.ctime_ns, entry.uid, entry.gid, 0 if is_folder else entry.nlink,
    )  # fmt: skip
