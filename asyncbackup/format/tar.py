"""Headers of tar members, as every reader of tar takes them (docs/format.md, "Packs").

Written by hand instead of by ``tarfile``, which needs 60 µs a member. What a
ustar header has room for stands there as raw bytes, since nobody converts
those: bsdtar refuses names in extended headers that the locale cannot show,
and GNU tar complains about ``hdrcharset``. Longer names are GNU's ``L`` and
``K``, which all know, and in an extended header too where they are ASCII.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from zlib import adler32

from asyncbackup.model import Kind

if TYPE_CHECKING:
    from asyncbackup.model import Entry

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
"""What an archive ends with."""
MAX_EXTENDED_BYTES = 1024 * 1024
"""Go's archive/tar refuses larger extended headers and long names. What a manifest has room for is less."""

_NAME_BYTES = 100
_PREFIX_BYTES = 155
_USER_NAME_BYTES = 31
_MAX_ID = 0o7777777
_MAX_SECONDS = 8**11 - 1
_SECOND = 1_000_000_000
# Times from 2001 on that fit the header's field: their seconds have ten digits.
_FIRST_USUAL_NS = 10**9 * _SECOND
_LAST_USUAL_NS = _MAX_SECONDS * _SECOND
_COPY = b"28 comment=asyncbackup copy\n"
_ZEROS = bytes(BLOCK_BYTES)
# GNU tar takes "%3D" and "%25" in a name for escapes, and every other "%" for itself.
_XATTR_SPECIAL = re.compile(rb"=|%(?=3D|25)")


def member_header(entry: Entry, *, link_to: bytes = b"", copy: bool = False) -> bytes:
    """All blocks that stand before the content of ``entry``, a whole number of them.

    With ``link_to``, the path of a member before it, the entry is a hard link
    and has no content; if it is a ``copy``, a comment says so. Raises
    :class:`ValueError` if the entry's extended attributes have more than 1 MiB.
    """
    path = entry.path
    link = link_to
    size = 0
    if link_to:
        kind = b"1"
    elif entry.kind is Kind.FILE:
        kind = b"0"
        size = entry.size
    elif entry.kind is Kind.SYMLINK:
        kind = b"2"
        link = entry.target
    else:
        kind = b"5"
    if entry.kind is Kind.FOLDER:
        path = path + b"/" if path else b"./"

    mtime_ns, ctime_ns = entry.mtime_ns, entry.ctime_ns
    seconds, fraction = divmod(mtime_ns, _SECOND)
    if (
        fraction
        and _FIRST_USUAL_NS <= mtime_ns <= _LAST_USUAL_NS
        and _FIRST_USUAL_NS <= ctime_ns <= _LAST_USUAL_NS
    ):
        # Each record has 30 bytes, which it begins by saying.
        records = b"30 mtime=%d.%09d\n30 ctime=%d.%09d\n" % (seconds, fraction, *divmod(ctime_ns, _SECOND))
    else:
        records = b""
        if fraction or not 0 <= seconds <= _MAX_SECONDS:
            records = _record(b"mtime", _time(mtime_ns))
            seconds = min(max(seconds, 0), _MAX_SECONDS)
        if ctime_ns:
            records += _record(b"ctime", _time(ctime_ns))

    prefix = long_names = b""
    name = path
    if len(path) > _NAME_BYTES:
        prefix, name = _split(path)
        if not name:
            name = path[:_NAME_BYTES].rstrip(b"/")
            long_names = _long_name(b"L", path)
            if path.isascii():
                records += _record(b"path", path)
    if len(link) > _NAME_BYTES:
        long_names += _long_name(b"K", link)
        if link.isascii():
            records += _record(b"linkpath", link)
        link = link[:_NAME_BYTES]

    identity, names, identity_records = _identity(
        entry.mode & 0o7777, entry.uid, entry.gid, entry.owner, entry.group
    )
    records += identity_records
    if copy:
        records += _COPY
    if entry.xattrs:
        records += b"".join(
            _record(b"SCHILY.xattr." + _xattr_name(name), value) for name, value in entry.xattrs
        )
    head = name.ljust(_NAME_BYTES, b"\0") + identity + b"%011o\0%011o\0" % (size, seconds)
    header = _block(head, kind, link, names, prefix)
    if records:
        return extended_header(b"x", records) + long_names + header
    return long_names + header


def padding(size: int) -> bytes:
    """The zeros that fill the last block of a content of ``size`` bytes."""
    return _ZEROS[: -size & 511]


def comment_header(text: bytes) -> bytes:
    """A global header that holds nothing but a comment, which readers pass over."""
    return extended_header(b"g", _record(b"comment", text))


