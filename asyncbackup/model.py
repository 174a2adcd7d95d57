"""The values that cross stages: what was seen, what shall be done, what was done.

Paths are ``bytes`` relative to the section's root, ``/``-separated, without a
leading or trailing slash; ``b""`` is the root itself. They are split into
``folder`` and ``name`` where entries are stored or compared by folder: the
children of the root have ``folder == b""``, the root has both empty.

Times are integers in nanoseconds since 1970 (negative before), sizes integers
in bytes. Structs are msgspec's because they are built once a file.
"""

from __future__ import annotations

import enum
import hashlib
import stat
from collections import Counter
from typing import TYPE_CHECKING, NewType

import msgspec

if TYPE_CHECKING:
    import os

RunId = NewType("RunId", str)
"""``20261122T195000Z-3fa2``: UTC start time and four random hex digits; sorts by time."""

ObjectKey = NewType("ObjectKey", str)
"""A key relative to the destination, e.g. ``home/data/RUN/files/docs/report.pdf``."""

EMPTY_SHA256 = hashlib.sha256().digest()
"""The digest of an empty content."""


class Kind(enum.StrEnum):
    """What an entry of a tree is; every other kind of file is ignored."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"


class Action(enum.IntEnum):
    """What the transfer has to do for one changed entry."""

    UPLOAD = 1
    """Read the content (or target), upload it as a new object."""
    RECHECK = 2
    """Nothing but the ctime moved: read, and upload only if the content differs."""
    METADATA = 3
    """Mode, owner, group or times moved: record, upload no content."""
    LINK = 4
    """A further name of an inode whose content another entry carries."""
    MOVED = 5
    """A new path of an inode that another row knows: take its content over, or read after all."""


_READING = (Action.UPLOAD, Action.RECHECK)


class Pending(enum.IntEnum):
    """How a catalog row differs from the last committed snapshot."""

    COMMITTED = 0
    NEW = 1
    CHANGED = 2
    DELETED = 3


class Extent(msgspec.Struct, frozen=True, gc=False):
    """Where a content lies: a whole object, or a range of a pack.

    ``key`` is relative to ``SECTION/data/RUN/``. Of a whole object ``offset``
    is 0 and ``length`` its stored size (for an encrypted object, header and
    message included). Of a pack they address its bytes before sealing. What
    is there is opened if ``encrypted``, then expanded if ``compression`` is
    ``"zstd"``; the content begins ``skip`` bytes into the result.

    ``checksum`` is the S3 checksum of a whole object: the base64 SHA-256, or
    for multipart the composite ``base64-N``; that of a pack is in its
    :class:`Pack`. ``part_size`` is the stored size of all parts but the last,
    0 for a single PUT.
    """

    run: str
    key: str
    length: int
    offset: int = 0
    checksum: str = ""
    part_size: int = 0
    encrypted: bool = False
    compression: str = ""
    skip: int = 0

    @property
    def in_pack(self) -> bool:
        """Whether the content is a member of a pack, not an object of its own."""
        return self.key.startswith(PACKS)


PACKS = "packs/"
"""What the keys of packs begin with, relative to their run's folder."""

ZSTD = "zstd"
"""The only ``compression`` besides none."""


class Pack(msgspec.Struct, frozen=True, gc=False):
    """One pack as it is stored: ``size`` and ``checksum`` are of the object, sealed where ``encrypted``."""

    run: str
    key: str
    size: int
    checksum: str = ""
    encrypted: bool = False
    compression: str = ""


class Content(msgspec.Struct, frozen=True, gc=False):
    """A content that is stored: its SHA-256, its size before compression, and where it lies."""

    sha256: bytes
    size: int
    extent: Extent


class SourceEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the source tree as ``lstat`` saw it. ``mode`` holds the type bits."""

    folder: bytes
    name: bytes
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    uid: int
    gid: int
    nlink: int
    dev: int
    ino: int
    blocks: int

    @property
    def path(self) -> bytes:
        return join_path(self.folder, self.name)

    @property
    def kind(self) -> Kind:
        return kind_of_mode(self.mode)


def source_entry(folder: bytes, name: bytes, status: os.stat_result) -> SourceEntry:
    """The entry that ``lstat``, or ``fstat``, saw."""
    return SourceEntry(
        folder,
        name,
        status.st_mode,
        status.st_size if not stat.S_ISDIR(status.st_mode) else 0,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_dev,
        status.st_ino,
        getattr(status, "st_blocks", 0),
    )


class Entry(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One path of a snapshot: all that restore needs. The row of a manifest and of the catalog.

    ``sha256`` is the digest of the content (files only, also empty ones).
    ``hardlink`` labels the group of names that share one inode, ``""`` for a
    file with one name. ``xattrs`` are raw names and values, POSIX ACLs among
    them as ``system.posix_acl_*``. ``ctime_ns`` serves change detection only
    and is 0 where unknown. ``dev`` and ``ino`` find moved files again; they
    are the catalog's alone and 0 in what a manifest gives.
    """

    path: bytes
    kind: Kind
    mode: int
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    uid: int = 0
    gid: int = 0
    nlink: int = 0
    owner: str = ""
    group: str = ""
    sha256: bytes = b""
    target: bytes = b""
    hardlink: str = ""
    sparse: bool = False
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    extent: Extent | None = None
    dev: int = 0
    ino: int = 0


