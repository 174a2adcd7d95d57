"""Reading a pack without its manifest: the entries of its members, and its references.

See docs/format.md, "Packs". What comes from a stranger is checked as such, and
what is damaged is named: in a compressed pack every frame stands for itself,
in a plain one all that stands before the damage is read.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from asyncbackup.errors import FormatError
from asyncbackup.format.escape import escape_path, unescape
from asyncbackup.format.frame_reader import FrameEnd, FrameReader
from asyncbackup.format.keys import check_path
from asyncbackup.format.manifest_entries import entry_fits, entry_of_line
from asyncbackup.format.manifest_lines import FileLine, FolderLine, SymlinkLine
from asyncbackup.format.pack_builder import NO_ENTRY
from asyncbackup.format.references import INTRODUCTION
from asyncbackup.format.tar_reader import Comment, Refused, TarItem, TarMember, TarReader
from asyncbackup.model import ZSTD, Entry, Extent, Kind, Pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_NAME_BYTES = 4096
"""A longer name of something lost is cut: it may be one of many."""
MAX_REASON_CHARACTERS = 1000

_BATCH_ITEMS = 1024

_line_decoder = msgspec.json.Decoder(FileLine | FolderLine | SymlinkLine)


class PackMember(msgspec.Struct, frozen=True, gc=False):
    """One entry of a pack, with its extent. ``run`` is the run that it is of.

    ``link_to`` is the path of the member whose content a hard link shares; it
    has no extent. Of a ``copy`` all but the content is its own. A ``reference``
    has the extent that it names, which may be anybody's word.
    """

    entry: Entry
    run: str
    link_to: bytes = b""
    copy: bool = False
    reference: bool = False


class PackLoss(msgspec.Struct, frozen=True, gc=False):
    """Something of a pack that cannot be recovered, and why: one member, or where ``name`` is ``None``
    an unknown number of them."""

    name: bytes | None
    reason: str


PackItem: TypeAlias = PackMember | PackLoss


def loss_of(name: bytes, reason: str) -> PackLoss:
    """The loss of one member, in a bounded number of bytes."""
    reason = reason[:MAX_REASON_CHARACTERS]
    if len(name) <= MAX_NAME_BYTES:
        return PackLoss(name, reason)
    begin = escape_path(name[:100])
    return PackLoss(None, f"a member with a name of {len(name)} bytes, {begin!r} and so on: {reason}")


class PackReader:
    """Reads one pack (before sealing: the caller opens it) as its bytes arrive.

    Memory is bounded by a frame's 16 MiB, whatever the pack holds.
    """

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._tar = TarReader()
        self._frames = FrameReader() if pack.compression == ZSTD else None
        self._of_frame: list[TarItem] = []
        self._frame_broken = ""
        self._ended = False
        self._last_frame_lost = False
        self._after_references = False
        self.broken = False
        """Nothing more can be read: what follows need not be fetched."""

    def batches(self, data: bytes) -> Iterator[list[PackItem]]:
        """What ``data`` completes, in lists of about a thousand. Must be used up before the next call."""
        batch: list[PackItem] = []
        for item in self._items(data):
            batch.append(item)
            if len(batch) >= _BATCH_ITEMS:
                yield batch
                batch = []
        if batch:
            yield batch

    def finish(self) -> list[PackLoss]:
        """What is to be said once all bytes were fed: that the pack was cut off, if it was."""
        if self.broken:
            return []
        name = self._tar.under_way
        if self._frames is not None:
            # Of a frame that was lost it is not known whether the end stood in it.
            if (self._ended or self._last_frame_lost) and self._frames.between_frames:
                return []
        elif self._tar.ended and self._tar.between_members:
            return []
        self.broken = True
        cut = PackLoss(None, "the pack ends early; whatever stood in the rest of it is lost")
        return [cut] if name is None else [loss_of(name, "the pack ends within it"), cut]

    def _items(self, data: bytes) -> Iterator[PackItem]:
        if self.broken:
            return
        try:
            if self._frames is not None:
                yield from self._frame_items(self._frames, data)
                return
            for item in self._tar.items(data):
                yield from self._found(item, None)
        except FormatError as error:
            self.broken = True
            yield from self._of_broken_frame(str(error))
            yield PackLoss(None, f"{error}; whatever stood in the rest of the pack is lost")

    def _frame_items(self, frames: FrameReader, data: bytes) -> Iterator[PackItem]:
        for piece in frames.pieces(data):
            if isinstance(piece, FrameEnd):
                yield from self._end_frame(piece)
            elif not self._frame_broken:
                try:
                    for item in self._tar.items(piece):
                        self._of_frame.append(item)
                except FormatError as error:
                    self._frame_broken = str(error)

    def _end_frame(self, end: FrameEnd) -> Iterator[PackItem]:
        items, self._of_frame = self._of_frame, []
        tar, broken = self._tar, self._frame_broken
        if end.damage:
            yield from self._lost(items, end.damage)
            yield PackLoss(None, f"{end.damage}; whatever else stood in it is lost")
        else:
            for item in items:
                yield from self._found(item, end)
            if not broken and self._ended:
                broken = "something follows the end of the archive"
            elif not broken and not tar.between_members:
                broken = "a member does not end with its frame"
            if broken:
                if tar.under_way is not None:
                    yield loss_of(tar.under_way, broken)
                at = f"in the zstd frame at byte {end.offset}"
                yield PackLoss(None, f"{at} {broken}; whatever stood in the rest of the frame is lost")
        self._ended = self._ended or tar.ended
        self._last_frame_lost = bool(end.damage or broken)
        self._frame_broken = ""
        tar.reset()

    def _of_broken_frame(self, reason: str) -> Iterator[PackItem]:
        items, self._of_frame = self._of_frame, []
        yield from self._lost(items, reason)

    def _lost(self, items: Iterable[TarItem], reason: str) -> Iterator[PackItem]:
        """Members of a frame that cannot be read again, by name."""
        for item in items:
            if isinstance(item, TarMember):
                yield loss_of(item.member.entry.path, reason)
            elif isinstance(item, Refused):
                yield loss_of(item.name, item.reason)
        if self._tar.under_way is not None:
            yield loss_of(self._tar.under_way, reason)

    def _found(self, item: TarItem, frame: FrameEnd | None) -> Iterator[PackItem]:
        if isinstance(item, Comment):
            yield from self._references(item.text)
        elif isinstance(item, Refused):
            yield loss_of(item.name, item.reason)
        else:
            entry = item.member.entry
            # One that stands there for readers that want a member behind a comment.
            none = self._after_references and (entry.path, entry.size) == (NO_ENTRY, 0)
            self._after_references = False
            if item.member.run > self._pack.run:
                # It would outlive every version of the path, and move the ids of all later runs.
                yield loss_of(entry.path, f"it is said to be of the later run {item.member.run}")
            elif not none:
                yield self._member(item, frame)

    def _member(self, item: TarMember, frame: FrameEnd | None) -> PackMember:
        member, pack = item.member, self._pack
        run = member.run or pack.run
        if member.link_to:
            return PackMember(member.entry, run, member.link_to, member.copy)
        entry = member.entry
        length = entry.size if entry.kind is Kind.FILE else 0
        if frame is not None:
            length = frame.length
        extent = Extent(
            pack.run,
            pack.key,
            length,
            offset=item.begin if frame is None else frame.offset,
            encrypted=pack.encrypted,
            compression=pack.compression,
            skip=0 if frame is None else item.begin,
        )
        return PackMember(msgspec.structs.replace(entry, extent=extent), run)

    def _references(self, text: bytes) -> Iterator[PackItem]:
        if not text.startswith(INTRODUCTION):
            return
        self._after_references = True
        for line in text.removeprefix(INTRODUCTION).removesuffix(b"\n").split(b"\n"):
            try:
                yield PackMember(self._reference(line), self._pack.run, reference=True)
            except (FormatError, msgspec.DecodeError, ValueError, RecursionError) as error:
                reason = str(error)[:MAX_REASON_CHARACTERS]
                yield PackLoss(None, f"a reference cannot be read: {reason}")

    def _reference(self, text: bytes) -> Entry:
        line = _line_decoder.decode(text)
        if line.extent is None or not line.extent.run or not line.extent.key:
            raise FormatError(f"{line.path!r} does not say where its content lies")
        path = unescape(line.path)
        check_path(path)
        entry = _as_in_manifests(entry_of_line(line, path, self._pack.run))
        if not entry_fits(entry):
            raise FormatError(f"{line.path!r} is more than a snapshot has room for")
        return entry


def _as_in_manifests(entry: Entry) -> Entry:
    """The entry without the checksum that the digest of a plain object already is."""
    extent = entry.extent
    if extent is None or extent.checksum != b64encode(entry.sha256).decode():
        return entry
    if extent.in_pack or extent.encrypted or extent.compression or extent.part_size:
        return entry
    return msgspec.structs.replace(entry, extent=msgspec.structs.replace(extent, checksum=""))
