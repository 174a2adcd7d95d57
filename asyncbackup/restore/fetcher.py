"""Downloading: whole objects, ranges of them, stretches of packs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import FormatError, ObjectMissingError, ObjectRefusedError, StoreError
from asyncbackup.format.envelope import Opener
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener, RangeStream
from asyncbackup.restore.content import Content, Opening
from asyncbackup.restore.heads import PackHeads
from asyncbackup.restore.outcome import ContentError
from asyncbackup.store.base import OTHER_SIZE

if TYPE_CHECKING:
    from asyncbackup.repository.open import Repository
    from asyncbackup.restore.summary import RestoreCounters

ATTEMPTS = 2
"""Downloads of what comes differently from what was saved: a bit may have flipped on the way."""

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

        async def take(chunks: list[bytes]) -> None:
            taken.extend(chunks)

        await self.pour(Source(key, offset, length, whole=False), take, window_bytes=length)
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
        take: Callable[[list[bytes]], Awaitable[None]],
        *,
        window_bytes: int,
        offset: int = 0,
        length: int | None = None,
    ) -> None:
        """Give the stored bytes of a source (or ``length`` of them from ``offset``) to ``take``.

        They come in order, in lists of about ``window_bytes``; nothing more is
        received while ``take`` works. Never more than were asked for are kept.
        """
        key = source.key
        wanted = source.length - offset if length is None else length
        whole = source.whole and wanted == source.length
        store = self._repository.store
        with _confined(key):
            # A whole object is read without a range: that shows how long it is.
            async with (
                store.open(key) if whole else store.open(key, offset=source.offset + offset, length=wanted)
            ) as reader:
                if whole and reader.info.size not in (-1, source.length):
                    raise ContentError(
                        f"its object {key!r} holds {reader.info.size} bytes, not {source.length}"
                    )
                received = pending = 0
                chunks: list[bytes] = []
                async for chunk in reader:
                    received += len(chunk)
                    pending += len(chunk)
                    self._counters.bytes_downloaded += len(chunk)
                    if received > wanted:
                        raise ContentError(f"its object {key!r} holds more than {wanted} bytes")
                    chunks.append(chunk)
                    if pending >= window_bytes:
                        await take(chunks)
                        chunks, pending = [], 0
                if received != wanted:
                    raise ContentError(f"its object {key!r} ends after {received} of {wanted} bytes")
                if chunks:
                    await take(chunks)

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
