"""A pack's bytes before sealing, as the stored ones arrive; where a chunk was changed there is a hole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.errors import AuthenticationError
from asyncbackup.format.envelope import CHUNK_SIZE, SEALED_CHUNK_SIZE
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncbackup.repository.open import Repository


class PackBytes:
    """Opens a sealed pack chunk by chunk, so that a damaged one costs only what lies in it.

    The pieces of :meth:`feed` and :meth:`finish` follow one another without a
    gap: bytes, or the number of bytes that could not be opened. Both raise
    :class:`FormatError` if the pack is no sealed object of this key and size at
    all. Used in threads.
    """

    __slots__ = ("_held", "_key", "_number", "_opener", "_repository", "_stored_size", "holes")

    def __init__(self, repository: Repository, key: str, *, stored_size: int) -> None:
        self._repository = repository
        self._key = key
        self._stored_size = stored_size
        self._held = bytearray()
        self._opener: RangeOpener | None = None
        self._number = 0
        self.holes = 0
        """How many chunks could not be opened."""

    def feed(self, stored: bytes) -> Iterator[bytes | int]:
        """The pieces that ``stored`` completes."""
        held = self._held
        held += stored
        if self._opener is None:
            if len(held) < HEAD_SIZE:
                return
            self._opener = self._opener_of(bytes(held[:HEAD_SIZE]))
            del held[:HEAD_SIZE]
        count = len(held) // SEALED_CHUNK_SIZE
        if count:
            whole = bytes(held[: count * SEALED_CHUNK_SIZE])
            del held[: count * SEALED_CHUNK_SIZE]
            yield from self._open_chunks(self._opener, whole, count)

    def finish(self) -> Iterator[bytes | int]:
        """The last piece, which is shorter than a chunk."""
        if self._opener is None:
            raise AuthenticationError(f"{self._key!r} is not authentic: it ends within its header")
        last = self._opener.size - self._number * CHUNK_SIZE
        yield self._open_chunk(self._opener, bytes(self._held), last)

    def _opener_of(self, head: bytes) -> RangeOpener:
        repository = self._repository
        assert repository.key is not None
        return RangeOpener(
            repository.key,
            repository=repository.repository_id,
            section=repository.section,
            object_key=self._key,
            head=head,
            stored_size=self._stored_size,
        )

    def _open_chunks(self, opener: RangeOpener, stored: bytes, count: int) -> Iterator[bytes | int]:
        try:
            opened = opener.open(self._number * CHUNK_SIZE, count * CHUNK_SIZE, stored)
        except AuthenticationError:
            for place in range(0, len(stored), SEALED_CHUNK_SIZE):
                chunk = stored[place : place + SEALED_CHUNK_SIZE]
                yield self._open_chunk(opener, chunk, CHUNK_SIZE)
            return
        self._number += count
        yield opened

    def _open_chunk(self, opener: RangeOpener, stored: bytes, size: int) -> bytes | int:
        self._number += 1
        try:
            return opener.open_chunk(self._number - 1, stored)
        except AuthenticationError:
            self.holes += 1
            return size
