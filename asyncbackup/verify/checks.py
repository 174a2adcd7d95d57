"""Looking at one object without reading it: is it there, has it the size, the checksum?"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import StoreError
from asyncbackup.format.keys import data_prefix
from asyncbackup.store.checksums import single_checksum
from asyncbackup.verify.blocks import damage_of, size_damage

if TYPE_CHECKING:
    from asyncbackup.catalog.expected import ExpectedObject
    from asyncbackup.repository.open import Repository


class Compared(enum.Enum):
    """What the comparison of one object's checksum gave."""

    EQUAL = 1
    DIFFERS = 2
    NOTHING_KEPT = 3
    """The endpoint keeps no checksum of the object, or none that was checked."""
    NOTHING_KNOWN = 4
    """The manifest has none, and nothing it could be derived from."""


class Look(msgspec.Struct, frozen=True, gc=False):
    """What a HEAD of one object gave. ``damage`` as in ``Reading``; ``size`` is -1 for a missing one."""

    damage: str = ""
    size: int = -1
    compared: Compared = Compared.NOTHING_KNOWN


async def look_at(repository: Repository, expected: ExpectedObject) -> Look:
    """Compare size and checksum by one HEAD. Raises ``StoreError`` for what is no matter of the object."""
    try:
        info = await repository.store.head(data_prefix(repository.section) + expected.key)
    except StoreError as error:
        if damage := damage_of(error):
            return Look(damage)
        raise
    if expected.length >= 0 and info.size != expected.length:
        return Look(size_damage(info.size, expected.length), info.size)
    return Look("", info.size, _compare(info.checksum, expected))


async def echoes_checksums(repository: Repository, expected: ExpectedObject) -> bool:
    """Whether the endpoint only repeats the checksum that came with an object, instead of checking it.

    Such an endpoint sends it along with whatever it is asked for, also with a
    single byte of the object, of which it cannot be the checksum. Asked of an
    object of at least two bytes that went up in one piece and has a checksum;
    one GET of one byte.
    """
    key = data_prefix(repository.section) + expected.key
    try:
        async with repository.store.open(key, offset=0, length=1) as source:
            return bool(source.info.checksum)
    except StoreError:
        return False  # archived or gone since: another object may tell


def _compare(kept: str, expected: ExpectedObject) -> Compared:
    wanted = expected.checksum
    as_stored = not (expected.encrypted or expected.compression or expected.part_size or expected.skip)
    if not wanted and as_stored and expected.sha256:
        wanted = single_checksum(expected.sha256)
    if not wanted:
        return Compared.NOTHING_KNOWN
    if not kept:
        return Compared.NOTHING_KEPT
    return Compared.EQUAL if kept == wanted else Compared.DIFFERS
