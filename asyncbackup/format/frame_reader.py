"""Zstd frames one by one, from whoever wrote them (docs/format.md, "Compression").

The frames' own structure (RFC 8878, section 3.1.1) is followed block by block.
So it is known where each one begins and ends, what one step can expand to is a
block of 128 KiB, and behind a damaged frame the next one is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec
import zstandard

from asyncbackup.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EXPANDED_BYTES = 16 * 1024 * 1024
"""What one frame may expand to."""
MAX_WINDOW_BYTES = 8 * 1024 * 1024
MAX_BLOCK_BYTES = 128 * 1024

_MAGIC = b"\x28\xb5\x2f\xfd"
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_RLE = 1
_RESERVED = 3


class FrameEnd(msgspec.Struct, frozen=True, gc=False):
    """Where a frame lay, in bytes from the beginning; ``damage`` says why it does not expand, if it does not.

    Of a damaged frame some pieces may have been given out before.
    """

    offset: int
    length: int
    damage: str = ""


Piece: TypeAlias = bytes | FrameEnd


class FrameReader:
    """Expands frames as their bytes arrive. In memory is one block and the window of at most 8 MiB."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0
        self._begin = 0
        self._decompressor: zstandard.ZstdDecompressionObj | None = None
        self._has_checksum = False
        self._last_block = False
        self._expanded = 0
        self._damage = ""

    @property
    def between_frames(self) -> bool:
        """Whether all that was fed are whole frames."""
        return not self._buffer and self._position == self._begin

    def pieces(self, data: bytes | bytearray | memoryview) -> Iterator[Piece]:
        """What ``data`` expands to, in pieces of at most some 128 KiB, and the end of each frame.

        Must be used up before the next call. Raises :class:`FormatError` where
        no frame is, or one whose end cannot be found; nothing can be read after it.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        while (size := self._size_of_step(start)) and len(buffer) - start >= size:
            step = bytes(buffer[start : start + size])
            start += size
            self._position += size
            yield from self._take(step)
        del buffer[:start]

    def _size_of_step(self, start: int) -> int:
        """How many bytes the next step takes; more than there are if that cannot be told yet."""
        buffer = self._buffer
        there = len(buffer) - start
        if self._position == self._begin:
            if there < 5:
                return 5 if there else 0
            if buffer[start : start + 4] != _MAGIC:
                raise FormatError(f"no zstd frame begins at byte {self._begin}")
            return _header_size(buffer[start + 4])
        if self._last_block:
            return 4
        if there < 3:
            return 3
        head = int.from_bytes(buffer[start : start + 3], "little")
        kind, size = head >> 1 & 3, head >> 3
        if kind == _RESERVED or size > MAX_BLOCK_BYTES:
            raise FormatError(f"the zstd frame at byte {self._begin} has an impossible block")
        return 3 + (1 if kind == _RLE else size)

    def _take(self, step: bytes) -> Iterator[Piece]:
        if self._position - len(step) == self._begin:
            self._has_checksum = bool(step[4] & 0x04)
            self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
            ended = False
        elif self._last_block:
            ended = True
        else:
            self._last_block = bool(step[0] & 1)
            ended = self._last_block and not self._has_checksum
        if not self._damage and (piece := self._expand(step)):
            yield piece
        if ended:
            yield self._end_frame()

    def _expand(self, step: bytes) -> bytes:
        assert self._decompressor is not None, "a frame begins with its header"
        try:
            piece = self._decompressor.decompress(step)
        except zstandard.ZstdError as error:
            self._damage = f"the zstd frame at byte {self._begin} is damaged ({error})"
            return b""
        self._expanded += len(piece)
        if self._expanded > MAX_EXPANDED_BYTES:
            self._damage = (
                f"the zstd frame at byte {self._begin} expands to more than {MAX_EXPANDED_BYTES} bytes"
            )
            return b""
        return piece

    def _end_frame(self) -> FrameEnd:
        assert self._decompressor is not None
        if not self._damage and not self._decompressor.eof:
            self._damage = f"the zstd frame at byte {self._begin} is damaged (it has no end)"
        end = FrameEnd(self._begin, self._position - self._begin, self._damage)
        self._begin = self._position
        self._decompressor = None
        self._last_block = False
        self._expanded = 0
        self._damage = ""
        return end


def _header_size(descriptor: int) -> int:
    """The size of a frame's header, magic included, from its fifth byte."""
    single_segment = descriptor >> 5 & 1
    content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
    return 5 + (1 - single_segment) + _DICTIONARY_ID_BYTES[descriptor & 3] + content_size
