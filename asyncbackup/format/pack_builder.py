"""Building packs in memory: tar, plain or in zstd frames (docs/format.md, "Packs")."""

from __future__ import annotations

import hashlib
from itertools import islice
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


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One finished frame: how many members it has, its pieces as stored, their size."""

    members: int
    pieces: list[Buffer]
    size: int


class FrameBuilder:
    """Makes frames of members, knowing nothing but their headers and contents: what a pack consists of.

    ``begins`` says of each member where in its frame the content begins.
    """

    def __init__(self, *, zstd_level: int, compressor: FrameCompressor | None = None) -> None:
        self.frames: list[Frame] = []
        self.begins: list[int] = []
        self.stored = 0
        """What the finished frames have, in bytes."""
        self.open = 0
        """What is not finished has, as tar."""
        self._compressor = compressor or FrameCompressor(level=zstd_level) if zstd_level else None
        self._pieces: list[Buffer] = []
        self._finished = 0

    @property
    def compresses(self) -> bool:
        """Whether frames are zstd's; otherwise they are tar."""
        return self._compressor is not None

    def add(
        self, entry: Entry, content: Buffer, *, link_to: bytes = b"", copy: bool = False, run: str = ""
    ) -> None:
        """As :meth:`PackBuilder.add`, which knows the other members."""
        size = len(content)
        header = member_header(entry, link_to=link_to, copy=copy, run=run)
        begin = self.open + len(header)
        end = begin + size + (-size & 511)
        if end > MAX_FRAME_BYTES:
            if end - self.open > MAX_FRAME_BYTES:
                raise ValueError(f"{entry.path!r}: {size} bytes are too many for a member of a pack")
            self.close()
            begin = len(header)
            end = begin + size + (-size & 511)
        pieces = self._pieces
        pieces.append(header)
        if size:
            pieces.append(content)
            if size & 511:
                pieces.append(padding(size))
        self.begins.append(begin)
        self.open = end
        if end >= FRAME_BYTES:
            self.close()

    def take(self, frames: Sequence[Frame], begins: Sequence[int]) -> None:
        """Append what another one made."""
        self.close()
        self.frames += frames
        self.begins += begins
        self._finished = len(self.begins)
        self.stored += sum(frame.size for frame in frames)

    def close(self) -> None:
        """Finish the frame that was begun, if one was."""
        if not self.open:
            return
        stored = self.stored_pieces(self._pieces)
        frame = Frame(len(self.begins) - self._finished, stored, sum(map(len, stored)))
        self.frames.append(frame)
        self._finished = len(self.begins)
        self.stored += frame.size
        self._pieces = []
        self.open = 0

    def stored_pieces(self, pieces: Sequence[Buffer]) -> list[Buffer]:
        """A frame of ``pieces``, as it is stored."""
        return joined(pieces) if self._compressor is None else self._compressor.frame(pieces)


class PackBuilder:
    """Builds one pack; ``zstd_level`` 0 makes a plain tar, 1 to 22 a ``.tar.zst``.

    Methods take and return at once and belong in a thread, many members a
    hop. A method that raises has changed nothing. In memory are the finished
    frames and up to 512 KiB and a member of the open one. ``compressor``, of
    that level, may have been used for another pack, which is cheaper than a
    new one.
    """

    def __init__(self, *, zstd_level: int, compressor: FrameCompressor | None = None) -> None:
        self._framer = FrameBuilder(zstd_level=zstd_level, compressor=compressor)
        self._sizes: list[int] = []
        """Of each member's content; 0 of links."""
        self._linkable: dict[bytes, int] = {}
        self._links: list[tuple[int, int]] = []
        self._references = References()
        self._unreferenced = 0

    @property
    def size(self) -> int:
        """About how many bytes the pack has: finished frames as stored, what is not finished as tar."""
        return self._framer.stored + self._framer.open + self._references.size

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
        size, first = len(content), -1
        is_file = entry.kind is _FILE
        if is_file and link_to:
            first = self._first(entry, link_to)
            if size:
                raise ValueError(f"{entry.path!r}: a link has no content")
        elif size != (entry.size if is_file else 0):
            raise ValueError(f"{entry.path!r}: {size} bytes of content are not what the entry says")
        self._framer.add(entry, content, link_to=link_to, copy=copy, run=run)
        return self._note(entry, size, first)

    def add_frames(
        self, members: Sequence[tuple[Entry, bytes]], frames: Sequence[Frame], begins: Sequence[int]
    ) -> None:
        """Append members of which a :class:`FrameBuilder` elsewhere made ``frames``, with their ``begins``;
        with each what it is a link to, or nothing. Raises :class:`ValueError` where they do not belong
        together: the builder cannot be used any more then.
        """
        if not len(members) == len(begins) == sum(frame.members for frame in frames):
            raise ValueError(f"{len(members)} members are not those of the frames")
        self._framer.take(frames, begins)
        for entry, link_to in members:
            first = self._first(entry, link_to) if link_to else -1
            self._note(entry, entry.size if entry.kind is _FILE and first < 0 else 0, first)

    def _first(self, entry: Entry, link_to: bytes) -> int:
        """The member that a file is a link to; -1 for what is no file."""
        if entry.kind is not _FILE:
            return -1
        first = self._linkable.get(link_to, -1)
        if first < 0 or self._sizes[first] != entry.size:
            raise ValueError(f"{entry.path!r}: the pack has no member {link_to!r} that it is a link to")
        return first

    def _note(self, entry: Entry, size: int, first: int) -> int:
        """Note a member whose content has ``size`` bytes, or is that of ``first``; returns its index."""
        index = len(self._sizes)
        self._sizes.append(size)
        if first >= 0:
            self._links.append((index, first))
        elif entry.kind is _FILE:
            self._linkable[entry.path] = index
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
        framer = self._framer
        framer.close()
        runs = self._reference_runs()
        surplus = max(len(runs) - len(framer.frames), 0)
        body: list[Buffer] = []
        for run in runs[:surplus]:
            body += framer.stored_pieces([*run, _NO_ENTRY_HEADER])
        size = sum(map(len, body))
        offsets = []
        for number, frame in enumerate(framer.frames, start=surplus):
            if number < len(runs):
                run_pieces = framer.stored_pieces(runs[number])
                body += run_pieces
                size += sum(map(len, run_pieces))
            offsets.append(size)
            body += frame.pieces
            size += frame.size
        end = framer.stored_pieces([END])
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

    def _reference_runs(self) -> list[list[bytes]]:
        """The headers of references, as many together as may follow one another."""
        headers = self._references.headers()
        return [headers[start : start + _RUN] for start in range(0, len(headers), _RUN)]

    def _placements(self, offsets: Sequence[int]) -> tuple[Placement, ...]:
        """Where all members are, their frames being at ``offsets``."""
        placements: list[Placement] = []
        begins, sizes = iter(self._framer.begins), iter(self._sizes)
        for frame, offset in zip(self._framer.frames, offsets, strict=True):
            length = frame.size
            for begin, size in zip(islice(begins, frame.members), islice(sizes, frame.members), strict=True):
                if self._framer.compresses:
                    placements.append(Placement(offset, length, begin))
                else:
                    placements.append(Placement(offset + begin, size, 0))
        for index, first in self._links:
            placements[index] = placements[first]
        return tuple(placements)


_NO_ENTRY_HEADER = member_header(Entry(path=NO_ENTRY, kind=Kind.FILE, mode=0o100600))
