"""Counting a tree beside its run, so that a display can tell how much is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.flow.workers import ThreadGate
from asyncbackup.pipeline.listing import totals_of
from asyncbackup.pipeline.walker import FolderLister, WalkSettings

if TYPE_CHECKING:
    from asyncbackup.model import RunCounters

FOLDERS_PER_HOP = 256


async def count_ahead(settings: WalkSettings, counters: RunCounters) -> None:
    """Set the totals of ``counters`` once the whole tree was listed. One thread, nothing is kept."""
    gate = ThreadGate("count", 1)
    files = size = 0
    pending = [b""]
    try:
        while pending:
            folders, pending = pending[-FOLDERS_PER_HOP:], pending[:-FOLDERS_PER_HOP]
            lister = FolderLister(settings, folders)
            while (batch := await gate.run(lister.next_batch)) is not None:
                for chunk in batch.chunks:
                    totals = totals_of(chunk.rows)
                    files += totals.files
                    size += totals.size
            pending += lister.found
    finally:
        gate.close(wait=False)
    counters.files_total, counters.bytes_total = files, size
