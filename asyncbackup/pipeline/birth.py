"""Whether an inode is still the file that it was: an inode's number is given to another file soon after
its own was deleted. Its time of birth tells, which Python's ``os.stat`` leaves out on Linux."""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncbackup.model import SourceEntry

BIRTH_MARGIN_NS: Final = 20_000_000
"""Birth times come from the kernel's coarse clock, which lags behind by up to a tick of 10 ms."""

_AT_SYMLINK_NOFOLLOW: Final = 0x100
_STATX_BTIME: Final = 0x800
_STATX_SIZE: Final = 256
# struct statx of linux/stat.h: the mask at 0, stx_btime (seconds, nanoseconds) at 80.
_MASK: Final = struct.Struct("=I")
_BTIME: Final = struct.Struct("=qI")
_BTIME_OFFSET: Final = 80


def was_there(folder: int, seen: SourceEntry, *, before_ns: int) -> bool:
    """Whether the inode of an entry (in its open folder) was born before a moment.

    Where nobody can say, an mtime with a fraction of a second speaks for it:
    what gets its mtime set by an archive or a build has whole seconds.
    """
    born_ns = birth_ns(folder, seen.name)
    if born_ns is None:
        return bool(seen.mtime_ns % 1_000_000_000)
    return born_ns + BIRTH_MARGIN_NS < before_ns


def birth_ns(folder: int, name: bytes) -> int | None:
    """When the inode of ``name`` in an open folder was made, in ns since 1970; ``None`` where the
    system or the file system does not say. A symlink is not followed."""
    statx = _statx()
    if statx is None:
        status = os.lstat(name, dir_fd=folder)
        born: float | None = getattr(status, "st_birthtime", None)
        return None if born is None else int(born * 1_000_000_000)
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if statx(folder, name, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, buffer):
        return None
    if not _MASK.unpack_from(buffer)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = _BTIME.unpack_from(buffer, _BTIME_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


@cache
def _statx() -> ctypes._NamedFuncPointer | None:
    """glibc's and musl's ``statx``; ``None`` elsewhere."""
    try:
        function = ctypes.CDLL(None, use_errno=True).statx
    except (AttributeError, OSError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    function.restype = ctypes.c_int
    return function
