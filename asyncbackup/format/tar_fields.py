"""What the headers of a tar archive say, and what in them is refused (docs/format.md, "Packs")."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from asyncbackup.errors import FormatError
from asyncbackup.format.keys import check_path
from asyncbackup.format.manifest_entries import entry_fits
from asyncbackup.format.runid import is_run_id
from asyncbackup.model import Entry, Kind

BLOCK_BYTES = 512
MAX_SIZE = 2**63 - 1
_MAX_ID = 2**32 - 1
_MAX_SECONDS = 2**63
_SECOND = 1_000_000_000

XATTR = b"SCHILY.xattr."

_POSIX = b"ustar\x0000"
_GNU = b"ustar  \0"
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ")
_NUMBER = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]{0,9})[0-9]*)?")
# Of a link that is another file with the same content, and of a member of another run than the pack.
_COMMENT = re.compile(rb"asyncbackup( copy)?(?: run ([^ ]+))?")
_ESCAPED = re.compile(rb"%(?:3D|25)")

_KINDS = {b"0": Kind.FILE, b"\0": Kind.FILE, b"1": Kind.FILE, b"2": Kind.SYMLINK, b"5": Kind.FOLDER}
_DEVICES = b"346"
_TYPE_BITS = {Kind.FILE: 0o100000, Kind.SYMLINK: 0o120000, Kind.FOLDER: 0o040000}


class Header(msgspec.Struct, frozen=True, gc=False):
    """One header block, its numbers read, its names as they stand there."""

    name: bytes
    flag: bytes
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    link: bytes
    owner: bytes
    group: bytes


class Member(msgspec.Struct, frozen=True, gc=False):
    """One entry of an archive, without its extent. ``link_to`` is the path of the member that a hard
    link names; a ``copy`` shares that one's content alone. ``run`` is the run that the member is of, where
    its header names one."""

    entry: Entry
    link_to: bytes = b""
    copy: bool = False
    run: str = ""


def read_header(block: bytes) -> Header:
    """The header in ``block``. Raises :class:`FormatError` for what is none, or has impossible numbers."""
    magic = block[257:265]
    if magic not in (_POSIX, _GNU):
        raise FormatError("no header of a tar member is where one has to be")
    if number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 32:
        raise FormatError("the checksum of a tar header is wrong")
    name = _text(block[:100])
    prefix = _text(block[345:500]) if magic == _POSIX else b""
    return Header(
        name=prefix + b"/" + name if prefix else name,
        flag=block[156:157],
        size=number(block[124:136]),
        mode=number(block[100:108]),
        uid=number(block[108:116]),
        gid=number(block[116:124]),
        mtime_ns=number(block[136:148], signed=True) * _SECOND,
        link=_text(block[157:257]),
        owner=_text(block[265:297]),
        group=_text(block[297:329]),
    )


@lru_cache(maxsize=4096)
def number(field: bytes, *, signed: bool = False) -> int:
    """A number in octal digits, or in GNU's base 256, within 63 bits."""
    if field[0] & 0x80:
        # The first bit says that it is base 256, the second one is the sign's.
        value = int.from_bytes(field) - (1 << 8 * len(field) - 1)
        if field[0] & 0x40:
            value -= 1 << 8 * len(field) - 1
    else:
        match = _OCTAL.fullmatch(field)
        if match is None:
            raise FormatError(f"{field!r} is no number of a tar header")
        value = int(match[1] or b"0", 8)
    if not (-MAX_SIZE if signed else 0) <= value <= MAX_SIZE:
        raise FormatError(f"a tar header holds the impossible number {value}")
    return value


def read_records(body: bytes) -> dict[bytes, bytes]:
    """The records of an extended header; of several for one keyword the last one counts.

    Raises :class:`FormatError` for what is not ``LENGTH KEYWORD=VALUE`` and a line feed.
    """
    records: dict[bytes, bytes] = {}
    start = 0
    while start < len(body):
        match = _RECORD.match(body, start)
        end = start + int(match[1]) if match is not None else 0
        keyword_end = body.find(b"=", start, end)
        if match is None or end > len(body) or keyword_end <= match.end() or body[end - 1 : end] != b"\n":
            raise FormatError("an extended tar header is damaged")
        records[body[match.end() : keyword_end]] = body[keyword_end + 1 : end - 1]
        start = end
    return records


def content_size(header: Header, records: dict[bytes, bytes]) -> int:
    """How many bytes of content follow the header.

    Raises :class:`FormatError` where readers of tar do not agree on that.
    """
    size = header.size
    if b"size" in records:
        size = _record_number(records, b"size", header.size, MAX_SIZE)
    if any(keyword.startswith(b"GNU.sparse.") for keyword in records):
        raise FormatError("the archive has a sparse member of GNU tar")
    if header.flag in _KINDS:
        if size and header.flag not in (b"0", b"\0"):
            raise FormatError("the archive has a member with a content that its kind does not have")
    elif header.flag not in _DEVICES or size:
        raise FormatError(f"the archive has a member of the unknown kind {header.flag!r}")
    return size


