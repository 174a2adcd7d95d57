"""Reading one object to its end and comparing it with what the manifest says of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import AuthenticationError, ObjectMissingError, StoreError
from asyncbackup.format.envelope import Opener
from asyncbackup.format.keys import data_prefix
from asyncbackup.store.checksums import composite_checksum, single_checksum

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncbackup.catalog.expected import ExpectedObject
    from asyncbackup.repository.open import Repository
    from asyncbackup.store.base import ObjectReader
    from asyncbackup.verify.summary import VerifyCounters

BLOCK_BYTES = 512 * 1024
"""Hashed in one hop to a thread: the hop (50 to 100 µs) then counts for a tenth at most."""
READER_BYTES = 4 * 1024 * 1024
"""What one reader holds at most: a block, the store's own chunk, and what both open to."""

_INLINE_BYTES = 16 * 1024
_MISSING = "it is missing"

# What the store says of one object alone, not of itself or of the way to it.
_OBJECT_CODES = frozenset({"EIO", "ELOOP", "EISDIR", "ENOTDIR", "ShortBody", "InvalidRange", "TooLarge"})
_ARCHIVED_CODES = frozenset({"InvalidObjectState"})


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What reading one object gave: ``damage`` says what is wrong, ``""`` if nothing is.

    ``archived`` objects could not be read. ``opened`` is false where only the
    stored bytes were compared, for want of a key, and ``compared`` where the
    manifests name nothing to compare with but the size.
    """

    damage: str = ""
    archived: bool = False
    opened: bool = True
    compared: bool = True


def damage_of(error: StoreError) -> str:
    """What ``error`` says is wrong with the object itself; ``""`` if it says nothing of it."""
    if isinstance(error, ObjectMissingError):
        return _MISSING
    return error.reason if error.code in _OBJECT_CODES else ""


async def read_object(repository: Repository, expected: ExpectedObject, counters: VerifyCounters) -> Reading:
    """Read all of an object and compare digest, stored checksum and (by opening it) authenticity.

    Raises ``StoreError`` for what is no matter of this object alone.
    """
    key = data_prefix(repository.section) + expected.key
    check = _Check(repository, key, expected)
    try:
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(repository.store.open(key))
            if source.info.size != expected.length:
                return Reading(size_damage(source.info.size, expected.length))
            async for block in _blocks(source):
                if len(block) < _INLINE_BYTES:
                    check.feed(block)
                else:
                    await repository.threads.run(check.feed, block)
                counters.bytes_read += len(block)
    except AuthenticationError:
        return Reading("it is not authentic: changed, cut off, or from another place")
    except StoreError as error:
        if error.code in _ARCHIVED_CODES:
            return Reading(archived=True)
        if damage := damage_of(error):
            return Reading(damage)
        raise
    counters.objects_read += 1
    return check.finish()


def size_damage(found: int, wanted: int) -> str:
    return f"it has {found} bytes where {wanted} belong"


async def _blocks(source: ObjectReader) -> AsyncIterator[bytes]:
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


class _Check:
    """The digests of one object while it is read. ``feed`` may run in a thread, one call at a time."""

    def __init__(self, repository: Repository, key: str, expected: ExpectedObject) -> None:
        self._expected = expected
        self._stored = sha256()
        self._parts: list[bytes] = []
        self._part_left = expected.part_size
        self._content = sha256()
        self._opener = None
        if expected.encrypted and repository.key is not None:
            self._opener = Opener(
                repository.key,
                repository=repository.repository_id,
                section=repository.section,
                object_key=key,
            )

    def feed(self, block: bytes) -> None:
        if self._opener is not None:
            self._content.update(self._opener.feed(block))
        if not self._expected.part_size:
            self._stored.update(block)
            return
        view = memoryview(block)
        # A part that another follows ends here; the last one ends with the object.
        while len(view) > self._part_left:
            self._stored.update(view[: self._part_left])
            view = view[self._part_left :]
            self._end_part()
        self._stored.update(view)
        self._part_left -= len(view)
        if not self._expected.encrypted:
            self._content.update(block)

    def finish(self) -> Reading:
        expected = self._expected
        opened = not expected.encrypted or self._opener is not None
        content = self._content
        if self._opener is not None:
            try:
                content.update(self._opener.finish())
            except AuthenticationError:
                return Reading("it is not authentic: changed, cut off, or from another place")
        elif not expected.encrypted and not expected.part_size:
            content = self._stored
        if expected.sha256 and opened and content.digest() != expected.sha256:
            return Reading("its content is not what was saved (SHA-256 differs)")
        # Where the content is right or authentic, another stored checksum is no damage.
        right = self._opener is not None or bool(expected.sha256 and opened)
        if not right and expected.checksum not in ("", self._checksum()):
            return Reading("its bytes are not what was stored (checksum differs)")
        return Reading(opened=opened, compared=right or bool(expected.checksum))

    def _end_part(self) -> None:
        self._parts.append(self._stored.digest())
        self._stored = sha256()
        self._part_left = self._expected.part_size

    def _checksum(self) -> str:
        """What S3 calculates of these bytes, in the form in which the manifest has it."""
        if "-" not in self._expected.checksum:
            return single_checksum(self._stored.digest())
        if not self._expected.part_size:
            return self._expected.checksum  # how it was parted is not known any more
        return composite_checksum([*self._parts, self._stored.digest()])
