"""Owner, attributes, mode and times of restored entries, set through descriptors only.

Owners are restored by number, as ``rsync --numeric-ids`` does: names may mean
somebody else on another machine. Somebody who is not root cannot give files
away, so the owner stays theirs there, which is noted and no failure.

What lets a file act as somebody is restored only when asked for
(``privileged``), whoever restores, since a bucket may hold what somebody else
put there: a file's ``setuid`` and ``setgid``, ``security.*`` attributes
(capabilities among them) and ``trusted.*`` ones. The set-id bits are then
restored where the owner they would act for is: always as root, otherwise if it
is the user's own. A folder's ``setgid`` only says which group new files belong
to, and is restored without being asked for.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

import msgspec

from asyncbackup.format.escape import escape_name
from asyncbackup.model import Kind

if TYPE_CHECKING:
    from asyncbackup.model import Entry

P = ParamSpec("P")

PRIVILEGED_PREFIXES = (b"security.", b"trusted.")
_OWN_PREFIXES = (b"user.", b"system.posix_acl_")
"""What is removed from an existing folder if the snapshot does not have it."""
_SET_ID = stat.S_ISUID | stat.S_ISGID
_MAX_ID = 2**32 - 2
CLOCK_NS = 2_000_000_000
"""The coarsest clock of a file system (FAT's)."""

_HAS_PROC = hasattr(os, "O_PATH") and os.path.isdir("/proc/self/fd")
_HAS_XATTRS = sys.platform == "linux"
_NOT_SUPPORTED = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_ABSENT = frozenset({getattr(errno, "ENODATA", -1), getattr(errno, "ENOATTR", -1)})


class Note:
    """Names of what was left out on purpose, for counting; the sentences are in ``tally.py``."""

    OWNER = "owner"
    SET_ID = "set_id"
    SET_ID_UNASKED = "set_id_unasked"
    PRIVILEGED = "privileged"
    CLOCK = "clock"
    LINK_COPIED = "link_copied"
    UNCHECKED = "unchecked"
    UNDESCRIBED = "undescribed"


class Privileges(msgspec.Struct, frozen=True, kw_only=True):
    """What this process may restore. ``groups`` are those it may give files to."""

    root: bool
    uid: int
    groups: frozenset[int]
    privileged: bool

    @classmethod
    def of_process(cls, *, privileged: bool) -> Privileges:
        """The privileges of this process, ``privileged`` as the user asked."""
        return cls(
            root=os.geteuid() == 0,
            uid=os.geteuid(),
            groups=frozenset((os.getegid(), *os.getgroups())),
            privileged=privileged,
        )


class Applied:
    """What could not be kept (``problems``, one sentence each), and what was left out on purpose."""

    __slots__ = ("notes", "problems")

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notes: dict[str, int] = {}

    def note(self, name: str) -> None:
        """Count something that was left out on purpose."""
        self.notes[name] = self.notes.get(name, 0) + 1


class NewFiles(msgspec.Struct, frozen=True):
    """What a file has that was just made in some folder: the owner, and nothing but that if ``bare``
    (a default ACL gives it attributes)."""

    uid: int
    gid: int
    bare: bool

    @classmethod
    def like(cls, descriptor: int) -> NewFiles:
        """What new files have where ``descriptor`` was made. Raises ``OSError``."""
        status = os.fstat(descriptor)
        return cls(status.st_uid, status.st_gid, not _HAS_XATTRS or _is_bare(descriptor))

    def need_nothing_of(self, entry: Entry) -> bool:
        """Whether a new file is the entry already but for its mode and time."""
        return (
            self.bare
            and entry.uid == self.uid
            and entry.gid == self.gid
            and not entry.mode & _SET_ID
            and not entry.xattrs
        )


def apply_to_new_file(descriptor: int, entry: Entry, privileges: Privileges, new: NewFiles) -> Applied:
    """As :func:`apply_to_descriptor`, for a file that was made in a folder whose files are ``new``:
    what it has already is looked at, not set."""
    if not new.need_nothing_of(entry):
        return apply_to_descriptor(descriptor, entry, privileges, bare=new.bare)
    applied = Applied()
    timed = _attempt(applied, "time", _set_times, descriptor, entry.mtime_ns)
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
        # Somebody has changed meanwhile what the folder's files belong to.
        return apply_to_descriptor(descriptor, entry, privileges)
    if stat.S_IMODE(status.st_mode) != stat.S_IMODE(entry.mode):
        _attempt(applied, "mode", os.fchmod, descriptor, stat.S_IMODE(entry.mode))
    if timed:
        _compare_times(status, entry, applied)
    return applied


def apply_to_descriptor(
    descriptor: int, entry: Entry, privileges: Privileges, *, bare: bool = False
) -> Applied:
    """Give an open file or folder the metadata of ``entry``, times last. ``bare`` are those of which
    it is known that they have no attributes that would have to be removed.

    What fails is a problem in the result, and the rest is applied all the same.
    """
    applied = Applied()
    mode = _apply_owner(descriptor, entry, privileges, applied)
    if _HAS_XATTRS:
        _apply_xattrs(descriptor, entry, privileges, applied, bare=bare)
    elif entry.xattrs:
        applied.problems.append("this system has no extended attributes")
    # After the owner: chown takes setuid and setgid away. After the ACL: the mode holds its mask.
    _attempt(applied, "mode", os.fchmod, descriptor, mode)
    _apply_times(descriptor, entry, applied)
    return applied


def apply_to_symlink(name: bytes, folder: int, entry: Entry, privileges: Privileges) -> Applied:
    """Give the symlink ``name`` in an open folder the metadata of ``entry``.

    Raises ``OSError`` if no symlink stands there any more.
    """
    applied = Applied()
    if not _HAS_PROC:
        _apply_symlink_owner(name, folder, entry, privileges, applied)
        try:
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            applied.problems.append(f"time: {error.strerror}")
        return applied
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISLNK(status.st_mode):
            raise OSError(errno.EEXIST, "the symlink was replaced while it was being restored")
        # The descriptor's own name leads to the symlink itself, not through it, so what
        # somebody puts under the symlink's name meanwhile is not touched.
        itself = f"/proc/self/fd/{descriptor}"
        _apply_symlink_owner(itself, None, entry, privileges, applied)
        _apply_symlink_xattrs(itself, entry, privileges, applied)
        _attempt(applied, "time", _set_times, itself, entry.mtime_ns)
    finally:
        os.close(descriptor)
    return applied


def _set_times(target: int | str, mtime_ns: int) -> None:
    os.utime(target, ns=(mtime_ns, mtime_ns))


def _apply_owner(descriptor: int, entry: Entry, privileges: Privileges, applied: Applied) -> int:
    """Set the owner; the mode bits that may then be set."""
    mode = stat.S_IMODE(entry.mode)
    if not privileges.privileged and mode & (acting := _acting_bits(entry)):
        mode &= ~acting
        applied.note(Note.SET_ID_UNASKED)
    if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
        applied.problems.append(f"owner {entry.uid}:{entry.gid} is no owner")
        return mode & ~_SET_ID
    if privileges.root:
        if _attempt(applied, "owner", os.fchown, descriptor, entry.uid, entry.gid):
            return mode
        return mode & ~_SET_ID
    status = os.fstat(descriptor)
    own_gid = status.st_gid == entry.gid
    if not own_gid and entry.gid in privileges.groups:
        own_gid = _attempt(applied, "group", os.fchown, descriptor, -1, entry.gid)
    own_uid = status.st_uid == entry.uid
    if not (own_uid and own_gid):
        applied.note(Note.OWNER)
    allowed = mode
    if not own_uid:
        allowed &= ~stat.S_ISUID
    if not (own_gid and entry.gid in privileges.groups):
        allowed &= ~stat.S_ISGID
    if allowed != mode:
        applied.note(Note.SET_ID)
    return allowed


def _acting_bits(entry: Entry) -> int:
    """The mode bits with which whoever uses the entry acts as its owner or group."""
    return stat.S_ISUID if entry.kind is Kind.FOLDER else stat.S_ISUID | stat.S_ISGID


def _apply_symlink_owner(
    name: bytes | str, folder: int | None, entry: Entry, privileges: Privileges, applied: Applied
) -> None:
    follow = folder is None  # the descriptor's name leads to the symlink itself
    if not privileges.root:
        status = os.stat(name, dir_fd=folder, follow_symlinks=follow)
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            applied.note(Note.OWNER)
        return
    if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
        applied.problems.append(f"owner {entry.uid}:{entry.gid} is no owner")
        return
    try:
        os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=follow)
    except OSError as error:
        applied.problems.append(f"owner: {error.strerror}")


