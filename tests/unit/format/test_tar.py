"""Headers of members, read back by a strict reader and by Python's tarfile."""

from __future__ import annotations

import io
import re
import tarfile
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncbackup.format.tar import BLOCK_BYTES, END, comment_header, extended_header, member_header, padding
from asyncbackup.model import Entry, Kind
from tests.unit.format.strict_tar import Member, read_tar

MTIME = 1_700_000_000_123_456_789
MODES = {Kind.FILE: 0o100644, Kind.FOLDER: 0o40755, Kind.SYMLINK: 0o120777}


def entry(path: bytes, kind: Kind = Kind.FILE, **fields: Any) -> Entry:
    known = {"mode": MODES[kind], "mtime_ns": MTIME, "uid": 1000, "gid": 100} | fields
    return Entry(path=path, kind=kind, **known)


def archive(item: Entry, content: bytes = b"", link_to: bytes = b"") -> bytes:
    return member_header(item, link_to=link_to) + content + padding(len(content)) + END


def only(item: Entry, content: bytes = b"", link_to: bytes = b"") -> Member:
    (member,) = read_tar(archive(item, content, link_to))
    return member


def by_tarfile(item: Entry, link_to: bytes = b"") -> tarfile.TarInfo:
    data = archive(item, bytes(item.size) if item.kind is Kind.FILE and not link_to else b"", link_to)
    with tarfile.open(fileobj=io.BytesIO(data), errorlevel=2, encoding="utf-8") as opened:
        (member,) = opened.getmembers()
    return member


def test_what_a_header_says() -> None:
    item = entry(
        b"docs/report.pdf",
        mode=0o104751,
        size=5,
        ctime_ns=MTIME + 1,
        owner="me",
        group="staff",
        xattrs=((b"user.note", b"\0\xff\n"),),
    )
    member = only(item, b"hello")
    assert (member.name, member.kind, member.mode, member.content) == (
        b"docs/report.pdf",
        b"0",
        0o4751,
        b"hello",
    )
    assert (member.uid, member.gid, member.owner, member.group) == (1000, 100, b"me", b"staff")
    assert (member.mtime_ns, member.ctime_ns) == (MTIME, MTIME + 1)
    assert member.xattrs == {b"user.note": b"\0\xff\n"}


def test_nothing_stands_in_an_extended_header_that_a_plain_one_has_room_for() -> None:
    item = entry(b"a", mtime_ns=1_700_000_000_000_000_000, owner="j\xfcrgen")
    header = member_header(item)
    assert len(header) == BLOCK_BYTES
    assert only(item).formats == {"ustar", "pax"}
    assert only(item).owner == "j\xfcrgen".encode()


def test_usual_times_take_one_block_more() -> None:
    assert len(member_header(entry(b"a", ctime_ns=MTIME))) == 3 * BLOCK_BYTES
    assert len(member_header(entry(b"a", mtime_ns=10**18, ctime_ns=0))) == BLOCK_BYTES


@pytest.mark.parametrize(
    "path",
    [
        b"a" * 100,
        b"\xff" * 100,
        b"\xff" * 155 + b"/" + b"\xff" * 100,
        b"d" * 155 + b"/" + b"n" * 100,
        b"d" + b"/" + b"n" * 100,
        b"d" * 50 + b"/" + b"e" * 50 + b"/" + b"n" * 60,
    ],
    ids=len,
)
def test_names_that_a_plain_header_has_room_for(path: bytes) -> None:
    item = entry(path, mtime_ns=0)
    assert len(member_header(item)) == BLOCK_BYTES
    assert only(item).name == path


@pytest.mark.parametrize(
    "path",
    [
        b"a" * 101,
        b"d" * 156 + b"/" + b"n" * 100,
        b"d" * 155 + b"/" + b"n" * 101,
        b"d" * 99 + b"/" + b"n" * 101,
        b"a/" * 200 + b"b",
    ],
    ids=len,
)
def test_longer_names_are_there_twice(path: bytes) -> None:
    item = entry(path, mtime_ns=0)
    member = only(item)
    assert member.name == path
    assert member.records == {b"path": path}
    assert member_header(item).count(path + b"\0") == 1
    assert by_tarfile(item).name == path.decode()


@pytest.mark.parametrize("path", ["\xe4".encode() * 60, b"\xff" * 120, b"e\xcc\x81" * 50])
def test_longer_names_beyond_ascii_are_left_to_the_long_name(path: bytes) -> None:
    # In an extended header bsdtar would refuse them where the locale cannot show them.
    member = only(entry(path))
    assert member.name == path
    assert b"path" not in member.records
    assert only(entry(b"l", Kind.SYMLINK, target=path)).link == path
    assert b"linkpath" not in only(entry(b"l", Kind.SYMLINK, target=path)).records


