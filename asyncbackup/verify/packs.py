"""Reading one pack, once, and comparing every content in it that a snapshot needs."""

from __future__ import annotations

from collections import deque
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import TYPE_CHECKING

from asyncbackup.errors import FormatError, StoreError
from asyncbackup.format.expand import Expander
from asyncbackup.format.keys import data_prefix
from asyncbackup.store.checksums import single_checksum
from asyncbackup.verify.blocks import NOT_AUTHENTIC, blocks_of, size_damage
from asyncbackup.verify.content import Reading, reading_of
from asyncbackup.verify.pack_bytes import PackBytes
from asyncbackup.verify.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncbackup.catalog.expected import ExpectedObject, ExpectedObjects, Member
    from asyncbackup.repository.open import Repository
    from asyncbackup.verify.summary import VerifyCounters

PAGE_MEMBERS = 1024
MAX_MEMBERS = 65_536
"""Contents that are looked for in one stretch at most. In 16 MiB, which is what a frame may expand to,
there is room for half as many members of a tar."""
MAX_RANGES = 4
"""Ranges of one pack that are read side by side at most; those of a sound one never overlap."""

_OTHER_BYTES = "its bytes are not what was stored (checksum differs)"
_OTHER_CONTENT = "some of its contents are not what was saved (SHA-256 differs)"
_DISPUTED = "manifests disagree about its size or checksum"
_CONTRADICTED = "manifests place contents beyond its end, or say that they are stored in another way"


async def read_pack(
    repository: Repository,
    expected: ExpectedObject,
    objects: ExpectedObjects,
    counters: VerifyCounters,
) -> Reading:
    """Read all of a pack and compare each content that is needed of it; bad ones are noted in ``objects``.

    A pack that is too short or too long is read all the same, to tell what of
    it is left. Raises ``StoreError`` for what is no matter of this pack alone.
    """
    key = data_prefix(repository.section) + expected.key
    if expected.encrypted and repository.key is None:
        return await _read_stored(repository, key, expected, counters)
    plan = _Plan(expected.key, objects)
    reason = _DISPUTED if expected.disputed else ""
    try:
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(repository.store.open(key))
            if expected.length >= 0 and source.info.size != expected.length:
                reason = size_damage(source.info.size, expected.length)
            opener = PackBytes(repository, key, stored_size=source.info.size) if expected.encrypted else None
            check = _Check(opener, key)
            async for block in blocks_of(source):
                # What is opened never reaches further than what is stored.
                check.expect(await plan.upto(check.stored_bytes + len(block)))
                await repository.threads.run(check.feed, block)
                await plan.note_bad(check.take_bad())
                counters.bytes_read += len(block)
        await repository.threads.run(check.finish)
    except FormatError:
        return Reading(reason or NOT_AUTHENTIC)
    except StoreError as error:
        if (refused := reading_of(error)) is not None:
            return refused
        raise
    counters.objects_read += 1
    await plan.note_bad(check.take_bad())
    # What was never reached lies beyond the end.
    while members := await plan.rest():
        await plan.note_bad(members)
    if not reason and expected.checksum not in ("", check.checksum) and "-" not in expected.checksum:
        reason = _OTHER_BYTES
    if check.holes:
        reason = reason or NOT_AUTHENTIC
    elif not reason and plan.any_bad:
        reason = _OTHER_CONTENT
    if not reason and await objects.has_bad(expected.key):
        reason = _CONTRADICTED
    return Reading(reason, whole=False)


async def _read_stored(
    repository: Repository, key: str, expected: ExpectedObject, counters: VerifyCounters
) -> Reading:
    """Compare a sealed pack as it is stored, for want of a key."""
    digest = sha256()
    try:
        async with repository.store.open(key) as source:
            if expected.length >= 0 and source.info.size != expected.length:
                return Reading(size_damage(source.info.size, expected.length))
            async for block in blocks_of(source):
                await repository.threads.run(digest.update, block)
                counters.bytes_read += len(block)
    except StoreError as error:
        if (refused := reading_of(error)) is not None:
            return refused
        raise
    counters.objects_read += 1
    if expected.disputed:
        return Reading(_DISPUTED)
    known = expected.checksum != "" and "-" not in expected.checksum
    if known and single_checksum(digest.digest()) != expected.checksum:
        return Reading(_OTHER_BYTES)
    return Reading(opened=False, compared=known)


