"""A stretch of an object in the pieces in which it came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class Stretch:
    """Reads ranges of bytes that were received piece by piece, without joining all of them.

    Reading is quickest in ascending order. Not thread-safe.
    """

    def __init__(self, pieces: Sequence[Buffer]) -> None:
        self._pieces = [memoryview(piece).cast("B") for piece in pieces if piece]
        self._size = sum(map(len, self._pieces))
        self._number = self._start = 0
        """The piece that was read last, and where in the stretch it begins."""
        self._joined = bytearray()

    def __len__(self) -> int:
        return self._size

    def view(self, begin: int, end: int) -> memoryview:
        """The bytes from ``begin`` to ``end``, fewer at the end of the stretch. Valid until the next call."""
        end = min(end, self._size)
        if begin >= end:
            return memoryview(b"")
        if begin < self._start:
            self._number = self._start = 0
        while begin - self._start >= len(piece := self._pieces[self._number]):
            self._start += len(piece)
            self._number += 1
        if end - self._start <= len(piece):
            return piece[begin - self._start : end - self._start]
        return self._join(begin, end)

    def _join(self, begin: int, end: int) -> memoryview:
        size = end - begin
        if len(self._joined) < size:
            self._joined = bytearray(size)
        joined = memoryview(self._joined)
        number, skip, place = self._number, begin - self._start, 0
        while place < size:
            part = self._pieces[number][skip : skip + size - place]
            joined[place : place + len(part)] = part
            place += len(part)
            number, skip = number + 1, 0
        return joined[:size]
