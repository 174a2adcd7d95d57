"""Headers of tar members, as every reader of tar takes them (docs/format.md, "Packs").

Written by hand: ``tarfile`` needs thirty times as long a member. What a
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

# Looking up a member of an enum costs as much as all else that a comparison does.
_FILE, _FOLDER = Kind.FILE, Kind.FOLDER
_NAME_BYTES = 100
_PREFIX_BYTES = 155
_USER_NAME_BYTES = 31
_MAX_ID = 0o7777777
_MAX_SECONDS = 8**11 - 1
_SECOND = 1_000_000_000
# Times from 2001 on that fit the header's field: their seconds have ten digits.
_FIRST_USUAL_NS = 10**9 * _SECOND
_LAST_USUAL_NS = _MAX_SECONDS * _SECOND
_ZEROS = bytes(BLOCK_BYTES)
# GNU tar takes "%3D" and "%25" in a name for escapes, and every other "%" for itself.
_XATTR_SPECIAL = re.compile(rb"=|%(?=3D|25)")


def member_header(entry: Entry, *, link_to: bytes = b"", copy: bool = False, run: str = "") -> bytes:
    """All blocks that stand before the content of ``entry``, a whole number of them.

    With ``link_to``, the path of a member before it, a file is a hard link and
    has no content; if it is a ``copy``, a comment says so. A further name of a
    symlink is a symlink of its own: tarfile and busybox would give mode and
    times of a link to it to what it points at. ``run`` is that of the member,
    where it is not the pack's own. Raises :class:`ValueError` if the entry's
    extended attributes have more than 1 MiB.
    """
    path = entry.path
    kind = entry.kind
    link = b""
    size = 0
    if kind is _FILE:
        if link_to:
            flag = b"1"
            link = link_to
        else:
            flag = b"0"
            size = entry.size
    elif kind is _FOLDER:
        flag = b"5"
        path = path + b"/" if path else b"./"
    else:
        flag = b"2"
        link = entry.target

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

    fields = _usual_fields(flag, entry.mode & 0o7777, entry.uid, entry.gid, entry.owner, entry.group)
    identity, identity_records, tail, tail_sum = fields
    if identity_records:
        records += identity_records
    if copy or run:
        records += _record(b"comment", _comment(copy=copy, run=run))
    if entry.xattrs:
        records += b"".join(
            [_record(b"SCHILY.xattr." + _xattr_name(name), value) for name, value in entry.xattrs]
        )
    if prefix or link:
        tail, tail_sum = _tail(flag, link, _names_of(tail), prefix)
    head = name.ljust(_NAME_BYTES, b"\0") + identity + b"%011o\0%011o\0" % (size, seconds)
    header = (head, b"%06o\0 " % (_byte_sum(head) + tail_sum), tail)
    if records:
        return b"".join((extended_header(b"x", records), long_names, *header))
    return b"".join((long_names, *header))


def _comment(*, copy: bool, run: str) -> bytes:
    # A keyword of our own would make GNU tar complain.
    return b"asyncbackup" + (b" copy" if copy else b"") + (b" run %b" % run.encode() if run else b"")


def padding(size: int) -> bytes:
    """The zeros that fill the last block of a content of ``size`` bytes."""
    return _ZEROS[: -size & 511]


def comment_header(text: bytes) -> bytes:
    """A global header that holds nothing but a comment, which readers pass over."""
    return extended_header(b"g", _record(b"comment", text))


def extended_header(flag: bytes, records: bytes) -> bytes:
    """An extended (``x``) or global (``g``) header of ``records``, header block included.

    Raises :class:`ValueError` if the records have more than 1 MiB.
    """
    size = len(records)
    if size > MAX_EXTENDED_BYTES:
        raise ValueError(f"an extended header of {size} bytes, more than readers of tar take")
    if size <= BLOCK_BYTES:
        return _extended_block(flag, size) + records.ljust(BLOCK_BYTES, b"\0")
    return _extended_block(flag, size) + records + padding(size)


@lru_cache(maxsize=4096)
def _usual_fields(
    flag: bytes, mode: int, uid: int, gid: int, owner: str, group: str
) -> tuple[bytes, bytes, bytes, int]:
    """What headers of one owner share: the fields of mode and ids, the records of what does not fit,
    and the tail of a header without prefix and link with its sum.

    An id that does not fit is the largest one there: 0 would be root. A name
    that fits nowhere (not ASCII and over 31 bytes) is left out, its id counts.
    """
    identity = b"%07o\0%07o\0%07o\0" % (mode, min(uid, _MAX_ID), min(gid, _MAX_ID))
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
    return identity, records, *_tail(flag, b"", names, b"")


def _tail(flag: bytes, link: bytes, names: bytes, prefix: bytes) -> tuple[bytes, int]:
    """What follows the checksum's field, and its share of the sum, that field's eight spaces included."""
    tail = b"".join(
        (
            flag,
            link.ljust(_NAME_BYTES, b"\0"),
            b"ustar\x0000",
            names,
            b"0000000\x000000000\0",
            prefix.ljust(_PREFIX_BYTES + 12, b"\0"),
        )
    )
    half = len(tail) // 2
    return tail, _byte_sum(tail[:half]) + _byte_sum(tail[half:]) + 8 * ord(" ")


def _names_of(tail: bytes) -> bytes:
    """The fields of the owner's and the group's name."""
    return tail[109:173]


def _byte_sum(raw: bytes) -> int:
    """The sum of up to 255 bytes, a tenth of the time that ``sum`` needs."""
    # Adler-32's lower half is one more than the sum, which so few bytes keep below its modulus.
    return (adler32(raw) & 0xFFFF) - 1


@lru_cache(maxsize=1024)
def _extended_block(flag: bytes, size: int) -> bytes:
    name = b"pax_global_header" if flag == b"g" else b"././@PaxHeader"
    return _special_block(name, flag, size)


def _long_name(flag: bytes, name: bytes) -> bytes:
    """GNU's header for the name (``L``) or the link's target (``K``) of the member that follows."""
    size = len(name) + 1
    if size > MAX_EXTENDED_BYTES:
        raise ValueError(f"a name of {size} bytes, more than readers of tar take")
    return _special_block(b"././@LongLink", flag, size) + name + b"\0" + padding(size)


def _special_block(name: bytes, flag: bytes, size: int) -> bytes:
    head = name.ljust(_NAME_BYTES, b"\0") + b"0000644\x000000000\x000000000\0%011o\x0000000000000\0" % size
    tail, tail_sum = _tail(flag, b"", bytes(64), b"")
    return b"".join((head, b"%06o\0 " % (_byte_sum(head) + tail_sum), tail))


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
