"""Writing and reading manifests: the JSON Lines, zstd-compressed, that say what a snapshot holds.

See docs/format.md, "Manifests". Entries stand in the order of (folder, name),
compared as bytes: the root first, a parent always before its children, the
children of one folder together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import msgspec
import zstandard

from asyncbackup.errors import FormatError
from asyncbackup.format.escape import escape_path, unescape
from asyncbackup.format.keys import check_path
from asyncbackup.format.manifest_lines import (
    FORMAT,
    MAX_DEPTH,
    MAX_LINE_BYTES,
    MAX_REASON_CHARACTERS,
    Deleted,
    DeletedLine,
    EndLine,
    FailedLine,
    FileLine,
    FolderLine,
    Line,
    ManifestHeader,
    ManifestTrailer,
    SymlinkLine,
    check_header,
    entry_fits,
    entry_of_line,
    line_of_entry,
)
from asyncbackup.model import Entry, Failure, Kind

__all__ = [
    "FORMAT",
    "MAX_DEPTH",
    "MAX_LINE_BYTES",
    "Deleted",
    "Item",
    "ManifestHeader",
    "ManifestReader",
    "ManifestTrailer",
    "ManifestWriter",
    "entry_fits",
]

Item: TypeAlias = Entry | Deleted

MAX_WINDOW_BYTES = 8 * 1024 * 1024
MAX_FAILURES_KEPT = 10_000

_LEVEL = 3
_ENTRIES_AT_ONCE = 1000
# 512 compressed bytes are at most 128 blocks of 128 KiB: what one step can expand to is 16 MiB.
_SLICE_BYTES = 512
_TEXT_AT_ONCE = 256 * 1024

# RecursionError: JSON nested too deep for msgspec.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_header_decoder = msgspec.json.Decoder(ManifestHeader)


class _Probe(msgspec.Struct, tag="manifest", tag_field="type"):
    """What every version of the header has."""

    format: int


_probe_decoder = msgspec.json.Decoder(_Probe)


class _Tally:
    """Order and counts of the lines so far, the same for the writer and the reader."""

    __slots__ = ("_folder", "_name", "bytes", "deleted", "entries", "files", "folders", "symlinks")

    def __init__(self) -> None:
        self._folder = b""
        self._name: bytes | None = None
        self.entries = self.deleted = self.files = self.folders = self.symlinks = self.bytes = 0

    def advance(self, path: bytes) -> None:
        """Take the next path. Raises :class:`FormatError` for a bad one, or one out of order or repeated."""
        folder, _, name = path.rpartition(b"/")
        if folder == self._folder:
            if self._name is not None and name <= self._name:
                raise FormatError(f"{escape_path(path)!r} is repeated or out of order")
            # The folder was checked with the entry before; of the root's, there is nothing to check.
            if name in (b"", b".", b"..") or b"\0" in name:
                check_path(path)
        else:
            check_path(path)
            if folder < self._folder:
                raise FormatError(f"{escape_path(path)!r} is out of order")
            self._folder = folder
        self._name = name

    def count(self, entry: Entry) -> None:
        self.entries += 1
        if entry.kind is Kind.FILE:
            self.files += 1
            self.bytes += entry.size
        elif entry.kind is Kind.FOLDER:
            self.folders += 1
        else:
            self.symlinks += 1


class ManifestWriter:
    """Makes a manifest. The bytes that ``add`` and ``finish`` return, joined, are the object's plaintext."""

    def __init__(self, header: ManifestHeader) -> None:
        if header.format != FORMAT:
            raise FormatError(f"manifests are written in format {FORMAT}, not {header.format}")
        check_header(header)
        self.header = header
        self.trailer: ManifestTrailer | None = None
        """What ``finish`` wrote, counts filled in."""
        self._tally = _Tally()
        compressor = zstandard.ZstdCompressor(
            level=_LEVEL, write_checksum=True, write_content_size=False, threads=0
        )
        self._stream = compressor.compressobj()
        self._head = self._stream.compress(_checked_lines([header]))

    def add(self, entries: Iterable[Entry]) -> bytes:
        """Append entries, in order. Returns the compressed bytes that are ready, often none.

        Raises :class:`FormatError` for an entry that no reader would accept;
        the writer is then unusable.
        """
        ready = [self._take_head()]
        tally, snapshot = self._tally, self.header.snapshot
        iterator = iter(entries)
        while batch := list(islice(iterator, _ENTRIES_AT_ONCE)):
            lines: list[Line] = []
            for entry in batch:
                tally.advance(entry.path)
                tally.count(entry)
                lines.append(line_of_entry(entry, snapshot))
            ready.append(self._stream.compress(_checked_lines(lines)))
        return b"".join(ready)

    def add_deleted(self, paths: Iterable[bytes]) -> bytes:
        """Append paths that the base has and this snapshot has not, in one order with the entries."""
        if self.header.base is None:
            raise FormatError("a manifest without a base cannot name deleted entries")
        ready = [self._take_head()]
        iterator = iter(paths)
        while batch := list(islice(iterator, _ENTRIES_AT_ONCE)):
            lines: list[Line] = []
            for path in batch:
                self._tally.advance(path)
                self._tally.deleted += 1
                lines.append(DeletedLine(escape_path(path)))
            ready.append(self._stream.compress(_checked_lines(lines)))
        return b"".join(ready)

    def finish(self, trailer: ManifestTrailer) -> bytes:
        """End the manifest. Returns the last bytes.

        All counts are filled in here, but with a ``base`` the four totals
        (files, folders, symlinks, bytes) are taken from ``trailer``.
        """
        tally = self._tally
        trailer = msgspec.structs.replace(
            trailer, entries=tally.entries, deleted=tally.deleted, failed=len(trailer.failures)
        )
        if self.header.base is None:
            trailer = msgspec.structs.replace(
                trailer,
                files=tally.files,
                folders=tally.folders,
                symlinks=tally.symlinks,
                bytes=tally.bytes,
            )
        ready = [self._take_head()]
        for start in range(0, len(trailer.failures), _ENTRIES_AT_ONCE):
            batch = trailer.failures[start : start + _ENTRIES_AT_ONCE]
            ready.append(self._stream.compress(_checked_lines(list(map(_failed_line, batch)))))
        end = EndLine(
            finished=trailer.finished_ns,
            entries=trailer.entries,
            deleted=trailer.deleted,
            failed=trailer.failed,
            files=trailer.files,
            folders=trailer.folders,
            symlinks=trailer.symlinks,
            bytes=trailer.bytes,
        )
        ready.append(self._stream.compress(_checked_lines([end])))
        ready.append(self._stream.flush())
        self.trailer = trailer
        return b"".join(ready)

    def _take_head(self) -> bytes:
        head, self._head = self._head, b""
        return head


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
        self._tally = _Tally()
        self._stream = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj(
            write_size=64 * 1024
        )
        self._frame_head = b""
        self._text = bytearray()
        self._line = 0
        self._failures: list[Failure] = []
        self._failed = 0
        self._closing = False
        """The failures or the trailer have begun: no entry may follow."""
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
        counted = (tally.entries, tally.deleted, self._failed)
        if counted != (end.entries, end.deleted, end.failed):
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
                path = unescape(line.path)
                tally.advance(path)
                entry = entry_of_line(line, path, header.snapshot)
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
            raise FormatError("an entry follows the failures")
        elif isinstance(line, DeletedLine):
            if self.header.base is None:
                raise FormatError("a deleted entry in a manifest without a base")
            path = unescape(line.path)
            self._tally.advance(path)
            self._tally.deleted += 1
            items.append(Deleted(path))

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


def _failed_line(failure: Failure) -> FailedLine:
    # Reasons quote the system's messages, which may hold undecodable bytes.
    reason = failure.reason[:MAX_REASON_CHARACTERS].encode(errors="backslashreplace").decode()
    return FailedLine(path=escape_path(failure.path), kind=failure.kind, reason=reason)


def _checked_lines(lines: Sequence[Line | ManifestHeader]) -> bytes:
    text = _encoder.encode_lines(lines)
    if len(text) > MAX_LINE_BYTES:
        for line in text.split(b"\n"):
            if len(line) >= MAX_LINE_BYTES:
                raise FormatError(f"a manifest line over {MAX_LINE_BYTES} bytes: {line[:200]!r}…")
    return text
