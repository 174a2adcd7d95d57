"""Equal parts of a memory that two processes see, given out one by one and free when nobody views them."""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap


class Slot(NamedTuple):
    """``offset`` is where ``view`` begins in the memory, in bytes."""

    offset: int
    view: memoryview


class SharedSlots:
    """The slots of a memory from ``begin`` to ``end``, ``slot_bytes`` each. Not thread-safe."""

    def __init__(self, memory: mmap.mmap, *, slot_bytes: int, begin: int = 0, end: int | None = None) -> None:
        self._memory = memory
        self._begin = begin
        self.slot_bytes = slot_bytes
        self._array = ctypes.c_char * slot_bytes
        self._given: list[weakref.ref[ctypes.Array[ctypes.c_char]] | None]
        self._given = [None] * (((len(memory) if end is None else end) - begin) // slot_bytes)

    def take(self, size_bytes: int) -> Slot | None:
        """A slot with a view of ``size_bytes``; ``None`` where none is free or it is larger than that.

        It is taken as long as there is any view of it, parts of it among them: nothing has to be given back.
        """
        if size_bytes > self.slot_bytes:
            return None
        for index, given in enumerate(self._given):
            if given is None or given() is None:
                offset = self._begin + index * self.slot_bytes
                array = self._array.from_buffer(self._memory, offset)
                self._given[index] = weakref.ref(array)
                return Slot(offset, memoryview(array).cast("B")[:size_bytes])
        return None
