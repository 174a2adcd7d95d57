"""The way between a manifest's line and a model ``Entry`` (docs/format.md, "Manifests").

What is checked here is what one line can tell; paths, order, counts and the
line limit are the reader's and writer's.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from asyncbackup.errors import FormatError
from asyncbackup.format.envelope import sealed_size
from asyncbackup.format.escape import escape_path, unescape
from asyncbackup.format.keys import check_path, plain_key
from asyncbackup.format.manifest_lines import (
    MAX_LINE_BYTES,
    ExtentLine,
    FileLine,
    FolderLine,
    PackLine,
    SymlinkLine,
)
from asyncbackup.format.runid import is_run_id
from asyncbackup.model import PACKS, ZSTD, Entry, Extent, Kind, Pack, RunId, kind_of_mode

_MODE = re.compile(r"1?[0-7]{5}", re.ASCII)
_MAX_TIME_NS = 2**63 * 1_000_000_000


def entry_fits(entry: Entry) -> bool:
    """Whether a manifest has room for ``entry`` (cautiously: paths count as if all escaped).

    What does not fit (some 340 KiB of path, or 780 KiB of extended attributes)
    has to be a failure of that one file, since the manifest refuses it.
    """
    size = 3 * (len(entry.path) + len(entry.target)) + 8192
    for name, value in entry.xattrs:
        size += 3 * len(name) + len(value) * 4 // 3 + 16
    return size <= MAX_LINE_BYTES


def line_of_entry(entry: Entry, snapshot: str) -> FileLine | FolderLine | SymlinkLine:
    """The line of ``entry`` in the manifest of ``snapshot``.

    Raises :class:`FormatError` where no reader would accept the line.
    """
    text = escape_path(entry.path)
    kind = entry.kind
    mode = _mode_text(entry.mode)
    if _mode_kind(mode) is not kind:
        raise FormatError(f"{text!r}: mode {mode} is not that of a {kind}")
    extent = None
    if entry.extent is not None:
        extent = _extent_line(entry.extent, text, kind, snapshot)
        if kind is Kind.FILE:
            _check_length(extent, entry.size)
    xattrs = _xattr_texts(entry.xattrs) if entry.xattrs else None
    owner = escape_text(entry.owner)
    group = escape_text(entry.group)
    if kind is Kind.FILE:
        if extent is None:
            raise FormatError(f"{text!r}: the entry does not say where its content lies")
        return FileLine(
            path=text,
            mode=mode,
            size=entry.size,
            mtime=entry.mtime_ns,
            ctime=entry.ctime_ns,
            uid=entry.uid,
            gid=entry.gid,
            owner=owner,
            group=group,
            nlink=entry.nlink,
            sha256=entry.sha256.hex(),
            hardlink=escape_text(entry.hardlink) if entry.hardlink else "",
            sparse=entry.sparse,
            xattrs=xattrs,
            extent=extent,
        )
    if kind is Kind.FOLDER:
        return FolderLine(
            path=text,
            mode=mode,
            size=entry.size,
            mtime=entry.mtime_ns,
            ctime=entry.ctime_ns,
            uid=entry.uid,
            gid=entry.gid,
            owner=owner,
            group=group,
            nlink=entry.nlink,
            xattrs=xattrs,
            extent=extent,
        )
    return SymlinkLine(
        path=text,
        mode=mode,
        size=entry.size,
        mtime=entry.mtime_ns,
        ctime=entry.ctime_ns,
        uid=entry.uid,
        gid=entry.gid,
        owner=owner,
        group=group,
        nlink=entry.nlink,
        target=escape_path(entry.target),
        hardlink=escape_text(entry.hardlink) if entry.hardlink else "",
        xattrs=xattrs,
        extent=extent,
    )


def entry_of_line(
    line: FileLine | FolderLine | SymlinkLine, path: bytes, snapshot: str, *, revised: bool = False
) -> Entry:
    """The entry that ``line`` of the manifest of ``snapshot`` describes; ``path`` is its unescaped path.

    In a ``revised`` manifest contents may lie in later runs. Raises
    :class:`FormatError`. The path itself is checked by the reader.
    """
    mode = _mode_value(line.mode)
    if not -_MAX_TIME_NS < line.mtime < _MAX_TIME_NS or not -_MAX_TIME_NS < line.ctime < _MAX_TIME_NS:
        raise FormatError("a time is beyond 64-bit seconds")
    xattrs = _xattr_pairs(line.xattrs) if line.xattrs else ()
    if type(line) is FileLine:
        kind = Kind.FILE
        digest = bytes.fromhex(line.sha256)
        if len(digest) not in (0, 32) or len(line.sha256) != 2 * len(digest):
            raise FormatError(f"{line.sha256!r} is not a SHA-256")
        if _mode_kind(line.mode) is not kind:
            raise FormatError(f"mode {line.mode} is not that of a file")
        _check_length(line.extent, line.size)
        return Entry(
            path=path,
            kind=kind,
            mode=mode,
            size=line.size,
            mtime_ns=line.mtime,
            ctime_ns=line.ctime,
            uid=line.uid,
            gid=line.gid,
            nlink=line.nlink,
            owner=unescape_text(line.owner),
            group=unescape_text(line.group),
            sha256=digest,
            hardlink=unescape_text(line.hardlink) if line.hardlink else "",
            sparse=line.sparse,
            xattrs=xattrs,
            extent=_extent(line.extent, line.path, kind, snapshot, revised),
        )
    target, hardlink = b"", ""
    if isinstance(line, SymlinkLine):
        kind = Kind.SYMLINK
        target = unescape(line.target)
        hardlink = unescape_text(line.hardlink) if line.hardlink else ""
        if not target or b"\0" in target:
            raise FormatError(f"{line.target!r} cannot be a symlink's target")
    else:
        kind = Kind.FOLDER
    if _mode_kind(line.mode) is not kind:
        raise FormatError(f"mode {line.mode} is not that of a {kind}")
    return Entry(
        path=path,
        kind=kind,
        mode=mode,
        size=line.size,
        mtime_ns=line.mtime,
        ctime_ns=line.ctime,
        uid=line.uid,
        gid=line.gid,
        nlink=line.nlink,
        owner=unescape_text(line.owner),
        group=unescape_text(line.group),
        target=target,
        hardlink=hardlink,
        xattrs=xattrs,
        extent=None if line.extent is None else _extent(line.extent, line.path, kind, snapshot, revised),
    )


def line_of_pack(pack: Pack, snapshot: str) -> PackLine:
    """The line of ``pack`` in the manifest of ``snapshot``."""
    return PackLine(
        run="" if pack.run == snapshot else pack.run,
        key=pack.key,
        size=pack.size,
        checksum=pack.checksum,
        encrypted=pack.encrypted,
        compression=pack.compression,
    )


def pack_of_line(line: PackLine, snapshot: str, *, revised: bool = False) -> Pack:
    """The pack that ``line`` of the manifest of ``snapshot`` describes. Raises :class:`FormatError`."""
    run = _run_of(line.run, snapshot, revised)
    _checked_key(line.key)
    if not line.key.startswith(PACKS):
        raise FormatError(f"{line.key!r} cannot be the key of a pack")
    _check_compression(line.compression)
    return Pack(run, line.key, line.size, line.checksum, line.encrypted, line.compression)


def escape_text(text: str) -> str:
    """A text from the system (owner, group, label; undecodable bytes as surrogates), escaped like a name."""
    if text.isascii() and text.isprintable() and "%" not in text and "\\" not in text:
        return text
    return escape_path(text.encode(errors="surrogateescape"))


def unescape_text(text: str) -> str:
    """The inverse of :func:`escape_text`."""
    if "%" not in text:
        return text
    return unescape(text).decode(errors="surrogateescape")


def _extent_line(extent: Extent, text: str, kind: Kind, snapshot: str) -> ExtentLine:
    key = extent.key
    return ExtentLine(
        run="" if extent.run == snapshot else extent.run,
        key="" if key == plain_key(text, kind) else key,
        offset=extent.offset,
        length=extent.length,
        checksum=extent.checksum,
        part_size=extent.part_size,
        encrypted=extent.encrypted,
        compression=extent.compression,
        skip=extent.skip,
    )


def _extent(line: ExtentLine, text: str, kind: Kind, snapshot: str, revised: bool) -> Extent:
    run = _run_of(line.run, snapshot, revised)
    _check_compression(line.compression)
    key = line.key
    if key:
        _checked_key(key)
    else:
        key = plain_key(text, kind)
    return Extent(
        run,
        key,
        line.length,
        line.offset,
        line.checksum,
        line.part_size,
        line.encrypted,
        line.compression,
        line.skip,
    )


def _check_length(extent: ExtentLine, size: int) -> None:
    """What is neither compressed nor hidden has the length that its content has, sealed or not."""
    in_pack = extent.key.startswith(PACKS)
    if in_pack or not extent.encrypted:
        fits = bool(extent.compression) or (extent.length == size and not extent.skip)
    else:
        fits = not extent.offset and (
            bool(extent.compression) or extent.length == sealed_size(extent.skip + size)
        )
    if not fits:
        raise FormatError(
            f"{extent.length} stored bytes from {extent.offset} cannot be a content of {size} bytes"
        )


def _check_compression(compression: str) -> None:
    if compression not in ("", ZSTD):
        raise FormatError(f"the compression {compression!r} is not known; a newer asyncbackup is needed")


def _run_of(run: str, snapshot: str, revised: bool) -> str:
    """The run that a line names; the snapshot's own where it names none."""
    if not run:
        return snapshot
    if _checked_run(run) > snapshot and not revised:
        raise FormatError(f"something is said to be of the later run {run}")
    return _checked_run(run)


