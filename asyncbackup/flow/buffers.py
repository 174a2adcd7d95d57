"""Large buffers that are used again.

Memory that is fresh costs the kernel more than filling it: a fault for each page,
and zeros that nobody reads.
"""

from __future__ import annotations

import threading

IDLE_TAKES = 3
"""A buffer is let go after so many takes that could do without it, for each buffer that may be kept."""


class SpareBuffers:
    """Gives out buffers, and again those that nobody views any more.

    At most ``keep`` buffers are remembered, in use or not, so that much stays allocated; what is asked
    for beyond them is new, and gone with its last view. Of several, those that were not needed for long
    are let go. ``made`` counts the new ones. Thread-safe.
    """

    __slots__ = ("_idle", "_keep", "_kept", "_lock", "made")

    def __init__(self, *, keep: int) -> None:
        self.made = 0
        self._keep = keep
        self._kept: list[bytearray] = []
        self._idle = 0
        """Takes since the last of the kept ones was needed. The first that is free is taken, so it is the
        one that is needed least."""
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> memoryview:
        """A view of ``size_bytes``, holding whatever they held before.

        It is in use as long as there is any view of it, parts of it among them: nothing has to be given
        back, and what still reads a part keeps it as it is.
        """
        with self._lock:
            too_small = len(self._kept)
            for index, buffer in enumerate(self._kept):
                if not _is_viewed(buffer):
                    if len(buffer) >= size_bytes:
                        view = memoryview(buffer)[:size_bytes]
                        self._let_go_after(index)
                        return view
                    too_small = index
            self.made += 1
            self._idle = 0
            # The room beyond serves the next one, which may be a little larger; and none is empty.
            buffer = bytearray(size_bytes + size_bytes // 8 + 1)
            if too_small < self._keep:
                self._kept[too_small : too_small + 1] = [buffer]
            return memoryview(buffer)[:size_bytes]

    def forget(self) -> None:
        """Let go of all: those that are viewed go with their last view."""
        with self._lock:
            self._kept.clear()

    def _let_go_after(self, taken: int) -> None:
        last = len(self._kept) - 1
        self._idle = self._idle + 1 if taken < last else 0
        if self._idle > IDLE_TAKES * self._keep and not _is_viewed(self._kept[last]):
            del self._kept[last]
            self._idle = 0


def _is_viewed(buffer: bytearray) -> bool:
    # What is viewed refuses to change its size. (Shrinking by a byte moves nothing.)
    try:
        last = buffer.pop()
    except BufferError:
        return True
    buffer.append(last)
    return False
