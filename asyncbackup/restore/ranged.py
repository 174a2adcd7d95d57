"""One very large file: ranges of its object at the same time, as many as keep the thread busy that hashes."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, Protocol

import msgspec

from asyncbackup.flow.hops import hop
from asyncbackup.restore.content import Content, check_digest
from asyncbackup.restore.outcome import ContentError

if TYPE_CHECKING:
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.restore.temporary import TemporaryFile

P = ParamSpec("P")

READ_BACK_BYTES = 256 * 1024
"""What is read back at once: less than a processor's cache, in which the digest then finds it."""
STARVED_SECONDS = 0.02
"""Further ranges are begun where the thread that hashes has waited so much longer than it worked: longer
than a busy machine lets it wait by the way."""
MOST_STARVED_SECONDS, MOST_SPARED_SECONDS = 0.1, 0.05
"""What waiting and working count for at most, so that a line that changes is soon noticed. Reading back
the ranges that came meanwhile takes less than the former, and makes nobody leave."""

Take = Callable[[memoryview], Awaitable[None]]


class Pour(Protocol):
    """Gives a range of a content, by its offset and length in bytes, to what takes it, piece by piece.

    Those that come ``in_turn`` are hashed as they come, others are only written.
    """

    async def __call__(self, offset: int, length: int, take: Take, *, in_turn: bool) -> None: ...


class Ranges(msgspec.Struct, frozen=True):
    """Ranges of ``size_bytes``, ``at_once`` of them under way at most."""

    size_bytes: int
    at_once: int


class RangedFile:
    """Fetches, writes and hashes one content that is stored as it is.

    A digest takes bytes in their order. So one range, the first that is missing, is hashed as it
    comes, in the memory it was received into; those behind it are only written, and read back when
    it is their turn. A line that brings one range faster than a thread can hash it needs no others.
    Where the thread waits for the line, more of them come at the same time.
    """

    def __init__(
        self,
        content: Content,
        temporary: TemporaryFile,
        gate: ThreadGate,
        ranges: Ranges,
        pour: Pour,
        *,
        progress: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._content = content
        self._temporary = temporary
        self._gate = gate
        self._ranges = ranges
        self._pour = pour
        self._progress = progress
        self._clock = clock
        self._digest = hashlib.sha256()
        self._next = 0
        """The first range that nobody has taken on."""
        self._others = 0
        """Tasks that fetch ranges whose turn has not come."""
        self._arrived: set[int] = set()
        self._change = asyncio.Condition()
        self._starved_seconds = -MOST_SPARED_SECONDS  # The first wait is for more than the line.
        self._since = 0.0
        self._working = False

    async def fill(self, sha256: bytes) -> None:
        """Write all of it, once. Raises ``ContentError`` unless it is what was saved.

        What single ranges fail of comes in exception groups.
        """
        self._since = self._clock()
        async with asyncio.TaskGroup() as group:
            for offset in range(0, self._content.length, self._ranges.size_bytes):
                if offset == self._next:
                    await self._fetch(self._take_on(), group)
                else:
                    await self._read_back(offset, group)
            check_digest(self._content, sha256, self._digest.digest())

    def _take_on(self) -> int:
        offset = self._next
        self._next += self._ranges.size_bytes
        return offset

    def _end_of(self, offset: int) -> int:
        return min(offset + self._ranges.size_bytes, self._content.length)

    async def _fetch(self, offset: int, hashing_group: asyncio.TaskGroup | None = None) -> None:
        """Write a range as it comes, and hash it where it is its turn."""
        position = offset

        async def take(view: memoryview) -> None:
            nonlocal position
            if hashing_group is not None:
                await self._in_turn(hashing_group, self._hash_and_write, position, view)
            else:
                await hop(self._gate, self._temporary.write, position, view)
            position += len(view)
            self._progress(len(view))

        length = self._end_of(offset) - offset
        await self._pour(offset, length, take, in_turn=hashing_group is not None)

    async def _fetch_others(self) -> None:
        """Fetch ranges whose turn has not come, as long as that helps."""
        try:
            while self._next < self._content.length and self._waits():
                offset = self._take_on()
                await self._fetch(offset)
                async with self._change:
                    self._arrived.add(offset)
                    self._change.notify_all()
        finally:
            self._others -= 1

    async def _read_back(self, offset: int, group: asyncio.TaskGroup) -> None:
        async with self._change:
            while offset not in self._arrived:
                await self._change.wait()
            self._arrived.remove(offset)
        await self._in_turn(group, self._hash_written, offset)

    async def _in_turn(
        self, group: asyncio.TaskGroup, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Let a thread hash what is next, and see whether it had to wait too long for that."""
        waited_seconds = self._turn()
        self._working = True
        await hop(self._gate, call, *args, **kwargs)
        worked_seconds = self._turn()
        self._working = False
        starved = self._starved_seconds + waited_seconds - worked_seconds
        self._starved_seconds = max(-MOST_SPARED_SECONDS, min(starved, MOST_STARVED_SECONDS))
        if waited_seconds > worked_seconds and starved >= STARVED_SECONDS:
            # Twice as many each time: few steps lead to all of them.
            for _ in range(min(self._others + 1, self._ranges.at_once - 1 - self._others)):
                if self._next < self._content.length:
                    self._others += 1
                    group.create_task(self._fetch_others())

    def _turn(self) -> float:
        """For how many seconds the thread has waited, or worked; it begins to do the other."""
        began, self._since = self._since, self._clock()
        return self._since - began

    def _waits(self) -> bool:
        """Whether the thread has waited longer than it worked of late, as far as that is known now."""
        now_seconds = self._clock() - self._since
        return self._starved_seconds + (-now_seconds if self._working else now_seconds) > 0

    def _hash_and_write(self, position: int, view: memoryview) -> None:
        self._digest.update(view)
        self._temporary.write(position, view)

    def _hash_written(self, offset: int) -> None:
        end = self._end_of(offset)
        buffer = memoryview(bytearray(min(READ_BACK_BYTES, end - offset)))
        while offset < end:
            count = self._temporary.read_into(offset, buffer[: end - offset])
            if not count:
                raise ContentError("the file was cut while it was being restored")
            self._digest.update(buffer[:count])
            offset += count
