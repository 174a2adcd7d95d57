"""The figures of one prune."""

from __future__ import annotations

import msgspec

REPACK_BELOW_PERCENT = 50.0
"""The default: writing a pack anew then costs less than it frees."""


class PruneSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a prune did to a section; of a dry run, what it would do.

    ``snapshots`` are those that stay, ``snapshots_removed`` the forgotten ones
    whose manifests are gone. Objects and bytes are of data and manifests,
    marks do not count. ``bytes_written`` are of packs that were written anew.
    """

    section: str
    prune: str
    snapshots: int
    snapshots_removed: int
    objects_deleted: int
    bytes_deleted: int
    packs_rewritten: int = 0
    bytes_written: int = 0
    manifests_rewritten: int = 0
    requests: dict[str, int]
    elapsed_seconds: float
    dry_run: bool = False


class PruneCounters:
    """Live figures of a prune, for a display that polls."""

    __slots__ = ("manifests_read", "manifests_total", "objects_deleted", "objects_listed", "objects_total")

    def __init__(self) -> None:
        self.manifests_read = 0
        self.manifests_total = 0
        self.objects_listed = 0
        self.objects_total = 0
        """Objects to delete; 0 until that is known."""
        self.objects_deleted = 0
