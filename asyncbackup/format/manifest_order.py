"""The order of a manifest's lines, and what they add up to; one rule for writer and reader."""

from __future__ import annotations

from asyncbackup.errors import FormatError
from asyncbackup.format.escape import escape_path
from asyncbackup.format.keys import NUL, check_path
from asyncbackup.model import Entry, Kind


class Tally:
    """Order and counts of the lines so far, the same for the writer and the reader."""

    __slots__ = ("_folder", "_name", "bytes", "deleted", "entries", "files", "folders", "packs", "symlinks")

    def __init__(self) -> None:
        self._folder = b""
        self._name: bytes | None = None
        self.entries = self.deleted = self.packs = self.files = self.folders = self.symlinks = self.bytes = 0

    def advance(self, path: bytes) -> None:
        """Take the next path. Raises :class:`FormatError` for a bad one, or one out of order or repeated."""
        folder, slash, name = path.rpartition(b"/")
        # The folder was checked with the entry before. "/a" alone looks like a child of the root.
        if folder == self._folder and (folder or not slash):
            if name in (b"", b".", b"..") or NUL in name:
                check_path(path)
            if self._name is not None and name <= self._name:
                raise FormatError(f"{escape_path(path)!r} is repeated or out of order")
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
