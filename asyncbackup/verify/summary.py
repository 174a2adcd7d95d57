"""What a verification found, and how far it has come."""

from __future__ import annotations

import msgspec

from asyncbackup.model import RunId

DAMAGES_IN_SUMMARY = 1000
"""So many damaged objects are kept in memory; all of them are told one by one."""
PATHS_IN_DAMAGE = 100


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """One object that is missing or not what the manifests say.

    ``key`` is relative to the destination. ``paths`` are the first of the
    ``files`` paths that the object carries, in whichever of ``snapshots``; a
    damaged manifest carries whole snapshots and names no paths. Of a pack it is
    the files whose content in it is lost, which may be none.
    """

    key: str
    reason: str
    files: int = 0
    paths: tuple[bytes, ...] = ()
    snapshots: tuple[str, ...] = ()


class VerifySummary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one verification of one section.

    ``objects`` and ``bytes`` are what the manifests name, each object once and
    as stored; of them ``objects_read`` and ``bytes_read`` were read.
    ``damaged_objects`` counts all damage, manifests included, ``damaged``
    names the first of it; of ``broken_snapshots`` not even a manifest can be
    read. ``notes`` are sentences for the user.

    Of a repair ``files_to_save`` is how many files it had saved again, and
    ``files_lost`` how many of the damaged ones are nowhere any more, as they
    were; ``lost`` names the first of them by their objects.
    """

    section: str
    snapshots: int
    objects: int
    bytes: int
    objects_read: int
    bytes_read: int
    damaged_objects: int
    damaged: tuple[Damage, ...]
    requests: dict[str, int]
    elapsed_seconds: float
    broken_snapshots: tuple[RunId, ...] = ()
    files_to_save: int = 0
    files_lost: int = 0
    lost: tuple[Damage, ...] = ()
    notes: tuple[str, ...] = ()


class VerifyCounters:
    """Live figures of a verification: it adds, a display polls."""

    __slots__ = (
        "bytes_read",
        "current_snapshot",
        "damaged_objects",
        "objects_checked",
        "objects_read",
        "objects_total",
        "snapshots_read",
        "snapshots_total",
    )

    def __init__(self) -> None:
        self.snapshots_total = 0
        self.snapshots_read = 0
        self.current_snapshot: RunId | None = None
        self.objects_total = 0
        """0 until every manifest was read."""
        self.objects_checked = 0
        self.objects_read = 0
        self.bytes_read = 0
        self.damaged_objects = 0
