"""Into which parts a large file is cut.

S3 allows 10,000 parts of 5 MiB to 5 GiB; some endpoints (R2) want all but the
last of one size. A sealed file is read in multiples of the 16 KiB chunk of its
encryption, and its parts are cut at multiples of the 16,400 bytes that a chunk
becomes, so the sealed parts are of one size as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import SourceError
from asyncbackup.format.envelope import CHUNK_SIZE, TAG_SIZE, sealed_size

if TYPE_CHECKING:
    from asyncbackup.pipeline.transfer_settings import TransferSettings

MIB = 1024 * 1024
MAX_PARTS = 10_000
MIN_PART_BYTES = 5 * MIB
SEALED_CHUNK_BYTES = CHUNK_SIZE + TAG_SIZE


class PartPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``read_size`` bytes of the file are read at once; ``part_size`` is a part's stored size."""

    part_size: int
    read_size: int


class LargestParts(msgspec.Struct, frozen=True, kw_only=True):
    """How large parts may be so that nobody waits for bytes that are never given back.

    Some bytes of the budget wait for further ones to be read: those of an open
    pack, and those of a part that is not full yet of the file that is being
    compressed. Beside them there has to be room for every read. ``readable``
    is what one read may ask for, ``compressible`` the size of the parts of a
    compressed file, 0 where the budget has no room for one.
    """

    readable: int
    compressible: int

    @classmethod
    def of(cls, settings: TransferSettings, limit_bytes: int) -> LargestParts:
        """Those of a transfer with a budget of ``limit_bytes``."""
        # A pack is full once it has its size. What is being made frames of, up to four batches of a
        # quarter each, or one file as large as a pack, may come on top.
        readable = limit_bytes - 2 * settings.pack_size_bytes if settings.packed else limit_bytes
        if settings.zstd_level:
            # Sealed parts are rounded up to whole chunks.
            part_size = max(settings.part_size_bytes, MIN_PART_BYTES) + SEALED_CHUNK_BYTES
            waiting = max(part_size, limit_bytes // 4)
            if readable - waiting >= min(settings.part_size_bytes, limit_bytes):
                return cls(readable=readable - waiting, compressible=waiting)
        return cls(readable=readable, compressible=0)


def plan_like(part_size: int, size: int, *, limit_bytes: int) -> PartPlan | None:
    """The plan for a plain file of ``size`` bytes with the parts of an earlier object of it.

    ``None`` where those would be too many, too small for an endpoint, or too large for memory.
    """
    fits = MIN_PART_BYTES <= part_size <= limit_bytes and size <= MAX_PARTS * part_size
    return PartPlan(part_size=part_size, read_size=part_size) if fits else None


def content_of_part(part_size: int, *, sealed: bool) -> int:
    """How many bytes, before sealing, a part of ``part_size`` stored bytes takes."""
    return part_size // SEALED_CHUNK_BYTES * CHUNK_SIZE if sealed else part_size


def plan_parts(size: int, *, sealed: bool, part_size_bytes: int, limit_bytes: int, path: bytes) -> PartPlan:
    """The plan for a file of ``size`` bytes.

    Raises ``SourceError`` for a file whose smallest possible parts exceed the
    byte budget ``limit_bytes``.
    """
    stored = sealed_size(size) if sealed else size
    wanted = max(part_size_bytes, -(-stored // MAX_PARTS))
    if sealed:
        # At least as many chunks as `wanted` needs, and not a part under S3's minimum.
        chunks = -(-max(wanted, MIN_PART_BYTES) // SEALED_CHUNK_BYTES)
        plan = PartPlan(part_size=chunks * SEALED_CHUNK_BYTES, read_size=chunks * CHUNK_SIZE)
    else:
        part_size = -(-wanted // MIB) * MIB if wanted > part_size_bytes else wanted
        plan = PartPlan(part_size=part_size, read_size=part_size)
    if plan.read_size > limit_bytes:
        raise SourceError(
            path,
            f"its {size:,} bytes need parts of {plan.read_size // MIB} MiB, more than the "
            f"{limit_bytes // MIB} MiB that memory_limit leaves for one; raise memory_limit",
        )
    return plan