def test_folders_end_in_a_slash_and_the_root_is_a_dot() -> None:
    assert only(entry(b"", Kind.FOLDER)).name == b"./"
    assert only(entry(b"docs", Kind.FOLDER, size=4096)).name == b"docs/"
    for length in (99, 100, 154, 155, 255, 256):
        path = b"d" * (length // 2) + b"/" + b"e" * (length - length // 2 - 1)
        member = only(entry(path, Kind.FOLDER))
        assert (member.name, member.kind, member.size) == (path + b"/", b"5", 0)
        assert by_tarfile(entry(path, Kind.FOLDER)).name == path.decode()


def test_a_cut_name_never_looks_like_a_folder() -> None:
    header = member_header(entry(b"a" * 99 + b"/" + b"b" * 200, mtime_ns=0))
    assert header[-BLOCK_BYTES:][:100] == b"a" * 99 + b"\0"


@pytest.mark.parametrize("target", [b"t", b"../\xfe\\up\n", b"t" * 100, b"t" * 101, b"t/" * 2000])
def test_symlinks(target: bytes) -> None:
    item = entry(b"link", Kind.SYMLINK, size=len(target), target=target)
    member = only(item)
    assert (member.kind, member.link, member.size) == (b"2", target, 0)
    assert by_tarfile(item).linkname.encode(errors="surrogateescape") == target


@pytest.mark.parametrize("first", [b"first", b"f" * 100, b"f/" * 50 + b"f", b"\xff" * 200])
def test_hard_links(first: bytes) -> None:
    item = entry(b"second", size=77)
    member = only(item, link_to=first)
    assert (member.kind, member.link, member.size) == (b"1", first, 0)
    assert by_tarfile(item, first).islnk()


def test_copies_say_that_they_are() -> None:
    item = entry(b"second", size=77, ctime_ns=MTIME)
    member = only(msgspec.structs.replace(item, mode=0o100600), link_to=b"first")
    assert b"comment" not in member.records
    archived = member_header(item, link_to=b"first", copy=True) + END
    (member,) = read_tar(archived)
    assert member.records[b"comment"] == b"asyncbackup copy"
    assert (member.kind, member.link, member.mtime_ns, member.ctime_ns) == (b"1", b"first", MTIME, MTIME)


def test_members_of_another_run_name_it() -> None:
    item = entry(b"a", mtime_ns=0)
    (member,) = read_tar(member_header(item, run="20261121T195000Z-00ff") + END)
    assert member.records == {b"comment": b"asyncbackup run 20261121T195000Z-00ff"}
    (member,) = read_tar(member_header(item, link_to=b"b", copy=True, run="20261121T195000Z-00ff") + END)
    assert member.records == {b"comment": b"asyncbackup copy run 20261121T195000Z-00ff"}


def test_a_further_name_of_a_symlink_is_a_symlink() -> None:
    # Of a hard link, tarfile sets mode and times of what the symlink points at.
    member = only(entry(b"second", Kind.SYMLINK, size=11, target=b"/etc/passwd"), link_to=b"first")
    assert (member.kind, member.link, member.size) == (b"2", b"/etc/passwd", 0)


@pytest.mark.parametrize(
    "mtime_ns",
    [
        0,
        1,
        -1,
        -1_500_000_000,
        -(10**18),
        10**18 - 1,
        10**18,
        10**18 + 1,
        (8**11 - 1) * 10**9,
        (8**11 - 1) * 10**9 + 1,
        8**11 * 10**9,
        10**19,
        -(2**63) * 10**9 + 1,
        2**63 * 10**9 - 1,
    ],
)
def test_times(mtime_ns: int) -> None:
    member = only(entry(b"a", mtime_ns=mtime_ns, ctime_ns=mtime_ns))
    assert (member.mtime_ns, member.ctime_ns) == (mtime_ns, mtime_ns)
    assert only(entry(b"a", ctime_ns=mtime_ns)).ctime_ns == mtime_ns
    info = by_tarfile(entry(b"a", mtime_ns=mtime_ns))
    assert info.mtime == pytest.approx(mtime_ns / 10**9, abs=1e-6)


def test_a_time_that_does_not_fit_leaves_the_nearest_one_in_the_field() -> None:
    assert int(member_header(entry(b"a", mtime_ns=-(10**9)))[-BLOCK_BYTES:][136:147], 8) == 0
    assert int(member_header(entry(b"a", mtime_ns=10**20))[-BLOCK_BYTES:][136:147], 8) == 8**11 - 1


def test_ids_that_do_not_fit_leave_no_root_in_the_field() -> None:
    item = entry(b"a", uid=2**21, gid=2**32 - 1)
    member = only(item)
    assert (member.uid, member.gid) == (2**21, 2**32 - 1)
    block = member_header(item)[-BLOCK_BYTES:]
    assert block[108:124] == b"7777777\x007777777\0"
    fits = only(entry(b"a", uid=2**21 - 1, gid=0, mtime_ns=0))
    assert (fits.uid, fits.gid, fits.records) == (2**21 - 1, 0, {})


def test_owners_names() -> None:
    longest = "o" * 31
    assert only(entry(b"a", owner=longest, group=longest, mtime_ns=0)).records == {}
    member = only(entry(b"a", owner="o" * 32, group="g" * 40))
    assert (member.owner, member.group) == (b"o" * 32, b"g" * 40)
    # A name that fits nowhere is left out rather than cut: cut, it could be somebody else's.
    member = only(entry(b"a", owner="\xfc" * 20, group="\udcff"))
    assert (member.owner, member.group) == (b"", b"\xff")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (b"user.a=b", b"user.a%3Db"),
        (b"user.100%", b"user.100%"),
        (b"user.%3D", b"user.%253D"),
        (b"user.%25", b"user.%2525"),
        (b"user.%%25=", b"user.%%2525%3D"),
        (b"user.\xff\xc3", b"user.\xff\xc3"),
    ],
)
def test_names_of_attributes(name: bytes, written: bytes) -> None:
    assert only(entry(b"a", xattrs=((name, b"v"),))).xattrs == {written: b"v"}


