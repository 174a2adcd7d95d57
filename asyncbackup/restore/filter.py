"""Which entries of a snapshot are restored: paths asked for, and gitignore patterns."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from asyncbackup.errors import ConfigError
from asyncbackup.format.escape import escape_path
from asyncbackup.model import Entry, Kind

_NAMED_IN_ERRORS = 10


class Choice(enum.IntEnum):
    """What becomes of one entry."""

    OUT = 0
    SELECTED = 1
    CANDIDATE = 2
    """A folder that is not restored itself, but in which something selected may lie."""


class EntryFilter:
    """Chooses the entries of one restore.

    An entry is selected if it is one of ``paths`` or lies below one, matches
    ``include`` (or lies in a folder that does) where there are any, and does
    not match ``exclude``. Paths are relative to the section's root, patterns
    are gitignore's.

    Raises ``ConfigError`` for a path outside the section and for a malformed pattern.
    """

    def __init__(
        self,
        *,
        paths: Sequence[bytes],
        include: Sequence[str],
        exclude: Sequence[str],
        root: Path,
    ) -> None:
        self.paths = tuple(sorted({_relative(path, root) for path in paths}))
        self._wanted = frozenset() if b"" in self.paths else frozenset(self.paths)
        self._below = tuple(path + b"/" for path in self._wanted)
        self._above = frozenset(folder for path in self._wanted for folder in _folders_above(path))
        self._include = _patterns("--include", include)
        self._exclude = _patterns("--exclude", exclude)
        self._matched: set[bytes] = set()

    @property
    def takes_all(self) -> bool:
        """Whether every entry of the snapshot is selected."""
        return not self._wanted and self._include is None and self._exclude is None

    def choose(self, entry: Entry) -> Choice:
        """What becomes of ``entry``; also notes which of the paths exist."""
        path = entry.path
        if self._wanted:
            if path in self._wanted:
                self._matched.add(path)
            elif not path.startswith(self._below):
                return Choice.CANDIDATE if path in self._above else Choice.OUT
        folder = entry.kind is Kind.FOLDER
        if not path:
            # Patterns name what is below the root, never the root.
            return Choice.SELECTED if self._include is None else Choice.CANDIDATE
        text = path.decode(errors="surrogateescape") + ("/" if folder else "")
        selected = (self._include is None or self._include.match_file(text)) and not (
            self._exclude is not None and self._exclude.match_file(text)
        )
        if selected:
            return Choice.SELECTED
        return Choice.CANDIDATE if folder else Choice.OUT

    def check_matched(self, *, selected: int, snapshot: str, section: str) -> None:
        """Raises ``ConfigError`` for paths that the snapshot did not have, or if nothing is selected."""
        missing = sorted(self._wanted - self._matched)
        where = f"snapshot {snapshot} of section {section!r}"
        if missing:
            shown = ", ".join(repr(escape_path(path)) for path in missing[:_NAMED_IN_ERRORS])
            more = f" and {len(missing) - _NAMED_IN_ERRORS} more" if len(missing) > _NAMED_IN_ERRORS else ""
            raise ConfigError(
                f"{where} holds no {shown}{more}; "
                f"'asyncbackup ls {section} --snapshot {snapshot}' shows what it holds"
            )
        if not selected and not self.takes_all:
            raise ConfigError(f"nothing in {where} matches the given --include and --exclude patterns")


def _relative(path: bytes, root: Path) -> bytes:
    """The entry's path that a user's argument means; ``b""`` for the root itself."""
    wanted = os.path.normpath(path) if path else b"."
    if wanted.startswith(b"/"):
        below = os.path.normpath(os.fsencode(root))
        if wanted != below and not wanted.startswith(below.rstrip(b"/") + b"/"):
            raise ConfigError(
                f"{escape_path(path)!r} is not below the section's path {root}; "
                "name paths as they were backed up, absolute or relative to it"
            )
        wanted = wanted[len(below.rstrip(b"/")) + 1 :] or b"."
    if wanted == b"..":
        wanted = b"../"
    if wanted.startswith(b"../") or b"\0" in wanted:
        raise ConfigError(f"{escape_path(path)!r} leads out of the section's path {root}")
    return b"" if wanted == b"." else wanted


def _folders_above(path: bytes) -> list[bytes]:
    folders = [b""]
    end = path.find(b"/")
    while end >= 0:
        folders.append(path[:end])
        end = path.find(b"/", end + 1)
    return folders


def _patterns(option: str, lines: Sequence[str]) -> GitIgnoreSpec | None:
    if not lines:
        return None
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}; patterns follow the rules of gitignore") from error
