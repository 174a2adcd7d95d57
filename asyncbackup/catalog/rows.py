"""Between entries and rows of the ``entries`` table."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from asyncbackup.model import Entry, Extent, Pending, join_path, kind_of_mode, split_path

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
    (
        folder, name, _, mode, size, mtime_ns, ctime_ns, uid, gid, nlink, owner, group, sha256, target,
        hardlink, sparse, xattrs, run, key, offset, length, checksum, part_size, encrypted, compression,
        skip, dev, ino,
    ) = row  # fmt: skip
    extent = None
    if run is not None:
        extent = Extent(
            run=_text(run),
            key=_text(key),
            offset=_int(offset),
            length=_int(length),
            checksum=_text(checksum),
            part_size=_int(part_size),
            encrypted=bool(encrypted),
            compression=_text(compression),
            skip=_int(skip),
        )
    return Entry(
        path=join_path(_bytes(folder), _bytes(name)),
        kind=kind_of_mode(_int(mode)),
        mode=_int(mode),
        size=_int(size),
        mtime_ns=_int(mtime_ns),
        ctime_ns=_int(ctime_ns),
        uid=_int(uid),
        gid=_int(gid),
        nlink=_int(nlink),
        owner=_text(owner),
        group=_text(group),
        sha256=_bytes(sha256),
        target=_bytes(target),
        hardlink=_text(hardlink),
        sparse=bool(sparse),
        xattrs=() if xattrs is None else _xattrs_decoder.decode(_bytes(xattrs)),
        extent=extent,
        dev=_int(dev) % _UINT64,
        ino=_int(ino) % _UINT64,
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
