"""Sums up outcomes: counters, notes, named failures, and marks in the stored selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from asyncbackup.catalog.selection import Role, Selection, State
from asyncbackup.model import Failure, Kind
from asyncbackup.restore.metadata import Note

if TYPE_CHECKING:
    from asyncbackup.restore.outcome import Outcome
    from asyncbackup.restore.summary import RestoreCounters

MARKS_AT_ONCE = 512
"""Rows marked in one transaction; a killed restore repeats at most these."""
FAILURES_NAMED = 10_000
"""Failures kept for the summary; the rest is counted only, so that memory stays bounded."""

_SENTENCES = {
    Note.OWNER: "{n} entries kept the restoring user's owner or group: only root may give files to others",
    Note.SET_ID: "{n} entries lost their setuid or setgid bit, which would have acted for another owner",
    Note.SET_ID_UNASKED: (
        "{n} entries were restored without their setuid or setgid bit; restore with --privileged to have them"
    ),
    Note.PRIVILEGED: (
        "{n} security.* or trusted.* attributes (capabilities among them) were left out; "
        "restore with --privileged to have them"
    ),
    Note.CLOCK: "{n} modification times were rounded to what the target's file system keeps",
    Note.LINK_COPIED: "{n} hard links became files of their own: the target's file system cannot link them",
    Note.UNDESCRIBED: "{n} folders that the snapshot does not describe were made with mode 0700",
    Note.UNCHECKED: "{n} files were restored unchecked: the snapshot holds no SHA-256 of them",
}


class Tally:
    """The sums of one restore. Outcomes are added on the event loop."""

    def __init__(self, selection: Selection, counters: RestoreCounters) -> None:
        self.counters = counters
        self.failures: list[Failure] = []
        self.failures_total = 0
        self._selection = selection
        self._notes: Counter[str] = Counter()
        self._marks: list[tuple[int, State]] = []

    async def add(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes in; now and then they are written to the selection."""
        for outcome in outcomes:
            self._count(outcome)
            if outcome.row.state is not outcome.state:
                self._marks.append((outcome.row.id, outcome.state))
        if len(self._marks) >= MARKS_AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        """Write what is known to the selection."""
        marks, self._marks = self._marks, []
        if marks:
            await self._selection.mark(marks)

    def note(self, name: str, count: int = 1) -> None:
        """Count something that was left out on purpose."""
        self._notes[name] += count

    def sentences(self) -> tuple[str, ...]:
        """The notes as sentences for the user."""
        notes = [text.format(n=self._notes[name]) for name, text in _SENTENCES.items() if self._notes[name]]
        more = self.failures_total - len(self.failures)
        if more:
            notes.append(f"{more} further failures are not named here; restore again to see what is left")
        return tuple(notes)

    def _count(self, outcome: Outcome) -> None:
        counters, kind = self.counters, outcome.row.entry.kind
        counters.bytes_restored += outcome.bytes_written
        if kind is Kind.FILE and outcome.row.role is not Role.LINK:
            counters.bytes_done += outcome.row.entry.size
        if outcome.notes:
            self._notes.update(outcome.notes)
        if outcome.state is State.FAILED:
            self._fail(outcome)
        elif outcome.resumed:
            counters.files_resumed += kind is Kind.FILE
        elif outcome.state is State.SKIPPED:
            counters.files_skipped += kind is Kind.FILE
        elif kind is Kind.FILE:
            counters.files_restored += 1
            counters.hardlinks += outcome.linked
        elif kind is Kind.FOLDER:
            counters.folders += 1
        else:
            counters.symlinks += 1

    def _fail(self, outcome: Outcome) -> None:
        entry = outcome.row.entry
        self.counters.files_failed += entry.kind is Kind.FILE
        self.failures_total += 1
        if len(self.failures) < FAILURES_NAMED:
            self.failures.append(Failure(path=entry.path, reason=outcome.reason, kind=entry.kind))
