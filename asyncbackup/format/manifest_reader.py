"""Reading manifests, from whoever wrote them (docs/format.md, "Manifests")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec
import zstandard

from asyncbackup.errors import FormatError
from asyncbackup.format.escape import unescape
from asyncbackup.format.manifest_entries import entry_of_line, pack_of_line
from asyncbackup.format.manifest_lines import (
    FORMAT,
    MAX_LINE_BYTES,
    Deleted,
    DeletedLine,
    EndLine,
    FailedLine,
    FileLine,
    FolderLine,
    Line,
    ManifestHeader,
    ManifestTrailer,
    PackLine,
    SymlinkLine,
    check_header,
)
from asyncbackup.format.manifest_order import Tally
from asyncbackup.model import Entry, Failure, Pack

TreeItem: TypeAlias = Entry | Deleted
Item: TypeAlias = TreeItem | Pack

MAX_WINDOW_BYTES = 8 * 1024 * 1024
MAX_FAILURES_KEPT = 10_000

# 512 compressed bytes are at most 128 blocks of 128 KiB: what one step can expand to is 16 MiB.
# Smaller and larger steps read equally fast (tools/bench_format.py).
_SLICE_BYTES = 512
_TEXT_AT_ONCE = 256 * 1024

# RecursionError: JSON nested too deep for msgspec.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_header_decoder = msgspec.json.Decoder(ManifestHeader)


class _Probe(msgspec.Struct, tag="manifest", tag_field="type"):
    """What every version of the header has."""

    format: int


_probe_decoder = msgspec.json.Decoder(_Probe)


class ManifestReader:
    """Reads a manifest as its bytes arrive, in bounded memory, and trusts none of them.

    ``name`` (the manifest's key) is what error messages call it. Everything
    raises :class:`FormatError`; the reader is then unusable. Only when
    :meth:`finish` returned is it known that the entries were all.
    """

    def __init__(self, *, name: str = "the manifest") -> None:
        self.header: ManifestHeader | None = None
        """Set as soon as the first line was read."""
        self._name = name
        self._tally = Tally()
        self._stream = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj(
            write_size=64 * 1024
        )
        self._frame_head = b""
        self._text = bytearray()
        self._line = 0
        self._failures: list[Failure] = []
        self._failed = 0
        self._last_pack = ("", "")
        self._closing = False
        """The failures or the trailer have begun: no entry and no pack may follow."""
        self._end: EndLine | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Item]:
        """All items that ``data`` completes. For a manifest one wrote oneself; see :meth:`batches`."""
        return [item for batch in self.batches(data) for item in batch]

    def batches(self, data: bytes | bytearray | memoryview) -> Iterator[list[Item]]:
        """The items that ``data`` completes, a bounded number at a time, whatever ``data`` expands to.

        The iterator must be used up before the next call.
        """
        view = memoryview(data).cast("B")
        self._check_frame(view)
        enough = _TEXT_AT_ONCE
        for start in range(0, len(view), _SLICE_BYTES):
            piece = view[start : start + _SLICE_BYTES]
            if self._stream.eof:
                raise self._error("something follows its end")
            try:
                self._text += self._stream.decompress(piece)
            except zstandard.ZstdError as error:
                raise self._error(f"the compressed data is damaged ({error})") from None
            if self._stream.unused_data:
                raise self._error("something follows its end")
            if len(self._text) >= enough:
                yield from self._take_lines()
                # A long line is not searched anew for every few bytes that are added to it.
                enough = max(_TEXT_AT_ONCE, 2 * len(self._text))
        yield from self._take_lines()

    def finish(self) -> ManifestTrailer:
        """The trailer, after all bytes were fed. Raises if the manifest was cut off anywhere."""
        end = self._end
        if not self._stream.eof or end is None or self._text:
            raise self._error(f"it ends early, after line {self._line}")
        tally = self._tally
        counted = (tally.entries, tally.deleted, tally.packs, self._failed)
        if counted != (end.entries, end.deleted, end.packs, end.failed):
            raise self._error("its lines are not as many as its last line says")
        totals = (tally.files, tally.folders, tally.symlinks, tally.bytes)
        assert self.header is not None
        if self.header.base is None and totals != (end.files, end.folders, end.symlinks, end.bytes):
            raise self._error("its entries do not add up to what its last line says")
        return ManifestTrailer(
            finished_ns=end.finished,
            files=end.files,
            folders=end.folders,
            symlinks=end.symlinks,
            bytes=end.bytes,
            entries=end.entries,
            deleted=end.deleted,
            packs=end.packs,
            failed=end.failed,
            failures=tuple(self._failures),
        )

    def _check_frame(self, view: memoryview) -> None:
        """A frame without a checksum is refused: it could not show damage."""
        missing = 5 - len(self._frame_head)
        if missing > 0:
            self._frame_head += bytes(view[:missing])
            if len(self._frame_head) == 5 and not self._frame_head[4] & 0x04:
                raise self._error("it is not a zstd frame with a checksum")

    def _take_lines(self) -> Iterator[list[Item]]:
        text = self._text
        start = 0
        while True:
            # As many whole lines as fit in one bite, or one line that is longer than a bite.
            stop = text.rfind(b"\n", start, start + _TEXT_AT_ONCE) + 1
            if not stop:
                stop = text.find(b"\n", start, start + MAX_LINE_BYTES) + 1
            if not stop:
                break
            if self.header is None:
                stop = text.index(b"\n", start) + 1
                self._read_header(bytes(text[start : stop - 1]))
            elif items := self._items(bytes(text[start:stop])):
                yield items
            start = stop
        if len(text) - start >= MAX_LINE_BYTES:
            raise self._error(f"line {self._line + 1} is longer than {MAX_LINE_BYTES} bytes")
        del text[:start]

    def _read_header(self, line: bytes) -> None:
        self._line = 1
        try:
            found = _probe_decoder.decode(line).format
        except _DECODE_ERRORS as error:
            raise self._error(f"the first line is not a manifest's ({error})") from None
        if found != FORMAT:
            raise self._error(
                f"it has format {found}, this asyncbackup reads format {FORMAT}; a newer one is needed"
            )
        try:
            header = _header_decoder.decode(line)
            check_header(header)
        except (*_DECODE_ERRORS, FormatError) as error:
            raise self._error(f"line 1: {error}") from None
        self.header = header

    def _items(self, block: bytes) -> list[Item]:
        try:
            lines = _decoder.decode_lines(block)
        except _DECODE_ERRORS:
            lines = []
        if len(lines) != block.count(b"\n"):
            raise self._blame(block)
        header, tally = self.header, self._tally
        assert header is not None
        items: list[Item] = []
        try:
            for line in lines:
                self._line += 1
                if self._closing or not isinstance(line, FileLine | FolderLine | SymlinkLine):
                    self._take_other(line, items)
                    continue
                if tally.packs:
                    raise FormatError("an entry follows the packs")
                path = unescape(line.path)
                tally.advance(path)
                entry = entry_of_line(line, path, header.snapshot, revised=header.revision > 0)
                tally.count(entry)
                items.append(entry)
        except ValueError as error:
            raise self._error(f"line {self._line}: {error}") from None
        except FormatError as error:
            raise self._error(f"line {self._line}: {error}") from None
        return items

    def _take_other(self, line: Line, items: list[Item]) -> None:
        assert self.header is not None
        if self._end is not None:
            raise FormatError("something follows the last line")
        if isinstance(line, EndLine):
            self._closing = True
            self._end = line
        elif isinstance(line, FailedLine):
            self._closing = True
            self._failed += 1
            if len(self._failures) < MAX_FAILURES_KEPT:
                path = unescape(line.path)
                self._failures.append(Failure(path=path, kind=line.kind, reason=line.reason))
        elif self._closing:
            raise FormatError("an entry or a pack follows the failures")
        elif isinstance(line, PackLine):
            items.append(self._pack(line))
        elif isinstance(line, DeletedLine):
            if self.header.base is None:
                raise FormatError("a deleted entry in a manifest without a base")
            if self._tally.packs:
                raise FormatError("a deleted entry follows the packs")
            path = unescape(line.path)
            self._tally.advance(path)
            self._tally.deleted += 1
            items.append(Deleted(path))

    def _pack(self, line: PackLine) -> Pack:
        assert self.header is not None
        pack = pack_of_line(line, self.header.snapshot, revised=self.header.revision > 0)
        if (pack.run, pack.key) <= self._last_pack:
            raise FormatError(f"the pack {pack.key!r} is repeated or out of order")
        self._last_pack = (pack.run, pack.key)
        self._tally.packs += 1
        return pack

    def _blame(self, block: bytes) -> FormatError:
        """The error of the first line of ``block`` that is no line of a manifest."""
        for number, line in enumerate(block.split(b"\n"), self._line + 1):
            try:
                _decoder.decode(line)
            except _DECODE_ERRORS as error:
                return self._error(f"line {number}: {error}")
        return self._error(f"no manifest lines after line {self._line}")

    def _error(self, reason: str) -> FormatError:
        return FormatError(f"{self._name}: {reason}")
