"""Writing manifests (docs/format.md, "Manifests")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
import zstandard

from asyncbackup.errors import FormatError
from asyncbackup.format.escape import escape_path
from asyncbackup.format.manifest_entries import line_of_entry, line_of_pack
from asyncbackup.format.manifest_lines import (
    FORMAT,
    MAX_LINE_BYTES,
    MAX_REASON_CHARACTERS,
    DeletedLine,
    EndLine,
    FailedLine,
    Line,
    ManifestHeader,
    ManifestTrailer,
    check_header,
)
from asyncbackup.format.manifest_order import Tally

if TYPE_CHECKING:
    from asyncbackup.model import Entry, Failure, Pack

# Most of a manifest is digests, which do not compress: on real trees level 1 gives the smallest
# output of all up to 12, besides being the fastest (tools/bench_format.py).
_LEVEL = 1
_ENTRIES_AT_ONCE = 1000

_encoder = msgspec.json.Encoder()


class ManifestWriter:
    """Makes a manifest. The bytes that ``add`` and ``finish`` return, joined, are the object's plaintext."""

    def __init__(self, header: ManifestHeader) -> None:
        if header.format != FORMAT:
            raise FormatError(f"manifests are written in format {FORMAT}, not {header.format}")
        check_header(header)
        self.header = header
        self.trailer: ManifestTrailer | None = None
        """What ``finish`` wrote, counts filled in."""
        self._tally = Tally()
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

    def add_packs(self, packs: Iterable[Pack]) -> bytes:
        """Append packs in the order of (run, key), after all entries and deleted paths."""
        ready = [self._take_head()]
        iterator = iter(packs)
        while batch := list(islice(iterator, _ENTRIES_AT_ONCE)):
            self._tally.packs += len(batch)
            lines: list[Line] = [line_of_pack(pack, self.header.snapshot) for pack in batch]
            ready.append(self._stream.compress(_checked_lines(lines)))
        return b"".join(ready)

    def finish(self, trailer: ManifestTrailer) -> bytes:
        """End the manifest. Returns the last bytes.

        All counts are filled in here, but with a ``base`` the four totals
        (files, folders, symlinks, bytes) are taken from ``trailer``.
        """
        tally = self._tally
        trailer = msgspec.structs.replace(
            trailer,
            entries=tally.entries,
            deleted=tally.deleted,
            packs=tally.packs,
            failed=len(trailer.failures),
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
            packs=trailer.packs,
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
