"""Making the C library give memory back, which matters to a program that moves large buffers for hours."""

from __future__ import annotations

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
MMAP_THRESHOLD_BYTES: Final = 128 * 1024
"""glibc's own first value. It raises it to 32 MiB as large buffers come and go, and then keeps them in heaps
that fragment: packing 30,000 files under encryption took 200 MB, with this fixed 133."""


def give_large_buffers_back() -> None:
    """Let large buffers be mapped and unmapped one by one. Does nothing where there is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
