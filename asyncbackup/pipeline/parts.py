"""Into which parts a large file is cut.

S3 allows 10,000 parts of 5 MiB to 5 GiB; some endpoints (R2) want all but the
last of one size. A sealed file is read in multiples of the 16 KiB chunk of its
encryption, and its parts are cut at multiples of the 16,400 bytes that a chunk
becomes, so the sealed parts are of one size as well.
"""

from __future__ import annotations

import msgspec

from asyncbackup.errors import SourceError
from asyncbackup.format.envelope import CHUNK_SIZE, TAG_SIZE, sealed_size

MIB = 1024 * 1024
MAX_PARTS = 10_000
MIN_PART_BYTES = 5 * MIB
SEALED_CHUNK_BYTES = CHUNK_SIZE + TAG_SIZE


class PartPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``read_size`` bytes of the file are read at once; ``part_size`` is a part's stored size."""

    part_size: int
    read_size: int


def plan_like(part_size: int, size: int, *, limit_bytes: int) -> PartPlan | None:
    """The plan for a plain file of ``size`` bytes with the parts of an earlier object of it.

    ``None`` where those would be too many, too small for an endpoint, or too large for memory.
    """
    fits = MIN_PART_BYTES <= part_size <= limit_bytes and size <= MAX_PARTS * part_size
    return PartPlan(part_size=part_size, read_size=part_size) if fits else None


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
            f"its {size:,} bytes need parts of {plan.read_size // MIB} MiB, more than memory_limit "
            f"({limit_bytes // MIB} MiB); raise memory_limit",
        )
    return plan