def _apply_symlink_xattrs(itself: str, entry: Entry, privileges: Privileges, applied: Applied) -> None:
    for name, value in entry.xattrs:
        if name.startswith(PRIVILEGED_PREFIXES) and not privileges.privileged:
            applied.note(Note.PRIVILEGED)
            continue
        _attempt(applied, f"attribute {escape_name(name)}", os.setxattr, itself, name, value)


def _is_bare(descriptor: int) -> bool:
    """Whether there is no attribute that would be removed if the snapshot did not have it."""
    try:
        return not any(os.fsencode(name).startswith(_OWN_PREFIXES) for name in os.listxattr(descriptor))
    except OSError as error:
        return error.errno in _NOT_SUPPORTED


def _apply_xattrs(
    descriptor: int, entry: Entry, privileges: Privileges, applied: Applied, *, bare: bool
) -> None:
    names: list[str] = []
    if not bare:
        try:
            names = os.listxattr(descriptor)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                applied.problems.append(f"attributes: {error.strerror}")
    if not names and not entry.xattrs:
        return
    wanted = dict(entry.xattrs)
    present = [os.fsencode(name) for name in names]
    for name in present:
        # A new file inherits its folder's default ACL; an existing folder may have anything.
        if name not in wanted and name.startswith(_OWN_PREFIXES):
            _attempt(applied, f"attribute {escape_name(name)}", _remove_xattr, descriptor, name)
    for name, value in wanted.items():
        if name.startswith(PRIVILEGED_PREFIXES) and not privileges.privileged:
            applied.note(Note.PRIVILEGED)
            continue
        _attempt(applied, f"attribute {escape_name(name)}", os.setxattr, descriptor, name, value)


def _remove_xattr(descriptor: int, name: bytes) -> None:
    try:
        os.removexattr(descriptor, name)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def _apply_times(descriptor: int, entry: Entry, applied: Applied) -> None:
    if _attempt(applied, "time", _set_times, descriptor, entry.mtime_ns):
        _compare_times(os.fstat(descriptor), entry, applied)


def _compare_times(status: os.stat_result, entry: Entry, applied: Applied) -> None:
    kept_ns = status.st_mtime_ns
    if kept_ns == entry.mtime_ns:
        return
    if abs(kept_ns - entry.mtime_ns) < CLOCK_NS:
        applied.note(Note.CLOCK)
    else:
        applied.problems.append("time: the target's file system has no such date")


def _attempt(
    applied: Applied, what: str, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs
) -> bool:
    try:
        call(*args, **kwargs)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such value on this system"
        applied.problems.append(f"{what}: {reason}")
        return False
    return True
