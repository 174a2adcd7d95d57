"""Zstd frames that can each be read by themselves (docs/format.md, "Compression").

What does not shrink is framed in raw blocks by hand, as RFC 8878 lays them
out: the pieces go out as they came, none is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TypeAlias

import zstandard

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""What a frame may expand to."""

LARGE_BYTES = 64 * 1024
"""A piece from this size on goes out as it came, where nothing is compressed; smaller ones are joined, since
a piece costs more than its copy."""

# From level 20 on, zstd's own windows are larger than readers have to allow.
_LARGE_WINDOW_LEVEL = 20
_MAX_WINDOW_LOG = 23
_BLOCK_BYTES = 128 * 1024
_RAW_HEAD = b"\x28\xb5\x2f\xfd" + bytes(
    (
        0x80,  # the content's size follows in four bytes; no checksum, no dictionary, several segments
        (17 - 10) << 3,  # a window of 128 KiB, the least that allows blocks of that size
    )
)

# A level that reads faster than the slowest disk decides about one that does not.
_SAMPLE_LEVEL = 1
_SAMPLES = 4
_SAMPLE_BYTES = 16 * 1024
_WORTH = 15 / 16
"""A sample has to shrink below this, or the frame is not compressed."""


class FrameCompressor:
    """Makes frames at one zstd level, 1 to 22. Not for two threads at a time."""

    def __init__(self, *, level: int) -> None:
        self._compressor = (
            zstandard.ZstdCompressor(level=level)
            if level < _LARGE_WINDOW_LEVEL
            else zstandard.ZstdCompressor(
                compression_params=zstandard.ZstdCompressionParameters.from_level(
                    level, window_log=_MAX_WINDOW_LOG
                )
            )
        )
        self._sampler = zstandard.ZstdCompressor(level=_SAMPLE_LEVEL)
        # The same memory for all frames: fresh memory costs more than filling it.
        self._memory = BytesIO()

    def frame(self, pieces: Sequence[Buffer]) -> list[Buffer]:
        """One frame of ``pieces``, compressed or, where that does not pay, of raw blocks.

        Raw blocks refer to pieces from ``LARGE_BYTES`` on, which must not change any more, and hold a
        copy of smaller ones.
        """
        size = sum(map(len, pieces))
        if any(len(piece) >= LARGE_BYTES for piece in pieces):
            pieces = joined(pieces)
            if self._shrinks(pieces, size):
                with self._gathered(pieces, size) as whole:
                    stored = self._compressor.compress(whole)
                if len(stored) < size:
                    return [stored]
            return raw_frame(pieces)
        with self._gathered(pieces, size) as whole:
            if self._shrinks([whole], size):
                stored = self._compressor.compress(whole)
                if len(stored) < size:
                    return [stored]
            return raw_frame([bytes(whole)])

    @contextmanager
    def _gathered(self, pieces: Sequence[Buffer], size: int) -> Iterator[memoryview]:
        """All ``pieces`` as one, until the end of the block."""
        if len(pieces) == 1:
            yield memoryview(pieces[0])
            return
        self._memory.seek(0)
        self._memory.writelines(pieces)
        with self._memory.getbuffer() as filled, filled[:size] as whole:
            yield whole

    def _shrinks(self, pieces: Sequence[Buffer], size: int) -> bool:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            return True
        sample = b"".join(_samples(pieces, size))
        return len(self._sampler.compress(sample)) < _WORTH * len(sample)


def joined(pieces: Sequence[Buffer]) -> list[Buffer]:
    """The same bytes in fewer pieces: small ones joined, those from ``LARGE_BYTES`` on as they are."""
    fewer: list[Buffer] = []
    small: list[Buffer] = []
    for piece in pieces:
        if len(piece) >= LARGE_BYTES:
            if small:
                fewer.append(b"".join(small))
                small = []
            fewer.append(piece)
        else:
            small.append(piece)
    if small:
        fewer.append(b"".join(small))
    return fewer


def raw_frame(pieces: Iterable[Buffer]) -> list[Buffer]:
    """One frame of ``pieces`` in raw blocks, which refer to them. They have at most 4 GiB."""
    views = [memoryview(piece) for piece in pieces]
    size = left = sum(map(len, views))
    if not size:
        return [_RAW_HEAD + bytes(4) + _block_head(0, last=True)]
    frame: list[Buffer] = [_RAW_HEAD + size.to_bytes(4, "little")]
    room = 0
    for view in views:
        start = 0
        while start < len(view):
            if not room:
                room = min(left, _BLOCK_BYTES)
                left -= room
                frame.append(_block_head(room, last=not left))
            part = view[start : start + room]
            frame.append(part)
            start += len(part)
            room -= len(part)
    return frame


def _block_head(size: int, *, last: bool) -> bytes:
    return (size << 3 | last).to_bytes(3, "little")


def _samples(pieces: Sequence[Buffer], size: int) -> Iterator[Buffer]:
    """Parts of what is in ``pieces``, from the middle of each quarter. (Fewer bytes where a piece ends.)"""
    # Not from the ends: headers stand there, which shrink where the content behind them does not.
    starts = iter([((2 * number + 1) * size // _SAMPLES - _SAMPLE_BYTES) // 2 for number in range(_SAMPLES)])
    start = next(starts)
    begin = 0
    for piece in pieces:
        end = begin + len(piece)
        while start < end:
            yield memoryview(piece)[start - begin : start - begin + _SAMPLE_BYTES]
            following = next(starts, None)
            if following is None:
                return
            start = following
        begin = end
