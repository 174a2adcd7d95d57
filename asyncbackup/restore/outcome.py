"""What became of single entries, and the errors that end a restore as a whole."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.selection import SelectedEntry, State
from asyncbackup.errors import TargetError

if TYPE_CHECKING:
    from asyncbackup.restore.metadata import Applied

_TARGET_ERRORS = {
    errno.ENOSPC: "has no space left; free some",
    errno.EDQUOT: "has no space left within the quota; free some",
    errno.EROFS: "is mounted read-only; make it writable",
}
"""Errors that every other file would meet as well."""


class ContentError(Exception):
    """One content cannot be had as the manifest describes it. ``damaged`` tells that what came
    differs, which another download may heal."""

    def __init__(self, reason: str, *, damaged: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.damaged = damaged


class Outcome(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What became of one row. ``reason`` is set for ``State.FAILED``; ``bytes_written`` counts
    content, ``linked`` a hard link made, ``resumed`` what an earlier restore had done."""

    row: SelectedEntry
    state: State
    reason: str = ""
    bytes_written: int = 0
    linked: bool = False
    resumed: bool = False
    notes: dict[str, int] = {}


def done(row: SelectedEntry, applied: Applied, *, bytes_written: int = 0, linked: bool = False) -> Outcome:
    """The outcome of an entry that is in place, with all that could not be kept of its metadata."""
    if applied.problems:
        reason = f"restored, but not exactly: {'; '.join(applied.problems)}"
        return Outcome(
            row=row,
            state=State.FAILED,
            reason=reason,
            bytes_written=bytes_written,
            notes=applied.notes,
        )
    return Outcome(
        row=row,
        state=State.DONE,
        bytes_written=bytes_written,
        linked=linked,
        notes=applied.notes,
    )


def skipped(row: SelectedEntry) -> Outcome:
    """The outcome of an entry that was left as it was found."""
    return Outcome(row=row, state=State.SKIPPED)


def failed(row: SelectedEntry, reason: str) -> Outcome:
    """The outcome of an entry that could not be restored."""
    return Outcome(row=row, state=State.FAILED, reason=reason)


def failed_by(row: SelectedEntry, error: OSError, target: str) -> Outcome:
    """The outcome of an entry that ``error`` prevented.

    Raises ``TargetError`` for an error that the whole target is in.
    """
    advice = _TARGET_ERRORS.get(error.errno or 0)
    if advice is not None:
        raise TargetError(
            f"the target {target} {advice} and restore again with the same arguments: it goes on where it was"
        ) from error
    return failed(row, error.strerror or os.strerror(error.errno or errno.EIO))
