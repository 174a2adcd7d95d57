"""What a restore would do, found out without changing anything (``--dry-run``)."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncbackup.catalog.selection import Role, SelectedEntry, State
from asyncbackup.format.escape import escape_path
from asyncbackup.model import Kind
from asyncbackup.restore.outcome import Outcome, failed, skipped
from asyncbackup.restore.overwrite import Overwrite, looks_same

if TYPE_CHECKING:
    from asyncbackup.restore.tree import TargetTree

log = logging.getLogger(__name__)


def forecast(rows: Sequence[SelectedEntry], tree: TargetTree | None, overwrite: Overwrite) -> list[Outcome]:
    """The outcomes that the rows would have, downloads and writes succeeding. ``tree`` is ``None``
    where the target does not exist yet. Each is logged. Blocks."""
    outcomes: list[Outcome] = []
    for row in rows:
        outcome = _forecast(row, tree, overwrite)
        if outcome is not None:
            what = "would skip" if outcome.state is State.SKIPPED else "would restore"
            if outcome.state is State.FAILED:
                what = "could not restore"
            log.info("%s %s %s", what, row.entry.kind, escape_path(row.entry.path) or ".")
            outcomes.append(outcome)
    return outcomes


def _forecast(row: SelectedEntry, tree: TargetTree | None, overwrite: Overwrite) -> Outcome | None:
    entry = row.entry
    try:
        status = None if tree is None else tree.status(entry.path)
        if entry.kind is Kind.FOLDER:
            return _forecast_folder(row, status, overwrite)
        if status is not None and tree is not None:
            if overwrite is Overwrite.NEVER:
                return skipped(row)
            if overwrite is Overwrite.CHANGED and looks_same(status, entry):
                return skipped(row)
            if stat.S_ISDIR(status.st_mode) and not _is_empty(tree, entry.path):
                return failed(row, "a folder that is not empty stands in its place")
    except OSError as error:
        return failed(row, error.strerror or str(error))
    linked = row.role is Role.LINK
    size = 0 if linked or entry.kind is not Kind.FILE else entry.size
    return Outcome(row=row, state=State.DONE, bytes_written=size, linked=linked)


def _forecast_folder(
    row: SelectedEntry, status: os.stat_result | None, overwrite: Overwrite
) -> Outcome | None:
    if status is not None and overwrite is Overwrite.NEVER and not stat.S_ISDIR(status.st_mode):
        return failed(row, "a folder belongs here, but something else stands in its place")
    if status is not None and (row.implied or overwrite is Overwrite.NEVER):
        return None
    return Outcome(row=row, state=State.DONE)


def _is_empty(tree: TargetTree, path: bytes) -> bool:
    with tree.open_folder(path) as descriptor, os.scandir(descriptor) as entries:
        return next(iter(entries), None) is None
