"""Reading a tar archive as it arrives, from whoever wrote it (docs/format.md, "Packs").

Contents are hashed, not kept. What readers of tar may understand differently
is refused; see ``tar_fields``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from asyncbackup.errors import FormatError
from asyncbackup.format.tar_fields import (
    BLOCK_BYTES,
    Header,
    Member,
    content_size,
    member_of,
    path_of,
    read_header,
    read_records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EXTENDED_BYTES = 1024 * 1024
"""Of an extended header and of a long name: what writers allow, and all that a manifest has room for."""
MAX_GLOBAL_BYTES = 64 * 1024

_ZEROS = bytes(BLOCK_BYTES)
_LIMITS = {
    b"x": MAX_EXTENDED_BYTES,
    b"g": MAX_GLOBAL_BYTES,
    b"L": MAX_EXTENDED_BYTES + 1,
    b"K": MAX_EXTENDED_BYTES + 1,
}
_COMMENT = b"comment"


class TarMember(msgspec.Struct, frozen=True, gc=False):
    """One member; its content begins at ``begin`` of what was fed since the last :meth:`TarReader.reset`."""

    member: Member
    begin: int


class Refused(msgspec.Struct, frozen=True, gc=False):
    """One member that is no entry of ours, and why; those after it can be read."""

    name: bytes
    reason: str


class Comment(msgspec.Struct, frozen=True, gc=False):
    """The text of a global header."""

    text: bytes


TarItem: TypeAlias = TarMember | Refused | Comment


class TarReader:
    """Takes an archive's bytes in order. In memory are one header and what belongs to it, 3 MiB at most."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, as at the beginning of an archive."""
        self._position = 0
        self._held = bytearray()
        self._wanted = BLOCK_BYTES
        self._special: bytes = b""
        self._special_size = 0
        self._header: Header | None = None
        self._records: dict[bytes, bytes] = {}
        self._long: dict[bytes, bytes] = {}
        self._announced: set[bytes] = set()
        self._begin = 0
        self._size = 0
        self._left = 0
        self._padding = 0
        self._digest = hashlib.sha256()
        self._zero_blocks = 0

    @property
    def ended(self) -> bool:
        """Whether the two blocks of zeros came that an archive ends with."""
        return self._zero_blocks >= 2

    @property
    def between_members(self) -> bool:
        """Whether all that was fed are whole members."""
        return not (self._held or self._special or self._header or self._announced or self._padding)

    @property
    def under_way(self) -> bytes | None:
        """The name of the member whose content has not all come yet."""
        if self._header is None:
            return None
        return path_of(self._header, self._records, self._long.get(b"L"))

    def items(self, data: bytes | memoryview) -> Iterator[TarItem]:
        """The members that ``data`` completes. Must be used up before the next call.

        Raises :class:`FormatError` for damage after which nothing can be read;
        what was given out before is not touched by it.
        """
        view = memoryview(data)
        at, end = 0, len(view)
        while at < end:
            if self._left:
                count = min(self._left, end - at)
                self._digest.update(view[at : at + count])
                self._left -= count
            elif self._padding:
                count = min(self._padding, end - at)
                self._padding -= count
            else:
                count = min(self._wanted - len(self._held), end - at)
                self._held += view[at : at + count]
            at += count
            self._position += count
            if self._header is not None:
                if not self._left:
                    yield self._complete(self._header)
            elif len(self._held) == self._wanted:
                block = bytes(self._held)
                self._held.clear()
                yield from self._take_block(block)

    def _take_block(self, block: bytes) -> Iterator[TarItem]:
        if self._special:
            yield from self._take_special(block[: self._special_size])
            return
        if block == _ZEROS:
            if self._announced:
                raise FormatError("the archive ends where a member has to be")
            self._zero_blocks += 1
            return
        if self._zero_blocks:
            raise FormatError("something follows the end of the archive")
        header = read_header(block)
        if header.flag in _LIMITS:
            self._expect_special(header)
            return
        size = content_size(header, self._records)
        self._header = header
        self._begin = self._position
        self._size = self._left = size
        self._digest = hashlib.sha256()
        if not size:
            yield self._complete(header)

    def _expect_special(self, header: Header) -> None:
        flag, size = header.flag, header.size
        if size > _LIMITS[flag]:
            raise FormatError(f"the archive has a header of {size} bytes, more than {_LIMITS[flag]}")
        if flag in self._announced or (flag == b"g" and self._announced):
            raise FormatError("the archive has headers that belong to no member")
        if not size:
            raise FormatError("the archive has an extended header without content")
        if flag != b"g":
            self._announced.add(flag)
        self._special = flag
        self._special_size = size
        self._wanted = size + (-size % BLOCK_BYTES)

    def _take_special(self, body: bytes) -> Iterator[TarItem]:
        flag, self._special = self._special, b""
        self._wanted = BLOCK_BYTES
        if flag == b"x":
            self._records = read_records(body)
        elif flag == b"g":
            records = read_records(body)
            if records.keys() != {_COMMENT}:
                raise FormatError("the archive has a global header that is more than a comment")
            yield Comment(records[_COMMENT])
        else:
            self._long[flag] = body.removesuffix(b"\0")

    def _complete(self, header: Header) -> TarItem:
        records, long = self._records, self._long
        self._header = None
        self._padding = -self._size % BLOCK_BYTES
        self._records, self._long = {}, {}
        self._announced.clear()
        try:
            member = member_of(
                header,
                records,
                long_name=long.get(b"L"),
                long_link=long.get(b"K"),
                size=self._size,
                sha256=self._digest.digest(),
            )
        except FormatError as error:
            return Refused(path_of(header, records, long.get(b"L")), str(error))
        return TarMember(member, self._begin)
