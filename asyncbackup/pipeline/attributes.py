"""From ``stat`` to an entry: owner and group names, extended attributes, hard-link label.

Called in threads, for every new or changed entry.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
from functools import lru_cache
from typing import TypeAlias

from asyncbackup.format.escape import escape_name
from asyncbackup.model import Entry, Kind, SourceEntry, kind_of_mode

Xattrs: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Names and values, sorted by name."""

RACY_WINDOW_NS = 20_000_000
"""Clock ticks of common kernels are 1 to 10 ms: within this time of a change, a further one may
leave no trace in the times."""

_NO_XATTRS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


@lru_cache(maxsize=4096)
def owner_name(uid: int) -> str:
    """The user's name, escaped; ``""`` where this machine knows none."""
    try:
        return escape_name(os.fsencode(pwd.getpwuid(uid).pw_name))
    except (KeyError, OverflowError):
        return ""


@lru_cache(maxsize=4096)
def group_name(gid: int) -> str:
    """The group's name, escaped; ``""`` where this machine knows none."""
    try:
        return escape_name(os.fsencode(grp.getgrgid(gid).gr_name))
    except (KeyError, OverflowError):
        return ""


def read_xattrs(where: int | bytes) -> Xattrs:
    """All extended attributes (POSIX ACLs among them), sorted by name.

    ``where`` is a descriptor, or a path whose last component is not followed.
    Raises ``OSError``; a file system without attributes has none.
    """
    if not hasattr(os, "listxattr"):
        return ()
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()
    found: list[tuple[bytes, bytes]] = []
    for name in names:
        try:
            found.append((os.fsencode(name), os.getxattr(where, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno != errno.ENODATA:  # removed since it was listed
                raise
    return tuple(sorted(found))


def entry_of_source(
    seen: SourceEntry,
    *,
    looked_ns: int,
    xattrs: Xattrs,
    sha256: bytes = b"",
    target: bytes = b"",
) -> Entry:
    """The entry to be saved, without its extent.

    ``looked_ns`` is the time at which ``seen`` was true, or earlier. A ctime
    then so young that a further change might leave it as it is is saved as 0,
    so that the next run looks again.
    """
    kind = kind_of_mode(seen.mode)
    racy = kind is Kind.FILE and looked_ns - seen.ctime_ns < RACY_WINDOW_NS
    linked = kind is not Kind.FOLDER and seen.nlink > 1
    return Entry(
        path=seen.path,
        kind=kind,
        mode=seen.mode,
        size=seen.size if kind is Kind.FILE else 0,
        mtime_ns=seen.mtime_ns,
        ctime_ns=0 if racy else seen.ctime_ns,
        uid=seen.uid,
        gid=seen.gid,
        nlink=seen.nlink if kind is not Kind.FOLDER else 0,
        owner=owner_name(seen.uid),
        group=group_name(seen.gid),
        sha256=sha256,
        target=target,
        hardlink=f"{seen.dev:x}:{seen.ino:x}" if linked else "",
        sparse=kind is Kind.FILE and seen.blocks * 512 < seen.size,
        xattrs=xattrs,
        dev=seen.dev,
        ino=seen.ino,
    )
