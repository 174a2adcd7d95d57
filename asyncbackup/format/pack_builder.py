"""Building packs in memory: tar, plain or in zstd frames (docs/format.md, "Packs")."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.format.frames import MAX_FRAME_BYTES, Buffer, FrameCompressor
from asyncbackup.format.references import References
from asyncbackup.format.tar import END, member_header, padding
from asyncbackup.model import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME_BYTES = 512 * 1024
"""A frame is closed after the member with which it has this much of tar."""

NO_MEMBER = b".asyncbackup-references"
"""The name of the empty file that a pack of references alone ends with, which is no entry."""

# A content from this size on is passed on as it came; smaller ones are joined, since a piece costs more
# than its copy.
_LARGE_BYTES = 64 * 1024


class Placement(msgspec.Struct, frozen=True, gc=False):
    """Where the content of a member lies in the pack before sealing, as in an :class:`Extent`."""

    offset: int
    length: int
    skip: int


class BuiltPack(msgspec.Struct, frozen=True):
    """A pack before sealing. ``size`` and ``sha256`` are of ``body``, which is its pieces in order.

    ``placements`` are by the index that :meth:`PackBuilder.add` returned.
    Contents that were passed on may be part of ``body``: they must not be
    changed as long as it is used.
    """

    body: tuple[Buffer, ...]
    size: int
    sha256: bytes
    placements: tuple[Placement, ...]


class _Frame(msgspec.Struct, frozen=True, gc=False):
    """One finished frame: its first member, where it lies behind the references, its size as stored."""

    first_member: int
    offset: int
    size: int


class PackBuilder:
    """Builds one pack; ``zstd_level`` 0 makes a plain tar, 1 to 22 a ``.tar.zst``.

    Methods take and return at once and belong in a thread, many members a
    hop. A method that raises has changed nothing. In memory are the finished
    frames and up to 512 KiB and a member of the open one.
    """

    def __init__(self, *, zstd_level: int) -> None:
        self._compressor = FrameCompressor(level=zstd_level) if zstd_level else None
        self._frames: list[_Frame] = []
        self._body: list[Buffer] = []
        self._stored = 0
        self._pieces: list[Buffer] = []
        self._open = 0
        self._has_large = False
        self._open_first = 0
        # Of each member: where in its frame the content begins, and its size.
        self._begins: list[int] = []
        self._sizes: list[int] = []
        self._linkable: dict[bytes, int] = {}
        self._links: list[tuple[int, int]] = []
        self._references = References()
        self._unreferenced = 0

    @property
    def size(self) -> int:
        """About how many bytes the pack has: finished frames as stored, what is not finished as tar."""
        return self._stored + self._open + self._references.size

    @property
    def members(self) -> int:
        """How many entries were added with their contents."""
        return len(self._sizes)

    @property
    def references(self) -> int:
        """How many references were added, without the :attr:`unreferenced`."""
        return self._references.count

    @property
    def unreferenced(self) -> int:
        """How many references were left out because one alone is larger than a global header."""
        return self._unreferenced

    @property
    def empty(self) -> bool:
        """Whether there is neither member nor reference."""
        return not self._sizes and not self._references.count

    def add(self, entry: Entry, content: Buffer = b"", *, link_to: bytes = b"", copy: bool = False) -> int:
        """Append a member and return its index. ``entry`` needs no extent.

        ``content`` must not be changed any more. With ``link_to``, the path
        of a member with a content of that size, the entry is a further name
        of it and its placement the same; a ``copy`` is another file with that
        content, a link in the archive alone. Raises :class:`ValueError` if
        ``content`` has not the entry's size, ``link_to`` is no such member,
        or the member does not fit a frame (over 16 MiB) or readers of tar.
        """
        size = len(content)
        expected = entry.size if entry.kind is Kind.FILE else 0
        first = -1
        if link_to:
            first = self._linkable.get(link_to, -1)
            if first < 0 or size or self._sizes[first] != expected:
                raise ValueError(f"{entry.path!r}: the pack has no member {link_to!r} that it is a link to")
        elif size != expected:
            raise ValueError(f"{entry.path!r}: {size} bytes of content, but the entry says {expected}")
        header = member_header(entry, link_to=link_to, copy=copy)
        gap = padding(size)
        total = len(header) + size + len(gap)
        if self._open + total > MAX_FRAME_BYTES - len(END):
            if total > MAX_FRAME_BYTES - len(END):
                raise ValueError(f"{entry.path!r}: {total} bytes are too many for a member of a pack")
            self._close_frame()

        index = len(self._sizes)
        pieces = self._pieces
        pieces.append(header)
        if size:
            pieces.append(content)
            if gap:
                pieces.append(gap)
            if size >= _LARGE_BYTES:
                self._has_large = True
        self._begins.append(self._open + len(header))
        self._sizes.append(size)
        if first >= 0:
            self._links.append((index, first))
        elif entry.kind is not Kind.FOLDER:
            self._linkable[entry.path] = index
        self._open += total
        if self._open >= FRAME_BYTES:
            self._close_frame()
        return index

    def add_reference(self, entry: Entry) -> None:
        """Append an entry whose extent says where its content lies already.

        One that is larger than a global header is counted as ``unreferenced``.
        Raises :class:`ValueError` without an extent and :class:`FormatError`
        where no reader would accept the entry.
        """
        if not self._references.add(entry):
            self._unreferenced += 1

    def finish(self) -> BuiltPack:
        """The pack. The builder cannot be used any more.

        References stand in front: Python's tarfile takes a global header
        without a member behind it for damage.
        """
        front = self._front()
        if front and not self._sizes:
            self._pieces.append(member_header(_NO_ENTRY))
            self._open += len(self._pieces[-1])
        self._pieces.append(END)
        self._open += len(END)
        self._close_frame()
        body = (*front, *self._body)
        front_size = sum(map(len, front))
        digest = hashlib.sha256()
        for piece in body:
            digest.update(piece)
        return BuiltPack(
            body=body,
            size=front_size + self._stored,
            sha256=digest.digest(),
            placements=self._placements(front_size),
        )

    def _close_frame(self) -> None:
        pieces = _joined(self._pieces) if self._has_large else [b"".join(self._pieces)]
        stored = pieces if self._compressor is None else self._compressor.frame(pieces)
        size = sum(map(len, stored))
        self._body += stored
        self._frames.append(_Frame(self._open_first, self._stored, size))
        self._stored += size
        self._pieces = []
        self._open = 0
        self._has_large = False
        self._open_first = len(self._sizes)

    def _front(self) -> list[Buffer]:
        """The references, in frames of their own."""
        headers = self._references.headers()
        if self._compressor is None:
            return list(headers)
        front: list[Buffer] = []
        # Eight of at most 66 KiB each are about a frame.
        for start in range(0, len(headers), 8):
            front += self._compressor.frame([b"".join(headers[start : start + 8])])
        return front

    def _placements(self, front_size: int) -> tuple[Placement, ...]:
        placements: list[Placement] = []
        ends = [frame.first_member for frame in self._frames[1:]] + [len(self._sizes)]
        for frame, end in zip(self._frames, ends, strict=True):
            offset = front_size + frame.offset
            for index in range(frame.first_member, end):
                begin = self._begins[index]
                if self._compressor is None:
                    placements.append(Placement(offset + begin, self._sizes[index], 0))
                else:
                    placements.append(Placement(offset, frame.size, begin))
        for index, first in self._links:
            placements[index] = placements[first]
        return tuple(placements)


_NO_ENTRY = Entry(path=NO_MEMBER, kind=Kind.FILE, mode=0o100600)


def _joined(pieces: Sequence[Buffer]) -> list[Buffer]:
    """The same bytes in fewer pieces: small ones joined, large ones as they are."""
    joined: list[Buffer] = []
    small: list[Buffer] = []
    for piece in pieces:
        if len(piece) >= _LARGE_BYTES:
            if small:
                joined.append(b"".join(small))
                small = []
            joined.append(piece)
        else:
            small.append(piece)
    if small:
        joined.append(b"".join(small))
    return joined
