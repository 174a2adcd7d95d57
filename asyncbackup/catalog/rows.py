"""Between entries and rows of the ``entries`` table."""

from __future__ import annotations

from types import NoneType
from typing import TypeAlias, cast

import msgspec

from asyncbackup.model import Entry, Extent, Pending, kind_of_mode, split_path

EXTENT_COLUMNS = (
    "extent_run, extent_key, extent_offset, extent_length, extent_checksum, extent_part_size, "
    "extent_encrypted, extent_compression, extent_skip"
)
STAT_COLUMNS = "folder, name, pending, mode, size, mtime_ns, ctime_ns, uid, gid, nlink"
"""What a listing is compared with."""
COLUMNS = (
    f"{STAT_COLUMNS}, owner, group_name, sha256, target, hardlink, sparse, xattrs, {EXTENT_COLUMNS}, dev, ino"
)
PLACEHOLDERS = ", ".join("?" * len(COLUMNS.split(",")))

SqlValue: TypeAlias = int | str | bytes | None
Row: TypeAlias = tuple[SqlValue, ...]

# Positions that the change detector compares without building an Entry.
PENDING, MODE, SIZE, MTIME_NS, CTIME_NS, UID, GID, NLINK = range(2, 10)
DEV, INO = range(26, 28)

SAVE_AGAIN_NS = -(1 << 63)
"""A ctime (of the year 1677) that no file has. A row with it is saved again by the next run, whatever its
stat says: what it refers to was found damaged."""

_INT64 = 1 << 63
_UINT64 = 1 << 64
_xattrs_encoder = msgspec.msgpack.Encoder()
_xattrs_decoder = msgspec.msgpack.Decoder(tuple[tuple[bytes, bytes], ...])


def time_to_sql(time_ns: int) -> SqlValue:
    """An integer, or its decimal text where it exceeds SQLite's 64 bits (after 2262)."""
    return time_ns if -_INT64 <= time_ns < _INT64 else str(time_ns)


def signed(number: int) -> int:
    """A 64-bit number (an inode's, a device's) as SQLite's signed integers hold it."""
    return number - _UINT64 if number >= _INT64 else number


def row_of_extent(extent: Extent) -> Row:
    """The columns of an extent, in the order of ``EXTENT_COLUMNS``."""
    return (
        extent.run,
        extent.key,
        extent.offset,
        extent.length,
        extent.checksum,
        extent.part_size,
        int(extent.encrypted),
        extent.compression,
        extent.skip,
    )


def row_of_entry(entry: Entry, pending: Pending) -> Row:
    """The row of an entry, in the order of ``COLUMNS``."""
    folder, name = split_path(entry.path)
    extent = entry.extent
    return (
        folder,
        name,
        int(pending),
        entry.mode,
        entry.size,
        time_to_sql(entry.mtime_ns),
        time_to_sql(entry.ctime_ns),
        entry.uid,
        entry.gid,
        entry.nlink,
        entry.owner,
        entry.group,
        entry.sha256,
        entry.target,
        entry.hardlink,
        int(entry.sparse),
        _xattrs_encoder.encode(entry.xattrs) if entry.xattrs else None,
        *((None,) * 9 if extent is None else row_of_extent(extent)),
        signed(entry.dev),
        signed(entry.ino),
    )


def entry_of_row(row: Row) -> Entry:
    """The entry of a row in the order of ``COLUMNS``. Raises ``ValueError`` for a row no entry can have."""
    # Looking at all types at once takes a fifth of the time of looking at each.
    values = cast("_Values", row) if tuple(map(type, row)) in _USUAL_TYPES else _checked(row)
    (
        folder, name, _, mode, size, mtime_ns, ctime_ns, uid, gid, nlink, owner, group, sha256, target,
        hardlink, sparse, xattrs, run, key, offset, length, checksum, part_size, encrypted, compression,
        skip, dev, ino,
    ) = values  # fmt: skip
    extent = None
    if run is not None:
        extent = Extent(run, key, length, offset, checksum, part_size, bool(encrypted), compression, skip)
    return Entry(
        path=folder + b"/" + name if folder else name,
        kind=kind_of_mode(mode),
        mode=mode,
        size=size,
        mtime_ns=mtime_ns,
        ctime_ns=ctime_ns,
        uid=uid,
        gid=gid,
        nlink=nlink,
        owner=owner,
        group=group,
        sha256=sha256,
        target=target,
        hardlink=hardlink,
        sparse=bool(sparse),
        xattrs=() if xattrs is None else _xattrs_decoder.decode(xattrs),
        extent=extent,
        dev=dev % _UINT64,
        ino=ino % _UINT64,
    )


# Of an entry without an extent, all of that is None; its first column tells.
_Values: TypeAlias = tuple[
    bytes, bytes, int, int, int, int, int, int, int, int, str, str, bytes, bytes, str, int, bytes | None,
    str | None, str, int, int, str, int, int, str, int, int, int,
]  # fmt: skip
_BEFORE_XATTRS = (bytes,) * 2 + (int,) * 8 + (str,) * 2 + (bytes,) * 2 + (str, int)
_USUAL_TYPES = frozenset(
    (*_BEFORE_XATTRS, xattrs, *extent, int, int)
    for xattrs in (bytes, NoneType)
    for extent in ((str, str, int, int, str, int, int, str, int), (NoneType,) * 9)
)


def _checked(row: Row) -> _Values:
    """The values of a row in which SQLite kept something otherwise, a time beyond 2262 perhaps."""
    (
        folder, name, pending, mode, size, mtime_ns, ctime_ns, uid, gid, nlink, owner, group, sha256, target,
        hardlink, sparse, xattrs, run, key, offset, length, checksum, part_size, encrypted, compression,
        skip, dev, ino,
    ) = row  # fmt: skip
    return (
        _bytes(folder),
        _bytes(name),
        _int(pending),
        _int(mode),
        _int(size),
        _int(mtime_ns),
        _int(ctime_ns),
        _int(uid),
        _int(gid),
        _int(nlink),
        _text(owner),
        _text(group),
        _bytes(sha256),
        _bytes(target),
        _text(hardlink),
        _int(sparse),
        None if xattrs is None else _bytes(xattrs),
        *(
            (None, "", 0, 0, "", 0, 0, "", 0)
            if run is None
            else (
                _text(run),
                _text(key),
                _int(offset),
                _int(length),
                _text(checksum),
                _int(part_size),
                _int(encrypted),
                _text(compression),
                _int(skip),
            )
        ),
        _int(dev),
        _int(ino),
    )


def _int(value: SqlValue) -> int:
    if isinstance(value, bytes) or value is None:
        raise ValueError(f"a number is expected, not {value!r}")
    return int(value)


def _text(value: SqlValue) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text is expected, not {value!r}")
    return value


def _bytes(value: SqlValue) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"bytes are expected, not {value!r}")
    return value
