"""Expanding zstd frames from whoever wrote them, in bounded memory (docs/format.md, "Compression").

What a few bytes expand to is bounded by nothing, so nothing here expands more
than was asked for, or more than a piece at a time. A frame that wants a window
over 8 MiB or a dictionary is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, cast

import zstandard

from asyncbackup.errors import FormatError

MAX_WINDOW_BYTES = 8 * 1024 * 1024
MAX_FRAME_BYTES = 16 * 1024 * 1024
"""What one frame may expand to."""
EXTRA_BYTES = 16 * 1024
"""What a :class:`FrameExpander` may expand beyond what was asked for."""
PIECE_BYTES = 128 * 1024
"""What an :class:`Expander` gives at once: a block of zstd is as large."""


class FrameExpander:
    """Expands frames of packs one after another, each into the same memory. Not thread-safe."""

    def __init__(self) -> None:
        self._decompressor = _decompressor()
        self._content = memoryview(bytearray())

    def prefix(
        self, stored: bytes | bytearray | memoryview, size: int, *, name: str
    ) -> tuple[memoryview, FormatError | None]:
        """The first ``size`` bytes of what a series of frames expands to, valid until the next call.

        Where they are damaged, end early, expand to less or to more than 16 MiB,
        what comes before and an error that says ``name``.
        """
        try:
            announced = zstandard.get_frame_parameters(bytes(stored[:_HEADER_BYTES])).content_size
            if size > MAX_FRAME_BYTES or MAX_FRAME_BYTES < announced < zstandard.CONTENTSIZE_UNKNOWN:
                reason = f"a frame is to expand to more than {MAX_FRAME_BYTES} bytes"
                return memoryview(b""), _error(name, reason)
            content = self._expanded(stored, size, announced)
        except zstandard.ZstdError:
            salvaged, error = _salvaged(stored, size, name)
            return memoryview(salvaged), error
        if len(content) < size:
            return content, _error(name, f"{len(content)} bytes are in it where {size} belong")
        return content[:size], None

    def _expanded(self, stored: bytes | bytearray | memoryview, size: int, announced: int) -> memoryview:
        # To its end a frame is expanded at once; up to a place before, zstd goes through buffers of its
        # own. What follows the last content is little: the padding of tar.
        if size < announced <= size + EXTRA_BYTES:
            try:
                return self._read(stored, announced)
            except zstandard.ZstdError:
                pass  # Perhaps only what was not asked for is damaged.
        return self._read(stored, size)

    def _read(self, stored: bytes | bytearray | memoryview, size: int) -> memoryview:
        if len(self._content) < size:
            self._content = memoryview(bytearray(size))
        with self._decompressor.stream_reader(stored, read_across_frames=True) as reader:
            return self._content[: reader.readinto(self._content[:size])]


def _salvaged(
    stored: bytes | bytearray | memoryview, size: int, name: str
) -> tuple[bytes, FormatError | None]:
    """The same, a piece at a time: a read that fails gives nothing of what came before."""
    pieces: list[bytes] = []
    left = size
    try:
        for piece in Expander(name=name).feed(stored):
            pieces.append(piece[:left])
            left -= len(pieces[-1])
            if not left:
                return b"".join(pieces), None
    except FormatError as error:
        return b"".join(pieces), error
    return b"".join(pieces), _error(name, f"{size - left} bytes are in it where {size} belong")


class Expander:
    """Expands a series of frames as their bytes arrive. ``name`` is what errors call the object.

    It does not tell whether the last frame ended: the caller knows how much it
    expects. Everything raises :class:`FormatError`; the expander is then unusable.
    """

    def __init__(self, *, name: str) -> None:
        self._name = name
        self._source = _Source()
        self._reader = _decompressor().stream_reader(
            cast("IO[bytes]", self._source), read_size=_READ_BYTES, read_across_frames=True
        )

    def feed(self, stored: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """What ``stored`` completes, in pieces of at most 128 KiB that are expanded one by one.

        Give the next bytes when the iterator was used up, or never.
        """
        view = memoryview(stored).cast("B")
        for start in range(0, len(view), _READ_BYTES):
            self._source.give(bytes(view[start : start + _READ_BYTES]))
            while piece := self._next():
                yield piece

    def _next(self) -> bytes:
        try:
            piece: bytes = self._reader.read1(PIECE_BYTES)
        except _DryError:
            return b""
        except zstandard.ZstdError as error:
            raise _error(self._name, str(error)) from None
        return piece


_READ_BYTES = 1024 * 1024
_HEADER_BYTES = 18
"""The longest header of a frame."""


class _DryError(Exception):
    """All that was given is taken. An empty read would be the end for good."""


class _Source:
    """What the reader of an :class:`Expander` reads from."""

    def __init__(self) -> None:
        self._stored = b""

    def give(self, stored: bytes) -> None:
        self._stored = stored

    def read(self, _: int = -1) -> bytes:
        stored, self._stored = self._stored, b""
        if not stored:
            raise _DryError
        return stored


def _decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)


def _error(name: str, reason: str) -> FormatError:
    return FormatError(f"{name!r} cannot be expanded: {reason}")
