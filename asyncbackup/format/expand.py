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
PIECE_BYTES = 128 * 1024
"""What an :class:`Expander` gives at once: a block of zstd is as large."""


def expand(stored: bytes | bytearray | memoryview, size: int, *, name: str) -> bytes:
    """The first ``size`` bytes of what a series of frames expands to; the rest is not expanded.

    Meant for a frame of a pack: what it gives is held whole. Raises
    :class:`FormatError`, which says ``name``, for frames that are damaged, end
    early or expand to less, and for more than 16 MiB.
    """
    content, error = expand_prefix(stored, size, name=name)
    if error is not None:
        raise error
    return content


def expand_prefix(
    stored: bytes | bytearray | memoryview, size: int, *, name: str
) -> tuple[bytes, FormatError | None]:
    """As :func:`expand`; where that raises, what comes before the damage, and the error."""
    try:
        announced = zstandard.get_frame_parameters(bytes(stored[:_HEADER_BYTES])).content_size
        if size > MAX_FRAME_BYTES or MAX_FRAME_BYTES < announced < zstandard.CONTENTSIZE_UNKNOWN:
            return b"", _error(name, f"a frame is to expand to more than {MAX_FRAME_BYTES} bytes")
        with _decompressor().stream_reader(stored, read_across_frames=True) as reader:
            content: bytes = reader.read(size)
    except zstandard.ZstdError:
        return _salvaged(stored, size, name)
    if len(content) < size:
        return content, _error(name, f"{len(content)} bytes are in it where {size} belong")
    return content, None


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
