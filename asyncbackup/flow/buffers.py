"""Large buffers that are used again.

Memory that is fresh costs the kernel more than filling it: a fault for each page,
and zeros that nobody reads.
"""

from __future__ import annotations

import threading


class SpareBuffers:
    """Gives out buffers, and again those that nobody views any more.

    At most ``keep`` buffers are remembered, in use or not, so that much stays allocated; what is asked
    for beyond them is new, and gone with its last view. ``made`` counts the new ones. Thread-safe.
    """

    __slots__ = ("_keep", "_kept", "_lock", "made")

    def __init__(self, *, keep: int) -> None:
        self.made = 0
        self._keep = keep
        self._kept: list[bytearray] = []
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
                        return memoryview(buffer)[:size_bytes]
                    too_small = index
            self.made += 1
            # The room beyond serves the next one, which may be a little larger; and none is empty.
            buffer = bytearray(size_bytes + size_bytes // 8 + 1)
            if too_small < self._keep:
                self._kept[too_small : too_small + 1] = [buffer]
            return memoryview(buffer)[:size_bytes]


def _is_viewed(buffer: bytearray) -> bool:
    # What is viewed refuses to change its size. (Shrinking by a byte moves nothing.)
    try:
        last = buffer.pop()
    except BufferError:
        return True
    buffer.append(last)
    return False