@lru_cache(maxsize=4096)
def _checked_run(run: str) -> RunId:
    """``run`` itself, the same object for equal ids, so that entries share one string."""
    if not is_run_id(run):
        raise FormatError(f"{run!r} is not a run id")
    return RunId(run)


def _checked_key(key: str) -> None:
    """Keys become paths at ``file://`` destinations, so the same traps are refused as in paths."""
    try:
        check_path(key.removesuffix("/").encode())
    except FormatError:
        raise FormatError(f"{key!r} cannot be the key of an object") from None


def _xattr_texts(xattrs: tuple[tuple[bytes, bytes], ...]) -> dict[str, bytes]:
    return {escape_path(name): value for name, value in xattrs}


def _xattr_pairs(xattrs: dict[str, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    pairs = tuple((unescape(name), value) for name, value in xattrs.items())
    if any(not name or b"\0" in name for name, _ in pairs):
        raise FormatError("an extended attribute has no usable name")
    return pairs


# At most 65,536 modes pass the checks (errors are not kept), which bounds these caches.
@cache
def _mode_text(mode: int) -> str:
    text = f"{mode:o}"
    _mode_kind(text)
    return text


@cache
def _mode_value(text: str) -> int:
    if _MODE.fullmatch(text) is None:
        raise FormatError(f"{text!r} is not an octal mode with its type bits")
    return int(text, 8)


@cache
def _mode_kind(text: str) -> Kind:
    try:
        return kind_of_mode(_mode_value(text))
    except ValueError as error:
        raise FormatError(str(error)) from None
