"""Where a content lies, and how what came of it is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from asyncbackup.errors import FormatError
from asyncbackup.format.envelope import sealed_size
from asyncbackup.format.expand import MAX_FRAME_BYTES, Expander
from asyncbackup.format.keys import extent_key
from asyncbackup.restore.outcome import ContentError

if TYPE_CHECKING:
    from asyncbackup.model import Entry, Extent
    from asyncbackup.store.base import Buffer


class Content(msgspec.Struct, frozen=True, gc=False):
    """One content: ``length`` bytes from ``offset`` of an object as stored or, ``in_pack``, of the
    pack before sealing. They are opened if ``encrypted``, then expanded if ``compressed``; the
    content is the ``size`` bytes from ``skip`` of the result."""

    key: str
    offset: int
    length: int
    size: int
    encrypted: bool = False
    compressed: bool = False
    in_pack: bool = False
    skip: int = 0

    @property
    def as_stored(self) -> bool:
        """Whether the stored bytes are the content, so that any range of them can be written at once."""
        return not (self.encrypted or self.compressed or self.skip)


def content_of(entry: Entry, section: str, *, can_open: bool) -> Content:
    """Where the content of a file lies. Raises ``ContentError`` where the manifest contradicts itself."""
    extent = entry.extent
    if extent is None:
        raise ContentError("the manifest does not say where its content lies")
    key = extent_key(section, extent)
    if extent.encrypted and not can_open:
        raise ContentError(f"its object {key!r} is encrypted, and the section is not")
    try:
        _check(extent, key, entry.size)
    except ValueError as error:
        raise ContentError(f"its object {key!r}: {error}") from error
    return Content(
        key,
        extent.offset,
        extent.length,
        entry.size,
        extent.encrypted,
        bool(extent.compression),
        extent.in_pack,
        extent.skip,
    )


def _check(extent: Extent, key: str, size: int) -> None:
    in_pack, compressed = extent.in_pack, bool(extent.compression)
    sealed_whole = extent.encrypted and not in_pack
    expected = extent.length
    if not compressed:
        expected = sealed_size(extent.skip + size) if sealed_whole else size
    contradiction = extent.length != expected or extent.offset < 0 or extent.length < 0 or extent.skip < 0
    if contradiction or (sealed_whole and extent.offset):
        raise ContentError(
            f"its object {key!r} is said to hold {extent.length} bytes from {extent.offset}, not {expected}"
        )
    if not (compressed or sealed_whole) and extent.skip:
        raise ContentError(f"its object {key!r}: its content is said to begin within itself")
    if in_pack and compressed and extent.skip + size > MAX_FRAME_BYTES:
        raise ContentError(
            f"its object {key!r}: a frame is said to expand to more than {MAX_FRAME_BYTES} bytes"
        )


OPENED_BYTES = 256 * 1024
"""What is opened at once: little enough to be in the processor's cache when it is hashed and written."""


class Opening(Protocol):
    """What opens stored bytes as they arrive: an ``Opener`` or a ``RangeStream``."""

    def feed(self, data: Buffer) -> bytes: ...

    def feed_view(self, data: Buffer) -> Buffer: ...

    def finish(self) -> bytes: ...


class Checker:
    """Turns stored bytes into content and checks it: decryption, expansion, size, SHA-256. Used in threads.

    Every byte that ``feed`` gives is authentic where the object is encrypted;
    that they are all and the right ones only ``finish`` tells, once all that it
    gives was taken. Pieces are made one by one, so whatever a few bytes expand
    to, one piece at a time is in memory. Use up each iterator before the next call.

    With ``reusing`` a piece is valid only until the next is asked for, and large ones cost no memory anew.
    """

    def __init__(
        self, content: Content, sha256: bytes, opening: Opening | None, *, reusing: bool = False
    ) -> None:
        self._content = content
        self._sha256 = sha256
        self._opening = opening
        self._reusing = reusing
        self._expander = Expander(name=content.key) if content.compressed else None
        self._digest = hashlib.sha256()
        self._skip = content.skip
        self._size = 0

    def feed(self, stored: Buffer) -> Iterator[Buffer]:
        """The content that ``stored`` completes. Raises ``ContentError``."""
        try:
            if self._opening is None:
                yield from self._taken(stored)
            elif not self._reusing:
                yield from self._taken(self._opening.feed(stored))
            else:
                view = memoryview(stored)
                for start in range(0, len(view), OPENED_BYTES):
                    yield from self._taken(self._opening.feed_view(view[start : start + OPENED_BYTES]))
        except FormatError as error:
            raise ContentError(str(error), damaged=True) from error

    def finish(self) -> Iterator[Buffer]:
        """The last of the content. Raises ``ContentError`` unless all of it is what was saved."""
        if self._opening is not None:
            try:
                yield from self._taken(self._opening.finish())
            except FormatError as error:
                raise ContentError(str(error), damaged=True) from error
        if self._size != self._content.size:
            raise ContentError(
                f"its object {self._content.key!r} holds {self._size} bytes of content, "
                f"not {self._content.size}",
                damaged=True,
            )
        check_digest(self._content, self._sha256, self._digest.digest())

    def _taken(self, opened: Buffer) -> Iterator[Buffer]:
        content = self._content
        if self._expander is None:
            if piece := self._after_skip(opened):
                if self._size + len(piece) > content.size:
                    raise ContentError(f"its object {content.key!r} holds more than {content.size} bytes")
                yield self._counted(piece)
            return
        if self._size == content.size:
            return  # what follows is not asked for, and not expanded
        for expanded in self._expander.feed(opened):
            if piece := self._after_skip(expanded)[: content.size - self._size]:
                yield self._counted(piece)
                if self._size == content.size:
                    return

    def _after_skip(self, piece: Buffer) -> Buffer:
        if not self._skip:
            return piece
        dropped = min(self._skip, len(piece))
        self._skip -= dropped
        return piece[dropped:]

    def _counted(self, piece: Buffer) -> Buffer:
        self._size += len(piece)
        self._digest.update(piece)
        return piece


def check_content(content: Content, sha256: bytes, found: Buffer) -> None:
    """Raises ``ContentError`` unless a whole content has the digest that the snapshot says, if any."""
    if sha256:
        check_digest(content, sha256, hashlib.sha256(found).digest())


def check_digest(content: Content, sha256: bytes, digest: bytes) -> None:
    """Raises ``ContentError`` unless ``digest`` is what the snapshot says (or it says nothing)."""
    if sha256 and digest != sha256:
        raise ContentError(
            f"its object {content.key!r} is damaged: the SHA-256 differs from the snapshot's", damaged=True
        )
