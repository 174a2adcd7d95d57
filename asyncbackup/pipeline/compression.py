"""What compressing a content means, and whether it pays (docs/design.md, "Compression of large files")."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.format.frames import FrameCompressor
    from asyncbackup.store.base import Buffer

BLOCK_BYTES = 4 * 1024 * 1024
"""What becomes one frame: larger ones hardly compress better, and make reading a range dearer."""
SAMPLE_BYTES = 64 * 1024
_SAMPLE_LEVEL = 1
_WORTH_TENTHS = 9
"""Compressing pays if at most so many tenths are left."""


def pays(size: int, compressed_size: int) -> bool:
    """Whether it is worth it to keep a content compressed: it shrinks by a tenth at least."""
    return 10 * compressed_size <= _WORTH_TENTHS * size


def sample_pays(samples: Sequence[Buffer]) -> bool:
    """Whether compressing is worth trying for a content of which these are samples. Blocks."""
    compressor = zstandard.ZstdCompressor(level=_SAMPLE_LEVEL)
    return pays(sum(map(len, samples)), sum(len(compressor.compress(sample)) for sample in samples))


def compressed(content: Buffer, compressor: FrameCompressor) -> bytes | None:
    """A content as frames, ``None`` where that does not pay. Blocks."""
    view = memoryview(content)
    pieces: list[Buffer] = []
    for start in range(0, len(view), BLOCK_BYTES):
        pieces += compressor.frame([view[start : start + BLOCK_BYTES]])
    return b"".join(pieces) if pays(len(view), sum(map(len, pieces))) else None
