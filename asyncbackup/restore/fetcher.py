"""Downloading: whole objects, ranges of them, stretches of packs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import FormatError, ObjectMissingError, ObjectRefusedError, StoreError
from asyncbackup.flow.buffers import SpareBuffers
from asyncbackup.flow.groups import single_error
from asyncbackup.format.envelope import Opener
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener, RangeStream
from asyncbackup.restore.content import Content, Opening
from asyncbackup.restore.heads import PackHeads
from asyncbackup.restore.outcome import ContentError
from asyncbackup.store.base import OTHER_SIZE

if TYPE_CHECKING:
    from asyncbackup.repository.open import Repository
    from asyncbackup.restore.summary import RestoreCounters
    from asyncbackup.store.base import ObjectReader

ATTEMPTS = 2
"""Downloads of what comes differently from what was saved: a bit may have flipped on the way."""

KEPT_BUFFERS = 32
"""As many pieces of large files stay allocated at most, to be used again."""

_BEYOND_END = frozenset({"InvalidRange"})
_CONFINED_CODES = _BEYOND_END | {"WrongRange", "InvalidObjectState", "EACCES", "EPERM", "EIO", "ELOOP"}
"""Errors of the store that are about one object, beside those with a class of their own."""


class BeyondEndError(ContentError):
    """The object ends before what was asked for."""


class Source(msgspec.Struct, frozen=True):
    """The stored bytes that a content is made of, all of the object if ``whole``, and what opens them.

    For one download: what opens them takes them once, in order.
    """

    key: str
    offset: int
    length: int
    whole: bool
    opening: Opening | None = None


class Fetcher:
    """Downloads contents of one section and counts what it receives.

    Everything raises ``ContentError`` for what is confined to one object and
    ``StoreError`` for everything else.
    """

    def __init__(self, repository: Repository, counters: RestoreCounters) -> None:
        self._repository = repository
        self._counters = counters
        self._heads = PackHeads(self._open_pack)
        self._spare = SpareBuffers(keep=KEPT_BUFFERS)

    @property
    def can_open(self) -> bool:
        """Whether the repository's key is there."""
        return self._repository.key is not None

    async def source(self, content: Content) -> Source:
        """What has to be downloaded of a content."""
        if content.in_pack:
            if not content.encrypted:
                return Source(content.key, content.offset, content.length, whole=False)
            opener = await self.pack(content.key)
            offset, length = stored_range(opener, content.offset, content.length)
            stream = RangeStream(opener, content.offset, content.length)
            return Source(content.key, offset, length, whole=False, opening=stream)
        if content.encrypted:
            return Source(content.key, 0, content.length, whole=True, opening=self._opener(content.key))
        return Source(content.key, content.offset, content.length, whole=not content.offset)

    async def pack(self, key: str) -> RangeOpener:
        """What opens a sealed pack. Its first bytes are downloaded once, whoever asks."""
        return await self._heads.get(key)

    async def pack_size(self, key: str) -> int:
        """The size of an object as it is stored."""
        with _confined(key):
            return (await self._repository.store.head(key)).size

    async def all_of(self, source: Source) -> Sequence[bytes]:
        """All stored bytes of a source, in the pieces in which they came."""
        if source.whole:
            return await self._whole(source.key, source.length)
        return await self.stretch(source.key, source.offset, source.length)

    async def stretch(self, key: str, offset: int, length: int) -> list[bytes]:
        """``length`` stored bytes of an object from ``offset``, in pieces. Raises ``BeyondEndError`` too."""
        taken: list[bytes] = []
        received = 0
        with _confined(key):
            async with self._repository.store.open(key, offset=offset, length=length) as reader:
                async for chunk in reader:
                    received += len(chunk)
                    self._counters.bytes_downloaded += len(chunk)
                    if received > length:
                        raise _too_long(key, length)
                    taken.append(chunk)
        if received != length:
            raise _too_short(key, received, length)
        return taken

    async def _whole(self, key: str, size: int) -> Sequence[bytes]:
        try:
            pieces = await self._repository.store.fetch(key, size=size)
        except StoreError as error:
            if error.code == OTHER_SIZE:
                raise ContentError(f"its object {key!r} {error.reason}") from error
            if (confined := _confined_error(key, error)) is not None:
                raise confined from error
            raise
        self._counters.bytes_downloaded += size
        return pieces

    async def pour(
        self,
        source: Source,
        take: Callable[[memoryview], Awaitable[None]],
        *,
        window_bytes: int,
        offset: int = 0,
        length: int | None = None,
    ) -> None:
        """Give the stored bytes of a source (or ``length`` of them from ``offset``) to ``take``.

        They come in order, in pieces of half of ``window_bytes``, one of which is received while
        ``take`` works on the one before. A piece is ``take``'s until it returns. Never more than
        were asked for are kept.
        """
        key = source.key
        wanted = source.length - offset if length is None else length
        whole = source.whole and wanted == source.length
        store = self._repository.store
        with _confined(key), single_error():
            # A whole object is read without a range: that shows how long it is.
            async with (
                store.open(key) if whole else store.open(key, offset=source.offset + offset, length=wanted)
            ) as reader:
                if whole and reader.info.size not in (-1, source.length):
                    raise ContentError(
                        f"its object {key!r} holds {reader.info.size} bytes, not {source.length}"
                    )
                async with asyncio.TaskGroup() as group:
                    await self._pour_all(reader, key, wanted, max(1, window_bytes // 2), take, group)

    async def _pour_all(
        self,
        reader: ObjectReader,
        key: str,
        wanted: int,
        piece_bytes: int,
        take: Callable[[memoryview], Awaitable[None]],
        group: asyncio.TaskGroup,
    ) -> None:
        async def taking(piece: memoryview) -> None:
            await take(piece)

        left = wanted
        under_way: asyncio.Task[None] | None = None
        while left:
            piece = self._spare.take(min(piece_bytes, left))
            count = await reader.fill(piece)
            self._counters.bytes_downloaded += count
            left -= count
            if under_way is not None:
                await under_way
            if count < len(piece):
                raise _too_short(key, wanted - left, wanted)
            # Its memory is used again once nothing views it: neither this nor the task when it is done.
            under_way = group.create_task(taking(piece))
        if await reader.fill(memoryview(bytearray(1))):
            raise _too_long(key, wanted)

    def _opener(self, key: str) -> Opener:
        repository = self._repository
        assert repository.key is not None, "content_of has seen to it"
        return Opener(
            repository.key,
            repository=repository.repository_id,
            section=repository.section,
            object_key=key,
        )

    async def _open_pack(self, key: str) -> RangeOpener:
        for attempt in range(1, ATTEMPTS + 1):
            head, size = await self._head(key)
            try:
                return self._range_opener(key, head, size)
            except FormatError as error:
                if attempt == ATTEMPTS:
                    raise ContentError(str(error)) from error
        raise AssertionError("unreachable")

    async def _head(self, key: str) -> tuple[bytes, int]:
        """The first bytes of a sealed object, and its stored size."""
        store = self._repository.store
        with _confined(key):
            async with store.open(key, offset=0, length=HEAD_SIZE) as reader:
                head = b"".join([chunk async for chunk in reader])
                size = reader.info.size
            self._counters.bytes_downloaded += len(head)
            if size < 0:  # an endpoint that does not say it in its answer to a range
                size = (await store.head(key)).size
        return head, size

    def _range_opener(self, key: str, head: bytes, size: int) -> RangeOpener:
        repository = self._repository
        assert repository.key is not None, "content_of has seen to it"
        return RangeOpener(
            repository.key,
            repository=repository.repository_id,
            section=repository.section,
            object_key=key,
            head=head,
            stored_size=size,
        )


def stored_range(opener: RangeOpener, offset: int, length: int) -> tuple[int, int]:
    """The opener's stored range. Raises ``BeyondEndError``."""
    try:
        return opener.stored_range(offset, length)
    except ValueError:
        raise BeyondEndError(
            f"its object {opener.object_key!r} holds {opener.size} bytes, not {offset + length}"
        ) from None


def _too_long(key: str, wanted: int) -> ContentError:
    return ContentError(f"its object {key!r} holds more than {wanted} bytes")


def _too_short(key: str, received: int, wanted: int) -> ContentError:
    return ContentError(f"its object {key!r} ends after {received} of {wanted} bytes")


@contextmanager
def _confined(key: str) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        if (confined := _confined_error(key, error)) is not None:
            raise confined from error
        raise


def _confined_error(key: str, error: StoreError) -> ContentError | None:
    """What an error of the store means for the one object, ``None`` where it concerns more."""
    reason = f"its object {key!r}: {error.reason}"
    if error.code in _BEYOND_END:
        return BeyondEndError(reason)
    if isinstance(error, ObjectMissingError | ObjectRefusedError) or error.code in _CONFINED_CODES:
        return ContentError(reason)
    return None