class Change(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One entry that the transfer has to look at. ``known`` is its row, if any, and
    ``known_pending`` how that differs from the last snapshot (an interrupted run may have saved it)."""

    entry: SourceEntry
    action: Action
    pending: Pending
    known: Entry | None = None
    known_pending: Pending = Pending.COMMITTED
    link_to: Entry | None = None
    """``Action.LINK``: the entry that carries the content, if it is saved already. ``Action.MOVED``: the
    row that knows the inode."""
    first_path: bytes = b""
    """``Action.LINK`` only: the path of the entry that carries the content."""

    @property
    def content_bytes(self) -> int:
        """How many bytes of content are read for it, if the file is as it was listed."""
        entry = self.entry
        return entry.size if self.action in _READING and stat.S_ISREG(entry.mode) else 0


class UploadReceipt(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What became durable at the destination for one change."""

    entry: Entry
    pending: Pending
    bytes_read: int = 0
    bytes_uploaded: int = 0


class Failure(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One source entry that was not saved, and why. ``path`` as in the model."""

    path: bytes
    reason: str
    kind: Kind = Kind.FILE
    bytes_read: int = 0


class RunCounters:
    """Live figures of a run; the engine's stages add, a display polls. Not thread-safe by design:
    all additions happen on the event loop."""

    __slots__ = (
        "bytes_read",
        "bytes_scanned",
        "bytes_total",
        "bytes_unchanged",
        "bytes_uploaded",
        "current_path",
        "files_changed",
        "files_deleted",
        "files_failed",
        "files_ignored",
        "files_new",
        "files_scanned",
        "files_total",
        "files_unchanged",
        "folders",
        "retries",
        "symlinks",
    )

    def __init__(self) -> None:
        self.files_scanned = 0
        self.files_new = 0
        self.files_changed = 0
        self.files_unchanged = 0
        self.files_deleted = 0
        self.files_failed = 0
        self.files_ignored = 0
        self.symlinks = 0
        self.folders = 0
        self.bytes_scanned = 0
        self.bytes_unchanged = 0
        self.bytes_read = 0
        self.bytes_uploaded = 0
        self.retries = 0
        self.current_path = b""
        # Filled by the counting scan that runs beside a live display; 0 = not known yet.
        self.files_total = 0
        self.bytes_total = 0


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one finished run of one section; the ``summary`` line of ``--json``."""

    section: str
    snapshot: str
    files_scanned: int
    files_new: int
    files_changed: int
    files_unchanged: int
    files_deleted: int
    files_failed: int
    files_ignored: int
    symlinks: int
    folders: int
    bytes_scanned: int
    bytes_read: int
    bytes_uploaded: int
    requests: dict[str, int]
    elapsed_seconds: float
    peak_inflight_bytes: int
    limited_by: str
    limited_by_shares: dict[str, float]
    concurrency: dict[str, int] = {}
    """``final``: the requests that were allowed at once at the end; ``peak``: the most there were."""
    dry_run: bool = False
    bytes_to_upload: int = 0
    """Of a dry run: the sizes of the files that a run would read and upload."""
    host: str = ""
    base: str = ""
    """The snapshot that the manifest is a difference to; empty where it is full."""
    manifest_bytes: int = 0
    """The manifest's size as stored."""
    failures: tuple[Failure, ...] = ()


RequestCounts = Counter[str]
"""S3 operation name → number of requests sent, retries included."""

_S_IFMT = 0o170000
_KINDS = {0o100000: Kind.FILE, 0o040000: Kind.FOLDER, 0o120000: Kind.SYMLINK}


def kind_of_mode(mode: int) -> Kind:
    """The kind that the type bits of ``st_mode`` name. Raises ``ValueError`` for every other type."""
    try:
        return _KINDS[mode & _S_IFMT]
    except KeyError:
        raise ValueError(f"mode {mode:o} is neither a file, a folder nor a symlink") from None


def join_path(folder: bytes, name: bytes) -> bytes:
    """The path of ``name`` in ``folder``; both empty give the root."""
    return folder + b"/" + name if folder else name


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """``(folder, name)`` of a path, the inverse of :func:`join_path`."""
    folder, _, name = path.rpartition(b"/")
    return folder, name
