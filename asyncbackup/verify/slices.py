"""Digests of contents that lie somewhere in a stream, while it goes by once."""

from __future__ import annotations

from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncbackup.catalog.expected import Member


class Slices:
    """Compares the contents of one expanded range with their digests.

    ``members`` are in the order of ``skip`` and lie in one range. Feed what the
    range expands to; :meth:`finish` gives those that are not what was saved.
    """

    __slots__ = ("_active", "_bad", "_place", "_waiting")

    def __init__(self, members: Iterable[Member]) -> None:
        self._waiting = deque(members)
        self._active: list[_Slice] = []
        self._bad: list[Member] = []
        self._place = 0

    def is_done(self) -> bool:
        """Whether nothing more is needed."""
        return not self._waiting and not self._active

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream."""
        start, end = self._place, self._place + len(data)
        while self._waiting and self._waiting[0].skip < end:
            self._active.append(_Slice(self._waiting.popleft()))
        view = memoryview(data)
        unfinished: list[_Slice] = []
        for piece in self._active:
            first, beyond = piece.member.skip, piece.member.skip + piece.member.size
            piece.digest.update(view[max(0, first - start) : beyond - start])
            if beyond > end:
                unfinished.append(piece)
            elif piece.member.sha256 and piece.digest.digest() != piece.member.sha256:
                self._bad.append(piece.member)
        self._active = unfinished
        self._place = end

    def finish(self) -> list[Member]:
        """Those that differ, and those whose end never came."""
        bad = [*self._bad, *(piece.member for piece in self._active), *self._waiting]
        self._active.clear()
        self._waiting.clear()
        return bad


class _Slice:
    """A content that goes by."""

    __slots__ = ("digest", "member")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.digest = sha256()
