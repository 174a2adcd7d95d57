"""Members of tar archives as no writer makes them: every field is the caller's."""

from __future__ import annotations

import struct
from collections.abc import Mapping

END = bytes(1024)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""``cap_net_bind_service=ep``, as the kernel keeps it."""


def member(
    name: bytes,
    content: bytes = b"",
    *,
    flag: bytes = b"0",
    mode: bytes = b"0000644",
    owner: bytes = b"0000000",
    size: bytes | None = None,
    link: bytes = b"",
    prefix: bytes = b"",
) -> bytes:
    """A ustar header, its checksum right, and the content."""
    sized = b"%011o" % len(content) if size is None else size
    fields = (
        (name, 100), (mode, 8), (owner, 8), (owner, 8), (sized, 12), (b"00000000001", 12), (b" " * 8, 8),
        (flag, 1), (link, 100), (b"ustar\x0000", 8), (b"", 32), (b"", 32), (b"", 8), (b"", 8), (prefix, 155),
    )  # fmt: skip
    block = b"".join(value.ljust(length, b"\0")[:length] for value, length in fields).ljust(512, b"\0")
    block = block[:148] + b"%06o\0 " % sum(block) + block[156:]
    return block + content + bytes(-len(content) % 512)


def records(values: Mapping[bytes, bytes], *, flag: bytes = b"x") -> bytes:
    """An extended header."""
    body = b""
    for keyword, value in values.items():
        rest = b" " + keyword + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(b"%d" % length) + len(rest) != length:
            length += 1
        body += b"%d" % length + rest
    return member(b"pax", body, flag=flag)


def long_name(name: bytes, *, flag: bytes = b"L") -> bytes:
    """GNU's way to say a name, of a link's target with ``K``."""
    return member(b"././@LongLink", name + b"\0", flag=flag)


def named(way: str, name: bytes, *, flag: bytes) -> bytes:
    """A member whose name is told in one of the ways that there are."""
    content = b"evil" if flag == b"0" else b""
    link = b"good" if flag in b"12" else b""
    if way == "ustar":
        return member(name, content, flag=flag, link=link)
    if way == "prefix":
        above, _, last = name.rpartition(b"/")
        return member(last, content, flag=flag, link=link, prefix=above)
    head = long_name(name) if way == "GNU" else records({b"path": name})
    return head + member(b"harmless", content, flag=flag, link=link)


def strange_members(outside: bytes) -> dict[str, bytes]:
    """Members and pairs of members that lie, grow, or lead to ``outside``."""
    symlink = member(b"d", flag=b"2", link=outside)
    grown = {b"SCHILY.xattr.security.capability": CAPABILITY, b"SCHILY.xattr.trusted.t": b"1"}
    return {
        "through a symlink": symlink + member(b"d/f", b"evil") + member(b"d/new", b"evil"),
        "through a symlink upwards": member(b"d", flag=b"2", link=b"..") + member(b"d/f", b"evil"),
        "a folder through a symlink": symlink + member(b"d/folder/", flag=b"5", mode=b"0000777"),
        "the symlink after the file": member(b"d/f", b"evil") + symlink,
        "a symlink for the root": member(b"./", flag=b"2", link=outside) + member(b"f", b"evil"),
        "a file for the root": member(b"./", b"evil"),
        "a hard link outside": member(b"h", flag=b"1", link=outside + b"/file"),
        "a hard link upwards": member(b"h", flag=b"1", link=b"../outside/file"),
        "a hard link through a symlink": symlink + member(b"h", flag=b"1", link=b"d/file"),
        "a hard link to a symlink": symlink + member(b"h", flag=b"1", link=b"d"),
        "a hard link to itself": member(b"h", flag=b"1", link=b"h"),
        "hard links in a ring": member(b"h", flag=b"1", link=b"i") + member(b"i", flag=b"1", link=b"h"),
        "a copy of something outside": records({b"comment": b"asyncbackup copy"})
        + member(b"h", flag=b"1", link=b"../outside/file"),
        "the same name twice": member(b"f", b"one") + member(b"f", b"two"),
        "file, then folder": member(b"f", b"one") + member(b"f/", flag=b"5") + member(b"f/x", b"two"),
        "folder, then symlink": member(b"f/", flag=b"5") + member(b"f", flag=b"2", link=outside),
        "symlink, then folder": symlink + member(b"d/", flag=b"5") + member(b"d/f", b"evil"),
        "a character device": member(b"dev", flag=b"3"),
        "a block device": member(b"dev", flag=b"4"),
        "a fifo": member(b"dev", flag=b"6"),
        "a file of the type contiguous": member(b"f", b"evil", flag=b"7"),
        "a sparse file": member(b"f", b"evil", flag=b"S"),
        "a volume": member(b"f", flag=b"V"),
        "a dump of a folder": member(b"f/", b"Yx\0\0", flag=b"D"),
        "a sparse file by records": records({b"GNU.sparse.major": b"1", b"GNU.sparse.name": b"../f"})
        + member(b"f", b"0\n"),
        "set-id bits": member(b"tool", b"evil", mode=b"0006755"),
        "all bits": member(b"tool", b"evil", mode=b"0777777"),
        "attributes": records(grown) + member(b"tool", b"evil"),
        "an attribute without a name": records({b"SCHILY.xattr.": b"x"}) + member(b"f", b"evil"),
        "an attribute with NUL": records({b"SCHILY.xattr.a\0b": b"x"}) + member(b"f", b"evil"),
        "a negative size": member(b"f", size=b"\xff" * 12),
        "a size over 63 bits": member(b"f", size=b"\x80\0\0\0" + b"\xff" * 8),
        "a negative size by records": records({b"size": b"-5"}) + member(b"f", b"evil"),
        "a size of 20 digits": records({b"size": b"9" * 20}) + member(b"f", b"evil"),
        "a larger size by records": records({b"size": b"600"}) + member(b"f", b"evil"),
        "an owner below zero": member(b"f", b"evil", owner=b"\xff" * 8),
        "an owner over 32 bits": records({b"uid": b"4294967296"}) + member(b"f", b"evil"),
        "a time that is none": records({b"mtime": b"1e999"}) + member(b"f", b"evil"),
        "a time far away": records({b"mtime": b"9" * 19}) + member(b"f", b"evil"),
        "two names that differ": long_name(b"a") + records({b"path": b"b"}) + member(b"c", b"evil"),
        "a folder with a content": member(b"f/", b"evil", flag=b"5"),
        "a symlink with a content": member(b"l", b"evil", flag=b"2", link=b"x"),
        "a symlink to nothing": member(b"l", flag=b"2"),
        "a record that is too long": member(b"pax", b"99 path=x\n", flag=b"x") + member(b"f", b"evil"),
        "a record without a length": member(b"pax", b"path=x\n", flag=b"x") + member(b"f", b"evil"),
        "a global path": records({b"path": b"../f"}, flag=b"g") + member(b"f", b"evil"),
        "a header for nobody": records({b"path": b"x"}),
        "no number": member(b"f", size=b"zzzzzzzzzzz"),
        "a run that is none": records({b"comment": b"asyncbackup run ../../x"}) + member(b"f", b"evil"),
        "the last run of all": records({b"comment": b"asyncbackup run 99991231T235959Z-ffff"})
        + member(b"f", b"evil"),
    }  # fmt: skip


def references(outside: bytes) -> dict[str, bytes]:
    """References (docs/format.md, "Packs") that no writer makes."""
    run = b"20261122T195000Z-3fa2"

    def line(path: bytes, key: bytes, more: bytes = b"") -> bytes:
        return (
            b'{"type":"file","path":"' + path + b'","mode":"100644","size":4,"mtime":1,"uid":0,"gid":0,'
            b'"sha256":"' + b"0" * 64 + b'","extent":{"run":"' + run + b'","key":"' + key + b'","length":4}'
            + more + b"}\n"
        )  # fmt: skip

    said = {
        "a path upwards": line(b"../f", b"files/x"),
        "an absolute path": line(outside + b"/f", b"files/x"),
        "an escaped path": line(b"%2E%2E%2Ff", b"files/x"),
        "a key upwards": line(b"f", b"../../../../etc/passwd"),
        "an absolute key": line(b"f", b"/etc/passwd"),
        "the descriptor for a key": line(b"f", b"../../../asyncbackup.json"),
        "another field": line(b"f", b"files/x", b',"x":' + b"[" * 20_000 + b"]" * 20_000),
        "no JSON": b"{" * 1000 + b"\n",
        "a deleted entry": b'{"type":"deleted","path":"good"}\n',
    }
    return {name: records({b"comment": b"asyncbackup " + text}, flag=b"g") for name, text in said.items()}
