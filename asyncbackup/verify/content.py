"""Reading one object of its own to its end and comparing it with what the manifest says of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.expected import Member
from asyncbackup.errors import AuthenticationError, FormatError, StoreError
from asyncbackup.format.envelope import Opener
from asyncbackup.format.expand import Expander
from asyncbackup.format.keys import data_prefix
from asyncbackup.store.checksums import composite_checksum, single_checksum
from asyncbackup.verify.blocks import (
    INLINE_BYTES,
    NOT_AUTHENTIC,
    blocks_of,
    damage_of,
    is_archived,
    size_damage,
)
from asyncbackup.verify.slices import Slices

if TYPE_CHECKING:
    from asyncbackup.catalog.expected import ExpectedObject
    from asyncbackup.repository.open import Repository
    from asyncbackup.verify.summary import VerifyCounters

READER_BYTES = 8 * 1024 * 1024
"""What one reader holds at most, as a rule: a block, the store's own chunk, what both open to, and the
window of what is compressed."""

_OTHER_CONTENT = "its content is not what was saved (SHA-256 differs)"


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What reading one object gave: ``damage`` says what is wrong, ``""`` if nothing is.

    Unless ``whole``, that concerns those contents of a pack alone which were
    noted as bad. ``archived`` objects could not be read. ``opened`` is false
    where only the stored bytes were compared, for want of a key, and
    ``compared`` where the manifests name nothing to compare with but the size.
    """

    damage: str = ""
    whole: bool = True
    archived: bool = False
    opened: bool = True
    compared: bool = True


def reading_of(error: StoreError) -> Reading | None:
    """What ``error`` says of the object that was being read; ``None`` if it says nothing of it alone."""
    if is_archived(error):
        return Reading(archived=True)
    if damage := damage_of(error):
        return Reading(damage)
    return None


async def read_object(repository: Repository, expected: ExpectedObject, counters: VerifyCounters) -> Reading:
    """Read all of an object and compare digest, stored checksum and (by opening it) authenticity.

    Raises ``StoreError`` for what is no matter of this object alone.
    """
    key = data_prefix(repository.section) + expected.key
    check = _Check(repository, key, expected)
    try:
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(repository.store.open(key))
            if expected.length >= 0 and source.info.size != expected.length:
                return Reading(size_damage(source.info.size, expected.length))
            async for block in blocks_of(source):
                if len(block) < INLINE_BYTES:
                    check.feed(block)
                else:
                    await repository.threads.run(check.feed, block)
                counters.bytes_read += len(block)
        reading = check.finish()
    except AuthenticationError:
        return Reading(NOT_AUTHENTIC)
    except FormatError as error:
        return Reading(str(error).removeprefix(f"{key!r} "))
    except StoreError as error:
        if (refused := reading_of(error)) is not None:
            return refused
        raise
    counters.objects_read += 1
    return reading


class _Check:
    """The digests of one object while it is read. ``feed`` may run in a thread, one call at a time.

    ``feed`` and ``finish`` raise :class:`FormatError` for what cannot be opened or expanded.
    """

    def __init__(self, repository: Repository, key: str, expected: ExpectedObject) -> None:
        self._expected = expected
        self._stored = sha256()
        self._parts: list[bytes] = []
        self._part_left = expected.part_size
        self._opener = None
        if expected.encrypted and repository.key is not None:
            self._opener = Opener(
                repository.key,
                repository=repository.repository_id,
                section=repository.section,
                object_key=key,
            )
        self._opened = not expected.encrypted or self._opener is not None
        self._expander = Expander(name=key) if expected.compression and self._opened else None
        # Where the stored bytes are the content, hashing them once tells both.
        self._as_stored = self._opened and not (
            self._opener or self._expander or expected.part_size or expected.skip
        )
        self._content = Slices(
            [Member(0, 0, "", expected.skip, expected.size, expected.sha256)]
            if self._opened and expected.sha256 and expected.size and not self._as_stored
            else []
        )

    def feed(self, block: bytes) -> None:
        if self._opener is not None:
            self._take(self._opener.feed(block))
        elif self._opened and not self._as_stored:
            self._take(block)
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

    def finish(self) -> Reading:
        expected = self._expected
        if self._opener is not None:
            self._take(self._opener.finish())
        if self._content.finish():
            return Reading(_OTHER_CONTENT)
        if expected.sha256 and self._as_stored and self._stored.digest() != expected.sha256:
            return Reading(_OTHER_CONTENT)
        # Where the content is right or authentic, another stored checksum is no damage. Of frames in
        # the clear it is: other tools read them to their end.
        right = self._opener is not None or bool(
            expected.sha256 and self._opened and not expected.compression
        )
        if not right and expected.checksum not in ("", self._checksum()):
            return Reading("its bytes are not what was stored (checksum differs)")
        return Reading(opened=self._opened, compared=right or bool(expected.checksum))

    def _take(self, opened: bytes) -> None:
        """Take what was opened. Past the content nothing is expanded."""
        if self._expander is None:
            self._content.feed(opened)
            return
        if self._content.is_done():
            return
        for piece in self._expander.feed(opened):
            self._content.feed(piece)
            if self._content.is_done():
                return

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