def test_what_readers_refuse_is_not_written() -> None:
    fits = entry(b"a", xattrs=((b"user.a", bytes(1_048_000)),))
    assert len(only(fits).xattrs[b"user.a"]) == 1_048_000
    with pytest.raises(ValueError, match="more than readers of tar take"):
        member_header(entry(b"a", xattrs=((b"user.a", bytes(1_048_570)),)))
    with pytest.raises(ValueError, match="more than readers of tar take"):
        member_header(entry(b"\xff" * 2**20))


@pytest.mark.parametrize("length", [*range(80, 105), *range(980, 1005), 99_985, 99_990, 100_000])
def test_records_say_their_length(length: int) -> None:
    (member,) = read_tar(comment_header(b"x" * length) + END)
    assert member.records == {b"comment": b"x" * length}


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1024])
def test_extended_headers_are_whole_blocks(size: int) -> None:
    assert len(extended_header(b"x", b"x" * size)) == BLOCK_BYTES * (1 + -(-size // BLOCK_BYTES))


segments = st.binary(min_size=1, max_size=120).filter(
    lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name
)
paths = st.lists(segments, min_size=1, max_size=6).map(b"/".join)
times = st.integers(-(2**63) * 10**9 + 1, 2**63 * 10**9 - 1) | st.integers(10**18, 2 * 10**18)
ids = st.integers(0, 2**32 - 1) | st.integers(0, 2000)
users = st.binary(max_size=40).filter(lambda name: b"\0" not in name)
attributes = st.dictionaries(
    st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name),
    st.binary(max_size=600),
    max_size=3,
)


@given(
    path=paths,
    kind=st.sampled_from(Kind),
    mode=st.integers(0, 0o7777),
    times=st.tuples(times, times),
    ids=st.tuples(ids, ids),
    users=st.tuples(users, users),
    target=paths,
    attributes=attributes,
    size=st.integers(0, 1500),
)
@example(
    path=b"x" * 99 + b"/",
    kind=Kind.FOLDER,
    mode=0,
    times=(0, 0),
    ids=(0, 0),
    users=(b"", b""),
    target=b"t",
    attributes={b"a=%3D%": b"="},
    size=0,
)
def test_every_member_comes_back(
    path: bytes,
    kind: Kind,
    mode: int,
    times: tuple[int, int],
    ids: tuple[int, int],
    users: tuple[bytes, bytes],
    target: bytes,
    attributes: dict[bytes, bytes],
    size: int,
) -> None:
    path = path.rstrip(b"/")
    item = entry(
        path,
        kind,
        mode=MODES[kind] & ~0o7777 | mode,
        mtime_ns=times[0],
        ctime_ns=times[1],
        uid=ids[0],
        gid=ids[1],
        owner=users[0].decode(errors="surrogateescape"),
        group=users[1].decode(errors="surrogateescape"),
        target=target if kind is Kind.SYMLINK else b"",
        size=size,
        xattrs=tuple(attributes.items()),
    )
    content = bytes(size) if kind is Kind.FILE else b""
    member = only(item, content)
    assert member.name == (path + b"/" if kind is Kind.FOLDER else path)
    assert (member.mode, member.uid, member.gid) == (mode, *ids)
    assert (member.mtime_ns, member.ctime_ns) == times
    assert member.link == item.target
    assert member.content == content
    for found, written in ((member.owner, users[0]), (member.group, users[1])):
        assert found == (written if len(written) <= 31 or written.isascii() else b"")
    # The way in which GNU tar finds a name again: from left to right, each escape once.
    found_names = [
        re.sub(rb"%(3D|25)", lambda escape: bytes.fromhex(escape[1].decode()), name) for name in member.xattrs
    ]
    assert list(zip(found_names, member.xattrs.values(), strict=True)) == list(item.xattrs)

    info = by_tarfile(item)
    assert info.name.encode(errors="surrogateescape") == path
    assert (info.mode, info.uid, info.gid, info.isdir(), info.issym()) == (
        mode,
        *ids,
        kind is Kind.FOLDER,
        kind is Kind.SYMLINK,
    )
