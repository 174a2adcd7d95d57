"""Entries as a selection stores them: one compact value a row, since restore looks at all of it or nothing.

What restore has no use for is left out: owner and group names (owners are
restored by number), ``ctime``, and the checksum of the object.
"""

from __future__ import annotations

import msgspec

from asyncbackup.catalog.rows import time_to_sql
from asyncbackup.errors import CatalogError
from asyncbackup.model import Entry, Extent, Kind, kind_of_mode


class _Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    path: bytes
    mode: int
    size: int
    mtime_ns: int | str
    uid: int
    gid: int
    nlink: int
    sha256: bytes
    target: bytes
    hardlink: str
    sparse: bool
    xattrs: tuple[tuple[bytes, bytes], ...]
    run: str = ""
    key: str = ""
    offset: int = 0
    length: int = 0
    encrypted: bool = False
    compression: str = ""
    skip: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)


def packed_extent(entry: Entry) -> Extent | None:
    """Where in a pack the content lies; ``None`` if there is nothing to fetch, or it lies elsewhere."""
    extent = entry.extent
    if entry.kind is Kind.FILE and entry.size > 0 and extent is not None and extent.in_pack:
        return extent
    return None


def stored_entry(entry: Entry) -> bytes:
    """The entry as it is stored. Raises ``OverflowError`` and ``UnicodeEncodeError`` for values no
    file system has."""
    extent = entry.extent
    mtime_ns = time_to_sql(entry.mtime_ns)
    assert isinstance(mtime_ns, int | str)
    common = (
        entry.path,
        entry.mode,
        entry.size,
        mtime_ns,
        entry.uid,
        entry.gid,
        entry.nlink,
        entry.sha256,
        entry.target,
        entry.hardlink,
        entry.sparse,
        entry.xattrs,
    )
    if extent is None:
        return _encoder.encode(_Stored(*common))
    return _encoder.encode(
        _Stored(
            *common,
            extent.run,
            extent.key,
            extent.offset,
            extent.length,
            extent.encrypted,
            extent.compression,
            extent.skip,
        )
    )


def entry_of_stored(body: bytes) -> Entry:
    """The inverse of :func:`stored_entry`. Raises ``CatalogError``."""
    try:
        stored = _decoder.decode(body)
        kind = kind_of_mode(stored.mode)
    except (msgspec.DecodeError, ValueError) as error:
        raise CatalogError(
            f"the stored selection is damaged ({error}); "
            "remove it from 'restores' in state_dir and restore again"
        ) from error
    extent = None
    if stored.run:
        extent = Extent(
            stored.run,
            stored.key,
            stored.length,
            stored.offset,
            "",
            0,
            stored.encrypted,
            stored.compression,
            stored.skip,
        )
    return Entry(
        path=stored.path,
        kind=kind,
        mode=stored.mode,
        size=stored.size,
        mtime_ns=int(stored.mtime_ns),
        uid=stored.uid,
        gid=stored.gid,
        nlink=stored.nlink,
        sha256=stored.sha256,
        target=stored.target,
        hardlink=stored.hardlink,
        sparse=stored.sparse,
        xattrs=stored.xattrs,
        extent=extent,
    )
