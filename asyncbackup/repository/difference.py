"""What became of one path between two snapshots."""

from __future__ import annotations

import enum

import msgspec

from asyncbackup.model import Entry, Kind


class Change(enum.StrEnum):
    """What became of a path."""

    ADDED = "added"
    REMOVED = "removed"
    CONTENT = "content"
    METADATA = "metadata"
    TYPE = "type"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One path that two snapshots do not have alike. ``fields`` names what differs of one that both have."""

    path: bytes
    change: Change
    before: Entry | None
    after: Entry | None
    fields: tuple[str, ...] = ()


def difference_of(before: Entry | None, after: Entry | None) -> Difference | None:
    """What became of one path that at least one snapshot has; ``None`` where nothing did.

    A file differs in content if its size or digest does, a symlink if its
    target does. Metadata are mode, owners, extended attributes, the names of
    an inode, and the mtime; not that of folders, which tells of nothing but
    their entries.
    """
    if after is None:
        assert before is not None, "a path is in one snapshot at least"
        return Difference(path=before.path, change=Change.REMOVED, before=before, after=None)
    if before is None:
        return Difference(path=after.path, change=Change.ADDED, before=None, after=after)
    if before.kind is not after.kind:
        return Difference(path=after.path, change=Change.TYPE, before=before, after=after, fields=("type",))
    content = _content_fields(before, after)
    fields = content + _metadata_fields(before, after)
    if not fields:
        return None
    change = Change.CONTENT if content else Change.METADATA
    return Difference(path=after.path, change=change, before=before, after=after, fields=fields)


def _content_fields(before: Entry, after: Entry) -> tuple[str, ...]:
    if before.kind is Kind.SYMLINK:
        return ("target",) if before.target != after.target else ()
    if before.kind is Kind.FOLDER:
        return ()
    if before.size != after.size:
        return ("size", "content")
    if before.sha256 and after.sha256:
        return ("content",) if before.sha256 != after.sha256 else ()
    # Without a digest, another place is all that tells of another content.
    return ("content",) if before.extent != after.extent else ()


def _metadata_fields(before: Entry, after: Entry) -> tuple[str, ...]:
    different = {
        "mode": before.mode != after.mode,
        "uid": before.uid != after.uid,
        "gid": before.gid != after.gid,
        "owner": before.owner != after.owner,
        "group": before.group != after.group,
        "mtime": before.kind is not Kind.FOLDER and before.mtime_ns != after.mtime_ns,
        "xattrs": sorted(before.xattrs) != sorted(after.xattrs),
        "links": before.hardlink != after.hardlink,
    }
    return tuple(name for name, differs in different.items() if differs)