def path_of(header: Header, records: dict[bytes, bytes], long_name: bytes | None) -> bytes:
    """The member's name as readers of tar see it; see :func:`member_of` for what is refused."""
    return records.get(b"path", header.name if long_name is None else long_name)


def member_of(
    header: Header,
    records: dict[bytes, bytes],
    *,
    long_name: bytes | None,
    long_link: bytes | None,
    size: int,
    sha256: bytes,
) -> Member:
    """The entry that a member is, whose content was read.

    Raises :class:`FormatError` for a name that no entry can have, one that
    readers of tar do not agree on, and for values that no file system has.
    """
    kind = _KINDS.get(header.flag)
    if kind is None:
        raise FormatError("it is neither a file nor a folder nor a symlink")
    path = _path(_agreed(records, b"path", long_name, header.name), folder=kind is Kind.FOLDER)
    link = _agreed(records, b"linkpath", long_link, header.link)
    link_to = target = b""
    if header.flag == b"1":
        link_to = _path(link, folder=False)
    elif kind is Kind.SYMLINK:
        target = link
        if not target or b"\0" in target:
            raise FormatError(f"{target!r} cannot be a symlink's target")
    comment = _COMMENT.fullmatch(records.get(b"comment", b""))
    copy, run = (
        (False, "") if comment is None else (bool(comment[1]), (comment[2] or b"").decode(errors="replace"))
    )
    if run and not is_run_id(run):
        raise FormatError(f"{run!r} is not a run id")
    entry = Entry(
        path=path,
        kind=kind,
        mode=_TYPE_BITS[kind] | header.mode & 0o7777,
        size=len(target) if kind is Kind.SYMLINK else size,
        mtime_ns=_time(records[b"mtime"]) if b"mtime" in records else header.mtime_ns,
        ctime_ns=_time(records[b"ctime"]) if b"ctime" in records else 0,
        uid=_record_number(records, b"uid", header.uid, _MAX_ID),
        gid=_record_number(records, b"gid", header.gid, _MAX_ID),
        owner=_owner(records.get(b"uname", header.owner)),
        group=_owner(records.get(b"gname", header.group)),
        sha256=sha256 if kind is Kind.FILE and not link_to else b"",
        target=target,
        xattrs=_xattrs(records),
    )
    if not entry_fits(entry):
        raise FormatError("its path and extended attributes are more than a snapshot has room for")
    return Member(entry, link_to, copy and bool(link_to), run)


def _agreed(records: dict[bytes, bytes], keyword: bytes, long: bytes | None, short: bytes) -> bytes:
    """A name that stands in up to three places. Readers that take one or the other must find the same."""
    extended = records.get(keyword)
    if extended is not None and long is not None and extended != long:
        raise FormatError("its long names contradict each other")
    if extended is not None:
        return extended
    return short if long is None else long


def _path(name: bytes, *, folder: bool) -> bytes:
    if folder:
        name = name.removesuffix(b"/")
        if name == b".":
            return b""
    path = name.removeprefix(b"./")
    if not path:
        raise FormatError("it has no name")
    check_path(path)
    return path


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _record_number(records: dict[bytes, bytes], keyword: bytes, otherwise: int, limit: int) -> int:
    text = records.get(keyword)
    if text is not None and _NUMBER.fullmatch(text) is None:
        raise FormatError(f"{text[:40]!r} is no {keyword.decode()}")
    value = otherwise if text is None else int(text)
    if value > limit:
        raise FormatError(f"{value} is no {keyword.decode()}")
    return value


def _time(text: bytes) -> int:
    match = _TIME.fullmatch(text)
    if match is None or int(match[2]) >= _MAX_SECONDS:
        raise FormatError(f"{text[:40]!r} is not a time in seconds")
    ns = int(match[2]) * _SECOND + int((match[3] or b"").ljust(9, b"0"))
    return -ns if match[1] else ns


def _owner(name: bytes) -> str:
    if b"\0" in name:
        raise FormatError("the name of an owner holds a NUL byte")
    return name.decode(errors="surrogateescape")


def _xattrs(records: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    pairs = []
    for keyword, value in records.items():
        if keyword.startswith(XATTR):
            name = keyword.removeprefix(XATTR)
            if not name or b"\0" in name:
                raise FormatError("an extended attribute has no usable name")
            pairs.append((_ESCAPED.sub(_unescaped, name) if b"%" in name else name, value))
    return tuple(pairs)


def _unescaped(match: re.Match[bytes]) -> bytes:
    return b"=" if match[0] == b"%3D" else b"%"
