"""How well a tree compresses, found out by compressing a few of its files."""

from __future__ import annotations

import hashlib
import heapq
import math
import os
import stat
from typing import TYPE_CHECKING

import msgspec
import zstandard

from asyncbackup.format.frames import FrameCompressor
from asyncbackup.pipeline.compression import pays

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SAMPLED_FILES = 128
"""Of small and of large files each: with 128 the ratio is right to a few hundredths."""
PIECE_BYTES = 64 * 1024
_FRAME_BYTES = 512 * 1024
"""What a pack puts into one frame."""
_LARGE_FILE_LEVEL = 3


class Ratios(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of 1 byte: of small files in packs, and of those small and large files that are
    compressed as objects of their own, which a ``…_share`` of the bytes are. So many files of each kind
    were read for it; none where the ratio was given."""

    packed: float = 1.0
    small: float = 1.0
    small_share: float = 1.0
    large: float = 1.0
    large_share: float = 1.0
    large_by_size: dict[int, tuple[float, float]] = {}
    """Ratio and share of large files by ``size.bit_length()``: few large files make up most trees, and
    those of one size are often of one kind."""
    small_files: int = 0
    large_files: int = 0


class Sampler:
    """Chooses files so that each *byte* of the tree has about the same chance: large ones more often.

    Keeps at most twice ``limit`` paths. The same tree gives the same choice.
    """

    def __init__(self, *, limit: int = SAMPLED_FILES) -> None:
        self._limit = limit
        self._chosen: dict[bool, list[tuple[float, bytes, int]]] = {True: [], False: []}

    def offer(self, path: bytes, size: int, *, small: bool) -> None:
        """Consider a file (weighted reservoir sampling: the largest ``log(random) / size`` stay)."""
        if not size:
            return
        # By the path, not by chance: folders come in another order each time.
        digest = hashlib.blake2b(path, digest_size=7).digest()
        rank = math.log((int.from_bytes(digest, "big") + 1) / 2**56) / size
        chosen = self._chosen[small]
        if len(chosen) < self._limit:
            heapq.heappush(chosen, (rank, path, size))
        elif rank > chosen[0][0]:
            heapq.heapreplace(chosen, (rank, path, size))

    def chosen(self, *, small: bool) -> list[tuple[bytes, int]]:
        """Path and size of what was chosen, by path."""
        return sorted((path, size) for _, path, size in self._chosen[small])


def measure(root: Path, sampler: Sampler, *, zstd_level: int) -> Ratios:
    """The ratios of the chosen files at one level (at 0: of the default level, for comparison). Blocks.

    Reads at most 64 KiB of each; what cannot be read is left out.
    """
    level = zstd_level or _LARGE_FILE_LEVEL
    small = _pieces(root, sampler.chosen(small=True))
    large = _pieces(root, sampler.chosen(small=False))
    small_ratio, small_share = _object_ratio(small, level)
    large_ratio, large_share = _object_ratio(large, level)
    sizes = sorted({size.bit_length() for size, _ in large})
    return Ratios(
        packed=_packed_ratio(small, level),
        small=small_ratio,
        small_share=small_share,
        large=large_ratio,
        large_share=large_share,
        large_by_size={
            bits: _object_ratio([each for each in large if each[0].bit_length() == bits], level)
            for bits in sizes
        },
        small_files=len(small),
        large_files=len(large),
    )


def _pieces(root: Path, files: Sequence[tuple[bytes, int]]) -> list[tuple[int, bytes]]:
    """The size and a piece of each file."""
    pieces: list[tuple[int, bytes]] = []
    for path, size in files:
        try:
            descriptor = os.open(
                os.path.join(os.fsencode(root), path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError:
            continue  # The run will name it.
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                # From the middle: the beginning of a large file often is a header.
                offset = max(0, (size - PIECE_BYTES) // 2)
                if piece := os.pread(descriptor, PIECE_BYTES, offset):
                    pieces.append((size, piece))
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return pieces


def _packed_ratio(pieces: Sequence[tuple[int, bytes]], level: int) -> float:
    """As a pack stores them: many in one frame."""
    compressor = FrameCompressor(level=level)
    total = stored = 0
    frame: list[bytes] = []
    for number, (_, piece) in enumerate(pieces):
        frame.append(piece)
        if sum(map(len, frame)) >= _FRAME_BYTES or number == len(pieces) - 1:
            total += sum(map(len, frame))
            stored += sum(len(part) for part in compressor.frame(frame))
            frame = []
    return stored / total if total else 1.0


def _object_ratio(pieces: Sequence[tuple[int, bytes]], level: int) -> tuple[float, float]:
    """As objects of their own: those that shrink by a tenth are compressed. Gives what is left of a byte
    of these, and their share. Each piece stands for as many bytes of the tree as every other."""
    compressor = zstandard.ZstdCompressor(level=level)
    ratios = [
        size / len(piece) for _, piece in pieces if pays(len(piece), size := len(compressor.compress(piece)))
    ]
    return (sum(ratios) / len(ratios), len(ratios) / len(pieces)) if ratios else (1.0, 1.0)