def extended_header(kind: bytes, records: bytes) -> bytes:
    """An extended (``x``) or global (``g``) header of ``records``, header block included.

    Raises :class:`ValueError` if the records have more than 1 MiB.
    """
    size = len(records)
    if size > MAX_EXTENDED_BYTES:
        raise ValueError(f"an extended header of {size} bytes, more than readers of tar take")
    if size <= BLOCK_BYTES:
        return _extended_block(kind, size) + records.ljust(BLOCK_BYTES, b"\0")
    return _extended_block(kind, size) + records + padding(size)


def _block(head: bytes, kind: bytes, link: bytes, names: bytes, prefix: bytes) -> bytes:
    """The header block whose first 148 bytes are ``head``."""
    tail, tail_sum = _plain_tail(kind, names, prefix) if not link else _tail(kind, link, names, prefix)
    return head + b"%06o\0 " % (_byte_sum(head) + tail_sum) + tail


def _tail(kind: bytes, link: bytes, names: bytes, prefix: bytes) -> tuple[bytes, int]:
    """What follows the checksum's field, and its share of the sum, that field's eight spaces included."""
    tail = b"".join(
        (
            kind,
            link.ljust(_NAME_BYTES, b"\0"),
            b"ustar\x0000",
            names,
            b"0000000\x000000000\0",
            prefix.ljust(_PREFIX_BYTES + 12, b"\0"),
        )
    )
    return tail, sum(tail) + 8 * ord(" ")


@lru_cache(maxsize=4096)
def _plain_tail(kind: bytes, names: bytes, prefix: bytes) -> tuple[bytes, int]:
    """The same for all files of one owner in one folder."""
    return _tail(kind, b"", names, prefix)


def _byte_sum(head: bytes) -> int:
    # Adler-32's lower half is one more than the sum, which 148 bytes keep below its modulus.
    return (adler32(head) & 0xFFFF) - 1


@lru_cache(maxsize=4096)
def _identity(mode: int, uid: int, gid: int, owner: str, group: str) -> tuple[bytes, bytes, bytes]:
    """The fields of mode and ids, those of the names, and the records of what does not fit.

    An id that does not fit is the largest one there: 0 would be root. A name
    that fits nowhere (not ASCII and over 31 bytes) is left out, its id counts.
    """
    fields = b"%07o\0%07o\0%07o\0" % (mode, min(uid, _MAX_ID), min(gid, _MAX_ID))
    records = names = b""
    for key, number in ((b"uid", uid), (b"gid", gid)):
        if number > _MAX_ID:
            records += _record(key, b"%d" % number)
    for key, text in ((b"uname", owner), (b"gname", group)):
        name = text.encode(errors="surrogateescape")
        if len(name) > _USER_NAME_BYTES:
            if name.isascii():
                records += _record(key, name)
            name = b""
        names += name.ljust(_USER_NAME_BYTES + 1, b"\0")
    return fields, names, records


@lru_cache(maxsize=1024)
def _extended_block(kind: bytes, size: int) -> bytes:
    name = b"pax_global_header" if kind == b"g" else b"././@PaxHeader"
    return _special_block(name, kind, size)


def _long_name(kind: bytes, name: bytes) -> bytes:
    """GNU's header for the name (``L``) or the link's target (``K``) of the member that follows."""
    size = len(name) + 1
    if size > MAX_EXTENDED_BYTES:
        raise ValueError(f"a name of {size} bytes, more than readers of tar take")
    return _special_block(b"././@LongLink", kind, size) + name + b"\0" + padding(size)


def _special_block(name: bytes, kind: bytes, size: int) -> bytes:
    head = name.ljust(_NAME_BYTES, b"\0") + b"0000644\x000000000\x000000000\0%011o\x0000000000000\0" % size
    return _block(head, kind, b"", bytes(64), b"")


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Prefix and name that a header has room for, cut at a slash; both empty if there is no such slash."""
    slash = path.find(b"/", len(path) - _NAME_BYTES - 1, len(path) - 1)
    if 0 < slash <= _PREFIX_BYTES:
        return path[:slash], path[slash + 1 :]
    return b"", b""


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE`` and a line feed; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    size = rest + len(str(rest))
    size = rest + len(str(size))
    return b"%d %b=%b\n" % (size, key, value)


def _time(ns: int) -> bytes:
    """Seconds with nine digits of fraction; the sign is of the whole number."""
    return b"%b%d.%09d" % (b"-" if ns < 0 else b"", *divmod(abs(ns), _SECOND))


def _xattr_name(name: bytes) -> bytes:
    """A name in which no ``=`` is left to end it, escaped so that GNU tar finds it again."""
    if b"=" in name or b"%" in name:
        return _XATTR_SPECIAL.sub(lambda match: b"%%%02X" % match[0][0], name)
    return name
