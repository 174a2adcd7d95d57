"""Building packs in memory: tar, plain or in zstd frames (docs/format.md, "Packs")."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from asyncbackup.format.frames import MAX_FRAME_BYTES, Buffer, FrameCompressor, joined
from asyncbackup.format.references import References
from asyncbackup.format.tar import END, member_header, padding
from asyncbackup.model import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME_BYTES = 512 * 1024
"""A frame is closed after the member with which it has this much of tar."""

NO_ENTRY = b".asyncbackup-references"
"""The name of the empty file that stands behind references where no entry does: Python's tarfile
takes a global header without a member behind it for damage. Readers pass it over."""

# bsdtar refuses a member with more than 32 headers before it, a member's own among them.
_RUN = 16

_FILE = Kind.FILE

Likeness: TypeAlias = tuple[bytes, int, int, int, tuple[tuple[bytes, bytes], ...]]


def likeness(entry: Entry) -> Likeness:
    """What a file needs in common with the member that its copy is a link to: all of an inode but the times.

    Whoever extracts the pack, perhaps as root, has one inode for both, and
    must not give the owner and mode of one file to another.
    """
    return entry.sha256, entry.mode, entry.uid, entry.gid, entry.xattrs


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
    """One finished frame: its first member, its pieces as stored, their size."""

    first_member: int
    pieces: list[Buffer]
    size: int


class PackBuilder:
    """Builds one pack; ``zstd_level`` 0 makes a plain tar, 1 to 22 a ``.tar.zst``.

    Methods take and return at once and belong in a thread, many members a
    hop. A method that raises has changed nothing. In memory are the finished
    frames and up to 512 KiB and a member of the open one. ``compressor``, of
    that level, may have been used for another pack, which is cheaper than a
    new one.
    """

    def __init__(self, *, zstd_level: int, compressor: FrameCompressor | None = None) -> None:
        self._compressor = compressor or FrameCompressor(level=zstd_level) if zstd_level else None
        self._frames: list[_Frame] = []
        self._stored = 0
        self._pieces: list[Buffer] = []
        self._open = 0
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

    def add(
        self,
        entry: Entry,
        content: Buffer = b"",
        *,
        link_to: bytes = b"",
        copy: bool = False,
        run: str = "",
    ) -> int:
        """Append a member and return its index. ``entry`` needs no extent. ``run`` is
        the one that it is of, where that is not the pack's own.

        ``content`` must not be changed before its frame is finished, and not at
        all from :data:`LARGE_BYTES` on: so large a one may be passed on as it
        came, and should be all of its buffer. With ``link_to``, the path
        of a file of that size among the members, a file is a further name of
        it and its placement the same; a ``copy`` is another file with that
        content and the same :func:`likeness`, a link in the archive alone. Raises :class:`ValueError` if
        ``content`` has not the entry's size, ``link_to`` is no such member,
        or the member does not fit a frame (over 16 MiB) or readers of tar.
        """
        size = len(content)
        first = -1
        is_file = entry.kind is _FILE
        if is_file and link_to:
            first = self._linkable.get(link_to, -1)
            if first < 0 or size or self._sizes[first] != entry.size:
                raise ValueError(f"{entry.path!r}: the pack has no member {link_to!r} that it is a link to")
        elif size != (entry.size if is_file else 0):
            raise ValueError(f"{entry.path!r}: {size} bytes of content are not what the entry says")
        header = member_header(entry, link_to=link_to, copy=copy, run=run)
        begin = self._open + len(header)
        end = begin + size + (-size & 511)
        if end > MAX_FRAME_BYTES:
            if end - self._open > MAX_FRAME_BYTES:
                raise ValueError(f"{entry.path!r}: {size} bytes are too many for a member of a pack")
            self._close_frame()
            begin = len(header)
            end = begin + size + (-size & 511)

        sizes = self._sizes
        index = len(sizes)
        pieces = self._pieces
        pieces.append(header)
        if size:
            pieces.append(content)
            if size & 511:
                pieces.append(padding(size))
        sizes.append(size)
        self._begins.append(begin)
        if first >= 0:
            self._links.append((index, first))
        elif is_file:
            self._linkable[entry.path] = index
        self._open = end
        if end >= FRAME_BYTES:
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

    def finish(self, *, digest: bool = True) -> BuiltPack:
        """The pack. The builder cannot be used any more. Without ``digest`` its SHA-256 is left empty."""
        if self._open:
            self._close_frame()
        runs = self._reference_runs()
        surplus = max(len(runs) - len(self._frames), 0)
        body: list[Buffer] = []
        for run in runs[:surplus]:
            body += self._stored_pieces([*run, _NO_ENTRY_HEADER])
        size = sum(map(len, body))
        offsets = []
        for number, frame in enumerate(self._frames, start=surplus):
            if number < len(runs):
                run_pieces = self._stored_pieces(runs[number])
                body += run_pieces
                size += sum(map(len, run_pieces))
            offsets.append(size)
            body += frame.pieces
            size += frame.size
        end = self._stored_pieces([END])
        body += end
        size += sum(map(len, end))
        sha256 = hashlib.sha256()
        for piece in body if digest else ():
            sha256.update(piece)
        return BuiltPack(
            body=tuple(body),
            size=size,
            sha256=sha256.digest() if digest else b"",
            placements=self._placements(offsets),
        )

    def _close_frame(self) -> None:
        stored = self._stored_pieces(self._pieces)
        frame = _Frame(self._open_first, stored, sum(map(len, stored)))
        self._frames.append(frame)
        self._stored += frame.size
        self._pieces = []
        self._open = 0
        self._open_first = len(self._sizes)

    def _stored_pieces(self, pieces: Sequence[Buffer]) -> list[Buffer]:
        return joined(pieces) if self._compressor is None else self._compressor.frame(pieces)

    def _reference_runs(self) -> list[list[bytes]]:
        """The headers of references, as many together as may follow one another."""
        headers = self._references.headers()
        return [headers[start : start + _RUN] for start in range(0, len(headers), _RUN)]

    def _placements(self, offsets: Sequence[int]) -> tuple[Placement, ...]:
        """Where all members are, their frames being at ``offsets``."""
        placements: list[Placement] = []
        firsts = [*(frame.first_member for frame in self._frames), len(self._sizes)]
        for frame, offset, (first, end) in zip(self._frames, offsets, pairwise(firsts), strict=True):
            for index in range(first, end):
                begin = self._begins[index]
                if self._compressor is None:
                    placements.append(Placement(offset + begin, self._sizes[index], 0))
                else:
                    placements.append(Placement(offset, frame.size, begin))
        for index, first in self._links:
            placements[index] = placements[first]
        return tuple(placements)


_NO_ENTRY_HEADER = member_header(Entry(path=NO_ENTRY, kind=Kind.FILE, mode=0o100600))
