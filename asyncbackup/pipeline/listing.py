"""What the walker tells: entries by folder, in bounded chunks."""

from __future__ import annotations

import msgspec

from asyncbackup.model import Failure, SourceEntry


class FolderChunk(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Entries of one folder, sorted by name: all with ``after`` < name ≤ ``upto``.

    ``None`` leaves a side open, so a chunk with neither bound is a folder as a whole.
    ``unknown`` are names that are there but could not be looked at: they are neither changed
    nor deleted.
    """

    folder: bytes
    entries: tuple[SourceEntry, ...]
    unknown: tuple[bytes, ...] = ()
    after: bytes | None = None
    upto: bytes | None = None


class WalkBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What one thread hop found. ``unlisted`` are folders that could not be read: nothing is
    known of what lies below them. ``special`` are entries of kinds that are ignored (FIFOs,
    sockets, devices), ``excluded`` counts what the patterns left out."""

    chunks: tuple[FolderChunk, ...]
    unlisted: tuple[Failure, ...]
    special: tuple[bytes, ...]
    excluded: int
