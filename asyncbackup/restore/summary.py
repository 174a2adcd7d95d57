"""What a restore counts while it runs and tells at its end."""

from __future__ import annotations

import msgspec

from asyncbackup.model import Failure


class RestoreCounters:
    """Live figures of a restore; all additions happen on the event loop, a display polls.

    ``files_*`` count regular files, hard links included. The totals are known
    once the selection is made, 0 before. ``bytes_done`` is the part of
    ``bytes_total`` that is settled (restored, found in place, left alone or
    given up), and what large files under way have received.
    """

    __slots__ = (
        "bytes_done",
        "bytes_downloaded",
        "bytes_restored",
        "bytes_total",
        "current_path",
        "files_failed",
        "files_restored",
        "files_resumed",
        "files_skipped",
        "files_total",
        "folders",
        "hardlinks",
        "retries",
        "symlinks",
    )

    def __init__(self) -> None:
        self.files_total = 0
        self.bytes_total = 0
        self.bytes_done = 0
        self.files_restored = 0
        self.files_resumed = 0
        self.files_skipped = 0
        self.files_failed = 0
        self.folders = 0
        self.symlinks = 0
        self.hardlinks = 0
        self.bytes_restored = 0
        self.bytes_downloaded = 0
        self.retries = 0
        self.current_path = b""

    def begin_again(self) -> None:
        """Count entries anew; what was transferred stays counted."""
        self.bytes_done = 0
        self.files_restored = self.files_resumed = self.files_skipped = self.files_failed = 0
        self.folders = self.symlinks = self.hardlinks = 0


class RestoreSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one finished restore; the ``summary`` line of ``--json``.

    ``files_*`` count regular files: restored + resumed + skipped + failed are
    all that were selected. ``files_resumed`` had been restored by an earlier,
    interrupted restore (or before a prune was found to have moved the rest) and
    were found in place; ``files_skipped`` were left
    alone as ``--overwrite`` says; ``hardlinks`` are those among the restored
    that were made by linking. ``bytes_restored`` is content written,
    ``bytes_downloaded`` bodies received, as stored. ``requests`` counts by S3
    operation. Anything that was not restored exactly is in ``failures``;
    ``notes`` are sentences about what was left out on purpose.
    """

    section: str
    snapshot: str
    target: str
    files_restored: int
    files_resumed: int
    files_skipped: int
    files_failed: int
    folders: int
    symlinks: int
    hardlinks: int
    bytes_restored: int
    bytes_downloaded: int
    requests: dict[str, int]
    elapsed_seconds: float
    peak_inflight_bytes: int
    dry_run: bool = False
    notes: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    failures_total: int = 0
    """How many there were; ``failures`` names the first 10,000 met, sorted by path."""

    @property
    def complete(self) -> bool:
        """Whether everything that was selected is now in place exactly (exit code 0, else 4)."""
        return not self.failures_total
