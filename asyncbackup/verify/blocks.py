"""Reading one object in blocks that are worth a hop to a thread, and what the store says of the object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.errors import ObjectMissingError, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncbackup.store.base import ObjectReader

BLOCK_BYTES = 512 * 1024
"""Hashed in one hop to a thread: the hop (50 to 100 µs) then counts for a tenth at most."""
INLINE_BYTES = 16 * 1024
"""Less is not worth the hop."""

NOT_AUTHENTIC = "it is not authentic: changed, cut off, or from another place"

# What the store says of one object alone, not of itself or of the way to it.
_OBJECT_CODES = frozenset({"EIO", "ELOOP", "EISDIR", "ENOTDIR", "ShortBody", "InvalidRange", "TooLarge"})
_ARCHIVED_CODES = frozenset({"InvalidObjectState"})


def damage_of(error: StoreError) -> str:
    """What ``error`` says is wrong with the object itself; ``""`` if it says nothing of it."""
    if isinstance(error, ObjectMissingError):
        return "it is missing"
    return error.reason if error.code in _OBJECT_CODES else ""


def is_archived(error: StoreError) -> bool:
    """Whether the object is there, but has to be brought back from an archive first."""
    return error.code in _ARCHIVED_CODES


def size_damage(found: int, wanted: int) -> str:
    """What is wrong with an object of another size."""
    return f"it has {found} bytes where {wanted} belong"


async def blocks_of(source: ObjectReader) -> AsyncIterator[bytes]:
    """The bytes of an open object in blocks of about ``BLOCK_BYTES``."""
    held: list[bytes] = []
    size = 0
    async for chunk in source:
        held.append(chunk)
        size += len(chunk)
        if size >= BLOCK_BYTES:
            yield held[0] if len(held) == 1 else b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
