"""Where a content lies, how it is fetched, and how what came is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import FormatError, ObjectMissingError, ObjectRefusedError, StoreError
from asyncbackup.format.envelope import Opener, sealed_size
from asyncbackup.format.keys import extent_key
from asyncbackup.restore.outcome import ContentError

if TYPE_CHECKING:
    from asyncbackup.model import Entry
    from asyncbackup.repository.open import Repository
    from asyncbackup.restore.summary import RestoreCounters

_CONFINED_CODES = frozenset(
    {"InvalidRange", "WrongRange", "InvalidObjectState", "EACCES", "EPERM", "EIO", "ELOOP"}
)
"""Errors of the store that are about one object, beside those with a class of their own."""


class Content(msgspec.Struct, frozen=True, gc=False):
    """The stored bytes of one content: a whole object, or ``length`` bytes of one from ``offset``."""

    key: str
    offset: int
    length: int
    encrypted: bool


def content_of(entry: Entry, section: str, *, can_open: bool) -> Content:
    """Where the content of a file lies. Raises ``ContentError`` where the manifest contradicts itself."""
    extent = entry.extent
    if extent is None:
        raise ContentError("the manifest does not say where its content lies")
    key = extent_key(section, extent)
    if extent.encrypted and not can_open:
        raise ContentError(f"its object {key!r} is encrypted, and the section is not")
    try:
        expected = sealed_size(entry.size) if extent.encrypted else entry.size
    except ValueError as error:
        raise ContentError(f"its object {key!r}: {error}") from error
    if extent.length != expected or extent.offset < 0:
        raise ContentError(f"its object {key!r} is said to hold {extent.length} bytes, not {expected}")
    return Content(key, extent.offset, extent.length, extent.encrypted)


class Fetcher:
    """Downloads contents of one section and counts what it receives."""

    def __init__(self, repository: Repository, counters: RestoreCounters) -> None:
        self._repository = repository
        self._counters = counters

    @property
    def can_open(self) -> bool:
        """Whether the repository's key is there."""
        return self._repository.key is not None

    def opener(self, content: Content) -> Opener | None:
        """What decrypts the content, ``None`` where it is stored as it is."""
        if not content.encrypted:
            return None
        key = self._repository.key
        assert key is not None, "content_of has seen to it"
        return Opener(
            key,
            repository=self._repository.repository_id,
            section=self._repository.section,
            object_key=content.key,
        )

    async def whole(self, content: Content) -> list[bytes]:
        """All stored bytes of a content. Raises as :meth:`pour`."""
        taken: list[bytes] = []

        async def take(chunks: list[bytes]) -> None:
            taken.extend(chunks)

        await self.pour(content, take, window_bytes=content.length)
        return taken

    async def pour(
        self,
        content: Content,
        take: Callable[[list[bytes]], Awaitable[None]],
        *,
        window_bytes: int,
        offset: int = 0,
        length: int | None = None,
    ) -> None:
        """Give the stored bytes of a content (or ``length`` of them from ``offset``) to ``take``.

        They come in order, in lists of about ``window_bytes``; nothing more is
        received while ``take`` works. Never more than were asked for are kept.

        Raises ``ContentError`` for what is confined to this object and
        ``StoreError`` for everything else.
        """
        wanted = content.length - offset if length is None else length
        whole = content.offset == 0 and wanted == content.length
        store = self._repository.store
        try:
            # A whole object is read without a range: that shows how long it is.
            async with (
                store.open(content.key)
                if whole
                else store.open(content.key, offset=content.offset + offset, length=wanted)
            ) as reader:
                if whole and reader.info.size not in (-1, content.length):
                    raise ContentError(
                        f"its object {content.key!r} holds {reader.info.size} bytes, not {content.length}"
                    )
                received = pending = 0
                chunks: list[bytes] = []
                async for chunk in reader:
                    received += len(chunk)
                    pending += len(chunk)
                    self._counters.bytes_downloaded += len(chunk)
                    if received > wanted:
                        raise ContentError(f"its object {content.key!r} holds more than {wanted} bytes")
                    chunks.append(chunk)
                    if pending >= window_bytes:
                        await take(chunks)
                        chunks, pending = [], 0
                if received != wanted:
                    raise ContentError(f"its object {content.key!r} ends after {received} of {wanted} bytes")
                if chunks:
                    await take(chunks)
        except StoreError as error:
            confined = isinstance(error, ObjectMissingError | ObjectRefusedError)
            if confined or error.code in _CONFINED_CODES:
                raise ContentError(f"its object {content.key!r}: {error.reason}") from error
            raise


class Checker:
    """Turns stored bytes into content and checks it: decryption, size, SHA-256. Used in threads.

    Every byte that ``feed`` gives is authentic where the object is encrypted;
    that they are all and the right ones only ``finish`` tells.
    """

    def __init__(self, entry: Entry, key: str, opener: Opener | None) -> None:
        self._entry = entry
        self._key = key
        self._opener = opener
        self._digest = hashlib.sha256()
        self._size = 0

    def feed(self, stored: bytes) -> bytes:
        """The content that ``stored`` completes. Raises ``ContentError``."""
        if self._opener is None:
            return self._checked(stored)
        try:
            return self._checked(self._opener.feed(stored))
        except FormatError as error:
            raise ContentError(str(error), damaged=True) from error

    def finish(self) -> bytes:
        """The last of the content. Raises ``ContentError`` unless all of it is what was saved."""
        rest = b""
        if self._opener is not None:
            try:
                rest = self._checked(self._opener.finish())
            except FormatError as error:
                raise ContentError(str(error), damaged=True) from error
        if self._size != self._entry.size:
            raise ContentError(
                f"its object {self._key!r} holds {self._size} bytes of content, not {self._entry.size}",
                damaged=True,
            )
        self.check_digest(self._digest.digest())
        return rest

    def check_digest(self, digest: bytes) -> None:
        """Raises ``ContentError`` unless ``digest`` is what the snapshot says (or it says nothing)."""
        if self._entry.sha256 and digest != self._entry.sha256:
            raise ContentError(
                f"its object {self._key!r} is damaged: the SHA-256 differs from the snapshot's", damaged=True
            )

    def _checked(self, content: bytes) -> bytes:
        self._size += len(content)
        if self._size > self._entry.size:
            raise ContentError(f"its object {self._key!r} holds more than {self._entry.size} bytes")
        self._digest.update(content)
        return content