class _Plan:
    """The contents that are needed of one pack, loaded as far as the reading has come."""

    def __init__(self, key: str, objects: ExpectedObjects) -> None:
        self.any_bad = False
        self._key = key
        self._objects = objects
        self._loaded: deque[Member] = deque()
        self._last: Member | None = None
        self._all = False

    async def upto(self, end: int) -> list[list[Member]]:
        """Those that begin before ``end`` and were not given yet, the contents of one range together."""
        too_many: list[Member] = []
        while not self._all and (self._last is None or self._last.offset < end):
            page = await self._objects.members(self._key, after=self._last, limit=PAGE_MEMBERS)
            self._all = len(page) < PAGE_MEMBERS
            self._last = page[-1] if page else self._last
            room = max(0, MAX_MEMBERS - len(self._loaded))
            self._loaded.extend(page[:room])
            too_many = page[room:]
            if too_many:
                await self.note_bad(too_many)
        ranges: list[list[Member]] = []
        while self._loaded and self._loaded[0].offset < end:
            member = self._loaded.popleft()
            if ranges and _range_of(ranges[-1][0]) == _range_of(member):
                ranges[-1].append(member)
            else:
                ranges.append([member])
        return ranges

    async def rest(self) -> Sequence[Member]:
        """Some of those that were never given; none when all were."""
        if not self._loaded and not self._all:
            page = await self._objects.members(self._key, after=self._last, limit=PAGE_MEMBERS)
            self._all = len(page) < PAGE_MEMBERS
            self._last = page[-1] if page else self._last
            self._loaded.extend(page)
        rest, self._loaded = self._loaded, deque()
        return list(rest)

    async def note_bad(self, members: Iterable[Member]) -> None:
        bad = list(members)
        if bad:
            self.any_bad = True
            await self._objects.note_bad(self._key, bad)


def _range_of(member: Member) -> tuple[int, int, str]:
    return member.offset, member.length, member.compression


class _Check:
    """The digests of one pack and of its contents while it is read. Used in threads, one call at a time."""

    def __init__(self, opener: PackBytes | None, name: str) -> None:
        self.stored_bytes = 0
        self._opener = opener
        self._name = name
        self._stored = sha256()
        self._place = 0
        self._waiting: deque[list[Member]] = deque()
        self._active: list[_Range] = []
        self._bad: list[Member] = []

    @property
    def checksum(self) -> str:
        """S3's checksum of what was read."""
        return single_checksum(self._stored.digest())

    @property
    def holes(self) -> int:
        """How many chunks could not be opened."""
        return 0 if self._opener is None else self._opener.holes

    def expect(self, ranges: Iterable[list[Member]]) -> None:
        """Look for these as well; they begin where reading has not come yet."""
        self._waiting.extend(ranges)

    def take_bad(self) -> list[Member]:
        """What was found to be bad since the last call."""
        bad, self._bad = self._bad, []
        return bad

    def feed(self, block: bytes) -> None:
        """Take the next stored bytes. Raises ``FormatError`` for no sealed object of this key."""
        self._stored.update(block)
        self.stored_bytes += len(block)
        if self._opener is None:
            self._take(block)
            return
        for piece in self._opener.feed(block):
            self._take(piece)

    def finish(self) -> None:
        """All bytes were fed: what is unfinished ends early."""
        if self._opener is not None:
            for piece in self._opener.finish():
                self._take(piece)
        for each in self._active:
            self._bad += each.slices.finish()
        for members in self._waiting:
            self._bad += members
        self._active.clear()
        self._waiting.clear()

    def _take(self, piece: bytes | int) -> None:
        start = self._place
        end = start + (piece if isinstance(piece, int) else len(piece))
        while self._waiting and self._waiting[0][0].offset < end:
            # One after another, so that those that end here make room.
            members = self._waiting.popleft()
            if len(self._active) >= MAX_RANGES:
                self._advance(piece, start, members[0].offset)
            if len(self._active) < MAX_RANGES:
                self._active.append(_Range(members, self._name))
            else:
                self._bad += members
        self._advance(piece, start, end)
        self._place = end

    def _advance(self, piece: bytes | int, start: int, end: int) -> None:
        """Give the open ranges what they lack of ``piece``, which begins at ``start``, up to ``end``."""
        unfinished: list[_Range] = []
        for each in self._active:
            upto = min(end, each.end)
            if upto > each.place:
                if isinstance(piece, int):
                    each.spoil()
                else:
                    each.feed(memoryview(piece)[each.place - start : upto - start])
                each.place = upto
            if each.place < each.end and not each.slices.is_done():
                unfinished.append(each)
            else:
                self._bad += each.slices.finish()
        self._active = unfinished


class _Range:
    """One range of a pack: a member's content as it is, or a frame that holds some."""

    __slots__ = ("_expander", "end", "place", "slices")

    def __init__(self, members: list[Member], name: str) -> None:
        first = members[0]
        self.place = first.offset
        self.end = first.offset + first.length
        self.slices = Slices(members)
        self._expander = Expander(name=name) if first.compression else None

    def feed(self, stored: memoryview) -> None:
        if self._expander is None:
            self.slices.feed(stored)
            return
        try:
            for piece in self._expander.feed(stored):
                self.slices.feed(piece)
                if self.slices.is_done():
                    return
        except FormatError:
            self.spoil()

    def spoil(self) -> None:
        """A part of the range is lost: so is what was not yet complete."""
        self.end = self.place
