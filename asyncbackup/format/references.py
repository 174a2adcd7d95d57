"""References: entries of a pack whose content lies elsewhere (docs/format.md, "Packs")."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.format.manifest_entries import line_of_entry
from asyncbackup.format.tar import comment_header

if TYPE_CHECKING:
    from asyncbackup.format.manifest_lines import ExtentLine, FileLine, FolderLine, SymlinkLine
    from asyncbackup.model import Entry, Extent

INTRODUCTION = b"asyncbackup "
"""What tells our comments from those of others."""
MAX_COMMENT_BYTES = 65_536
"""The most that a global header holds."""

# "65536 comment=" before the text, a line feed after it.
_ROOM_BYTES = MAX_COMMENT_BYTES - 15 - len(INTRODUCTION)

_encoder = msgspec.json.Encoder()


class References:
    """Collects the references of one pack. ``size`` is what their lines have in bytes."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self._full: list[bytes] = []
        self._lines: list[bytes] = []
        self._room = _ROOM_BYTES

    def add(self, entry: Entry) -> bool:
        """Add ``entry``; ``False`` if it alone is larger than a global header.

        Raises :class:`ValueError` for an entry without an extent, and
        :class:`FormatError` where no reader would accept its line.
        """
        line = _encoder.encode(_line(entry)) + b"\n"
        if len(line) > _ROOM_BYTES:
            return False
        if len(line) > self._room:
            self._close()
        self._lines.append(line)
        self._room -= len(line)
        self.size += len(line)
        self.count += 1
        return True

    def headers(self) -> list[bytes]:
        """The global headers of all that were added."""
        self._close()
        return [comment_header(text) for text in self._full]

    def _close(self) -> None:
        if self._lines:
            self._full.append(INTRODUCTION + b"".join(self._lines))
            self._lines = []
            self._room = _ROOM_BYTES


def _line(entry: Entry) -> FileLine | FolderLine | SymlinkLine:
    """The manifest line of ``entry`` that can be understood without its manifest."""
    if entry.extent is None:
        raise ValueError(f"{entry.path!r}: a reference has to say where its content lies")
    line = line_of_entry(entry, "")
    extent: ExtentLine | None = line.extent
    assert extent is not None
    extent = msgspec.structs.replace(
        extent, key=entry.extent.key, checksum=_checksum(entry.extent, entry.sha256)
    )
    return msgspec.structs.replace(line, extent=extent)


def _checksum(extent: Extent, sha256: bytes) -> str:
    """The checksum of a whole object, also where a manifest leaves it to the content's digest."""
    plain = not (extent.in_pack or extent.encrypted or extent.compression or extent.part_size)
    return extent.checksum or (b64encode(sha256).decode() if plain else "")
