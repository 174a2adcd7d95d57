"""The dry run's stand-in for transfer and recorder: counts what they would do and does nothing."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from typing import Protocol

from asyncbackup.flow.channel import EndOfChannel, Receiver, Sender
from asyncbackup.model import Action, Change, Failure, Kind, Pending, RunCounters
from asyncbackup.pipeline.results import Buried, Outcome

BATCH_OUTCOMES = 2000


class BuriedCount(Protocol):
    """What the tally asks of the catalog's entries."""

    async def count_files_below(self, paths: Iterable[tuple[bytes, bool]]) -> int: ...


class Tally:
    """``bytes_to_upload`` is what the contents to be read have together; files of which only the
    ctime moved are counted as changed, since only reading them would tell. ``on_change`` sees every
    change, also of folders and symlinks."""

    def __init__(
        self,
        entries: BuriedCount,
        counters: RunCounters,
        *,
        on_change: Callable[[Change], None] | None = None,
    ) -> None:
        self.failures: list[Failure] = []
        self.bytes_to_upload = 0
        self._entries = entries
        self._counters = counters
        self._on_change = on_change

    async def count_changes(self, changes: Receiver[list[Change]], outcomes: Sender[Outcome]) -> None:
        """Take changes instead of a transfer."""
        with changes, outcomes:
            async for batch in changes:
                for change in batch:
                    self.count_change(change)

    def count_change(self, change: Change) -> None:
        """One change that a run would look at."""
        if self._on_change is not None:
            self._on_change(change)
        if not stat.S_ISREG(change.entry.mode):
            return
        if change.pending is Pending.NEW:
            self._counters.files_new += 1
        else:
            self._counters.files_changed += 1
        if change.action in (Action.UPLOAD, Action.RECHECK):
            self.bytes_to_upload += change.entry.size

    async def count_outcomes(self, outcomes: Receiver[Outcome]) -> None:
        """Take outcomes instead of a recorder."""
        with outcomes:
            while True:
                try:
                    batch = await outcomes.receive_some(BATCH_OUTCOMES)
                except EndOfChannel:
                    return
                buried = [(item.path, item.subtree) for item in batch if isinstance(item, Buried)]
                if buried:
                    self._counters.files_deleted += await self._entries.count_files_below(buried)
                for item in batch:
                    if isinstance(item, Failure):
                        self.failures.append(item)
                        if item.kind is Kind.FILE:
                            self._counters.files_failed += 1
