"""The lines of a manifest as msgspec structs, one a line type (docs/format.md, "Manifests").

Field names are those of the JSON. Types and ranges are checked in decoding;
what they mean is checked in ``manifest_entries`` and by the reader.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from asyncbackup.errors import FormatError
from asyncbackup.format.runid import is_run_id
from asyncbackup.model import Failure, Kind

FORMAT = 1
MAX_LINE_BYTES = 1024 * 1024
"""No line is longer, its line feed included. :func:`entry_fits` tells before one is made."""
MAX_DEPTH = 32
"""How many manifests a snapshot may need besides its own."""
MAX_REASON_CHARACTERS = 2000

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Id: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class Deleted(msgspec.Struct, frozen=True, gc=False):
    """A path that the base snapshot has and this one has not. A folder's children are named too."""

    path: bytes


class ManifestHeader(msgspec.Struct, frozen=True, kw_only=True, tag="manifest", tag_field="type"):
    """The first line. ``source`` is the escaped absolute path that was backed up.

    ``base`` is the run whose snapshot the lines change (``None``: the lines
    are all of the snapshot), ``depth`` bounds the number of manifests below this one.
    ``revision`` counts how often a prune wrote the manifest anew.
    ``plain`` vouches for manifests from before encryption: run → base64 SHA-256.
    ``requires`` names what a reader has to know beyond the format; there is
    nothing of that kind yet.
    """

    format: int = FORMAT
    snapshot: str
    section: str
    repository: str
    started_ns: int = msgspec.field(name="started")
    host: str = ""
    source: str = ""
    software: str = ""
    base: str | None = None
    depth: int = 0
    revision: int = 0
    plain: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    requires: tuple[str, ...] = ()


class ManifestTrailer(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest ends with.

    ``files``, ``folders``, ``symlinks`` and ``bytes`` (the files' sizes) are of
    the whole snapshot, ``entries`` and ``deleted`` count this manifest's lines,
    ``packs`` too, ``failed`` the entries that the run could not save. ``failures`` names
    those; a reader keeps the first 10,000.
    """

    finished_ns: int
    files: int = 0
    folders: int = 0
    symlinks: int = 0
    bytes: int = 0
    entries: int = 0
    deleted: int = 0
    packs: int = 0
    failed: int = 0
    failures: tuple[Failure, ...] = ()


class ExtentLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    run: str = ""
    key: str = ""
    offset: Count = 0
    length: Count
    checksum: str = ""
    part_size: Count = 0
    encrypted: bool = False
    compression: str = ""
    skip: Count = 0


class _Common(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag_field="type"):
    path: str
    mode: str
    size: Count
    mtime: int
    ctime: int = 0
    uid: _Id
    gid: _Id
    owner: str = ""
    group: str = ""
    nlink: Count = 0


class FileLine(_Common, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag="file"):
    sha256: str = ""
    hardlink: str = ""
    sparse: bool = False
    xattrs: dict[str, bytes] | None = None
    extent: ExtentLine


class FolderLine(_Common, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag="folder"):
    xattrs: dict[str, bytes] | None = None
    extent: ExtentLine | None = None


class SymlinkLine(_Common, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag="symlink"):
    target: str
    hardlink: str = ""
    xattrs: dict[str, bytes] | None = None
    extent: ExtentLine | None = None


class DeletedLine(msgspec.Struct, frozen=True, gc=False, tag="deleted", tag_field="type"):
    path: str


class PackLine(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag="pack", tag_field="type"
):
    run: str = ""
    key: str
    size: Count
    checksum: str = ""
    encrypted: bool = False
    compression: str = ""


class FailedLine(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="failed", tag_field="type"):
    path: str
    kind: Kind
    reason: str


class EndLine(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="end", tag_field="type"):
    finished: int
    entries: Count
    deleted: Count
    packs: Count = 0
    failed: Count
    files: Count
    folders: Count
    symlinks: Count
    bytes: Count


Line: TypeAlias = FileLine | FolderLine | SymlinkLine | DeletedLine | PackLine | FailedLine | EndLine


def check_header(header: ManifestHeader) -> None:
    """Raises :class:`FormatError` unless the header names runs and a bounded, strictly older base,
    and requires nothing that is not known here."""
    if header.requires:
        raise FormatError(
            f"{header.snapshot} requires {', '.join(header.requires)}; a newer asyncbackup is needed"
        )
    if not is_run_id(header.snapshot):
        raise FormatError(f"{header.snapshot!r} is not a run id")
    if header.base is None:
        valid = header.depth == 0
    else:
        # An older base for every difference is what rules out a circle.
        valid = is_run_id(header.base) and header.base < header.snapshot and 1 <= header.depth <= MAX_DEPTH
    if not valid:
        raise FormatError(f"{header.snapshot} cannot have the base {header.base!r} at depth {header.depth}")
