"""Small objects that expand to what no machine has room for."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import zstandard

GIB = 1024 * 1024 * 1024
_BLOCK_BYTES = 128 * 1024


def zeros(size: int, *, byte: bytes = b"\0") -> bytes:
    """A zstd frame with a checksum flag that expands to ``size`` bytes at least, 4 bytes a 128 KiB."""
    # Magic; a descriptor without content size that promises a checksum; a window of 8 MiB.
    head = b"\x28\xb5\x2f\xfd" + b"\x04" + bytes([13 << 3])
    block = struct.pack("<I", _BLOCK_BYTES << 3 | 1 << 1)[:3] + byte
    last = struct.pack("<I", _BLOCK_BYTES << 3 | 1 << 1 | 1)[:3] + byte
    return head + block * (size // _BLOCK_BYTES) + last + bytes(4)


def compressed(pieces: Iterator[bytes]) -> bytes:
    """One frame of all the pieces."""
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True).compressobj()
    return b"".join(compressor.compress(piece) for piece in pieces) + compressor.flush()


def deep(levels: int) -> bytes:
    """JSON arrays within each other."""
    return b"[" * levels + b"]" * levels
