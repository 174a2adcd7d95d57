"""What a rebuild found, and how far it has come."""

from __future__ import annotations

import msgspec

UNRECOVERED_IN_SUMMARY = 1000
"""So many names are kept in memory; all of them are told one by one."""


class Unrecovered(msgspec.Struct, frozen=True, kw_only=True):
    """One object whose entry could not be recovered, or only in part.

    ``key`` is relative to the destination, ``path`` the entry's where the key
    tells it. ``lost`` is false where the entry is there without some of what
    it had.
    """

    key: str
    reason: str
    path: bytes | None = None
    lost: bool = True


class RebuildSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one rebuild of one section's database.

    ``source`` is ``manifests`` or ``objects``; ``snapshot`` the one that the
    database now stands on: the newest readable one, or the one that was made
    from the objects. ``unrecovered_objects`` counts what is not or not
    wholly in it, ``unrecovered`` names the first of that. ``notes`` are
    sentences for the user.
    """

    section: str
    source: str
    snapshot: str
    snapshots: int
    files: int
    folders: int
    symlinks: int
    bytes: int
    unrecovered_objects: int
    unrecovered: tuple[Unrecovered, ...]
    requests: dict[str, int]
    elapsed_seconds: float
    notes: tuple[str, ...] = ()


class RebuildCounters:
    """Live figures of a rebuild: it adds, a display polls."""

    __slots__ = ("entries", "objects_asked", "objects_listed", "unrecovered_objects")

    def __init__(self) -> None:
        self.objects_listed = 0
        self.objects_asked = 0
        self.entries = 0
        """Entries that were put into the database."""
        self.unrecovered_objects = 0
