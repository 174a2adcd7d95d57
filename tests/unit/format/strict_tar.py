"""A reader of tar that takes what Go's archive/tar takes and refuses what that refuses.

It imports nothing of asyncbackup. Every violation is a ``ValueError``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MAX_SPECIAL_BYTES = 1024 * 1024
BLOCK = 512


@dataclass
class Member:
    """One header as a user of Go's reader gets it; times in nanoseconds, ``offset`` that of the content."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    link: bytes
    owner: bytes
    group: bytes
    offset: int
    content: bytes = b""
    formats: set[str] = field(default_factory=set)
    records: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def xattrs(self) -> dict[bytes, bytes]:
        prefix = b"SCHILY.xattr."
        return {key[len(prefix) :]: value for key, value in self.records.items() if key.startswith(prefix)}


def read_tar(data: bytes) -> list[Member]:
    """All members of an archive, global headers among them with ``kind`` ``g``."""
    members: list[Member] = []
    position = 0
    formats = {"ustar", "pax", "gnu"}
    records: dict[bytes, bytes] = {}
    long_name = long_link = b""
    while True:
        block = _block(data, position)
        position += BLOCK
        if not any(block):
            if any(_block(data, position)):
                raise ValueError("one block of zeros alone")
            if formats != {"ustar", "pax", "gnu"} or records or long_name or long_link:
                raise ValueError("a special header is followed by no member")
            if data[position + BLOCK :].strip(b"\0"):
                raise ValueError("something follows the end")
            return members
        member = _header(block, position)
        formats &= {"ustar", "pax"} if member.kind not in b"LK" else {"ustar", "pax", "gnu"}
        body = data[position : position + member.size]
        if len(body) != member.size:
            raise ValueError("truncated")
        position += -(-member.size // BLOCK) * BLOCK
        if any(data[member.offset + member.size : position]):
            raise ValueError("what fills a block is not zero")
        if member.kind in b"xgLK" and member.size > MAX_SPECIAL_BYTES:
            raise ValueError("a special header over 1 MiB")
        if member.kind == b"x":
            formats &= {"pax"}
            records = _records(body)
            continue
        if member.kind == b"g":
            member.records = _records(body)
            members.append(member)
            formats = {"ustar", "pax", "gnu"}
            continue
        if member.kind == b"L":
            formats &= {"gnu"}
            long_name = body.split(b"\0")[0]
            continue
        if member.kind == b"K":
            formats &= {"gnu"}
            long_link = body.split(b"\0")[0]
            continue
        _merge(member, records)
        member.name = long_name or member.name
        member.link = long_link or member.link
        member.content = body
        member.formats = formats
        members.append(member)
        formats, records, long_name, long_link = {"ustar", "pax", "gnu"}, {}, b"", b""


def _block(data: bytes, position: int) -> bytes:
    block = data[position : position + BLOCK]
    if len(block) != BLOCK:
        raise ValueError("the end is missing")
    return block


def _header(block: bytes, offset: int) -> Member:
    if sum(block[:148]) + 8 * 32 + sum(block[156:]) != _octal(block[148:156]):
        raise ValueError("the checksum does not fit")
    if block[257:265] != b"ustar\x0000":
        raise ValueError("no POSIX header")
    if any(block[500:]):
        raise ValueError("this could be taken for star's format")
    for last in (107, 115, 123, 135, 147, 336, 344):
        if block[last]:
            raise ValueError("a number is not ended")
    name, prefix = _text(block[:100]), _text(block[345:500])
    kind = block[156:157]
    if kind in b"125" and _octal(block[124:136]):
        raise ValueError("a link or folder with a content")
    return Member(
        name=prefix + b"/" + name if prefix else name,
        kind=kind,
        mode=_octal(block[100:108]),
        uid=_octal(block[108:116]),
        gid=_octal(block[116:124]),
        size=_octal(block[124:136]),
        mtime_ns=_octal(block[136:148]) * 10**9,
        ctime_ns=0,
        link=_text(block[157:257]),
        owner=_text(block[265:297]),
        group=_text(block[297:329]),
        offset=offset,
    )


def _text(raw: bytes) -> bytes:
    text, _, rest = raw.partition(b"\0")
    if rest.strip(b"\0"):
        raise ValueError("something stands behind the end of a text")
    return text


def _octal(raw: bytes) -> int:
    digits = raw.strip(b" \0")
    if re.fullmatch(rb"[0-7]+", digits) is None:
        raise ValueError(f"{raw!r} is no octal number")
    return int(digits, 8)


def _records(body: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    while body:
        digits, _, _ = body.partition(b" ")
        if re.fullmatch(rb"[1-9][0-9]*", digits) is None or not len(digits) + 1 < int(digits) <= len(body):
            raise ValueError("a record does not tell its length")
        record, body = body[len(digits) + 1 : int(digits)], body[int(digits) :]
        key, equals, value = record[:-1].partition(b"=")
        if record[-1:] != b"\n" or not equals or not key or key in records:
            raise ValueError(f"{record[:60]!r} is no record")
        if key in (b"path", b"linkpath", b"uname", b"gname"):
            value.decode()
            if b"\0" in value:
                raise ValueError("a name with a NUL")
        if b"\0" in key:
            raise ValueError("a key with a NUL")
        records[key] = value
    return records


def _merge(member: Member, records: dict[bytes, bytes]) -> None:
    member.records = records
    for key, value in records.items():
        if key == b"path":
            member.name = value
        elif key == b"linkpath":
            member.link = value
        elif key == b"uname":
            member.owner = value
        elif key == b"gname":
            member.group = value
        elif key == b"uid":
            member.uid = int(value)
        elif key == b"gid":
            member.gid = int(value)
        elif key == b"mtime":
            member.mtime_ns = _time(value)
        elif key == b"ctime":
            member.ctime_ns = _time(value)
        elif key != b"comment" and not key.startswith(b"SCHILY.xattr."):
            raise ValueError(f"GNU tar would complain about {key!r}")


def _time(value: bytes) -> int:
    match = re.fullmatch(rb"(-?)([0-9]+)\.([0-9]{9})", value)
    if match is None:
        raise ValueError(f"{value!r} is no time")
    ns = int(match[2]) * 10**9 + int(match[3])
    return -ns if match[1] else ns
