"""Reading packs back: against the builder, against Python's tarfile, and damaged or hostile ones."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import tracemalloc
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.format.frames import raw_frame
from asyncbackup.format.keys import check_path
from asyncbackup.format.pack_builder import PackBuilder
from asyncbackup.format.pack_reader import PackItem, PackLoss, PackMember, PackReader
from asyncbackup.format.tar import END, comment_header, extended_header, member_header, padding
from asyncbackup.model import Entry, Extent, Kind, Pack

RUN = "20261122T195000Z-3fa2"
EARLIER = "20261121T195000Z-0001"
MTIME_NS = 1_700_000_000_123_456_789
MIB = 1024 * 1024
LEVELS = pytest.mark.parametrize("level", [0, 3], ids=["plain", "zstd"])

OCTAL_SIZE = slice(124, 136)


def read(body: bytes, *, level: int = 0, step: int = 1 << 16) -> list[PackItem]:
    """All that a pack gives, fed in steps."""
    key = "packs/000001.tar.zst" if level else "packs/000001.tar"
    reader = PackReader(Pack(RUN, key, len(body), compression="zstd" if level else ""))
    items = [
        item
        for start in range(0, len(body), step)
        for batch in reader.batches(body[start : start + step])
        for item in batch
    ]
    return [*items, *reader.finish()]


def members(items: list[PackItem]) -> dict[bytes, PackMember]:
    return {item.entry.path: item for item in items if isinstance(item, PackMember)}


def losses(items: list[PackItem]) -> list[PackLoss]:
    return [item for item in items if isinstance(item, PackLoss)]


def file(path: bytes, content: bytes = b"", **fields: Any) -> Entry:
    values: dict[str, Any] = {
        "path": path,
        "kind": Kind.FILE,
        "mode": 0o100644,
        "size": len(content),
        "sha256": hashlib.sha256(content).digest(),
        "mtime_ns": MTIME_NS,
        "ctime_ns": MTIME_NS + 7,
        "uid": 1000,
        "gid": 100,
        "owner": "müller",
        "group": "users",
    }
    return Entry(**(values | fields))


def member(path: bytes, content: bytes = b"", *, link_to: bytes = b"", **fields: Any) -> bytes:
    """The blocks of one member."""
    return member_header(file(path, content, **fields), link_to=link_to) + content + padding(len(content))


def changed(block: bytes, place: slice, value: bytes) -> bytes:
    """A header block with another value in a field, and a checksum that fits."""
    raw = bytearray(block[:512])
    raw[place] = value.ljust(place.stop - place.start, b"\0")
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw) + block[512:]


# What the builder writes ---------------------------------------------------------------------------

TREE = [
    (file(b"", kind=Kind.FOLDER, mode=0o040755, sha256=b""), b""),
    (file(b"docs", kind=Kind.FOLDER, mode=0o042750, sha256=b"", uid=2**31, gid=2**32 - 1), b""),
    (file(b"docs/report.pdf", b"report" * 5000), b"report" * 5000),
    (file(b"docs/empty"), b""),
    (file(b"odd \xff\\%41\n", b"odd", mtime_ns=-1_500_000_000, ctime_ns=0, mode=0o104755), b"odd"),
    (file(b"future", b"1", mtime_ns=2**62 * 1_000_000_000), b"1"),
    (file(b"deep/" * 60 + b"leaf", b"deep"), b"deep"),
    (file(("späte/" * 60).encode() + b"leaf", b"deeper", owner="o" * 40), b"deeper"),
    (
        file(
            b"attributes",
            b"x",
            xattrs=((b"user.a=b%3D%", b"\0=\n\xff"), (b"user.empty", b""), (b"user.big", b"v" * 70_000)),
        ),
        b"x",
    ),
]
LINK = file(b"a-link", kind=Kind.SYMLINK, mode=0o120777, size=9, target=b"docs/\xffrep", sha256=b"")
LONG_LINK = file(
    b"long-link", kind=Kind.SYMLINK, mode=0o120777, size=404, target=b"to/" * 134 + b"ab", sha256=b""
)
REFERENCE = file(
    b"copy",
    b"report",
    nlink=3,
    extent=Extent(EARLIER, "files/docs/r", 6),
)


@LEVELS
@pytest.mark.parametrize("step", [1 << 16, 1000, 511])
def test_what_the_builder_packs_comes_back(level: int, step: int) -> None:
    builder = PackBuilder(zstd_level=level)
    wanted = {}
    for entry, content in [*TREE, (LINK, b""), (LONG_LINK, b"")]:
        wanted[entry.path] = (entry, builder.add(entry, content))
    builder.add(file(b"docs/again", b"report" * 5000), link_to=b"docs/report.pdf")
    builder.add(file(b"docs/copy", b"report" * 5000, mode=0o100600), link_to=b"docs/report.pdf", copy=True)
    builder.add_reference(REFERENCE)
    built = builder.finish()
    items = read(b"".join(built.body), level=level, step=step)
    assert losses(items) == []
    found = members(items)
    assert found.keys() == {*wanted, b"docs/again", b"docs/copy", b"copy"}
    for path, (entry, index) in wanted.items():
        told = found[path].entry
        placement = built.placements[index]
        assert told.extent is not None
        assert (told.extent.run, told.extent.key[:12]) == (RUN, "packs/000001")
        if entry.kind is Kind.FILE:
            extent = told.extent
            assert (extent.offset, extent.length, extent.skip) == (
                placement.offset,
                placement.length,
                placement.skip,
            )
        assert extent_free(told) == extent_free(entry)
    assert found[b"docs/again"].link_to == b"docs/report.pdf"
    assert (found[b"docs/copy"].link_to, found[b"docs/copy"].entry.mode) == (b"docs/report.pdf", 0o100600)
    assert (found[b"docs/again"].copy, found[b"docs/copy"].copy) == (False, True)
    reference = found[b"copy"]
    assert reference.reference
    assert reference.entry.extent is not None
    assert extent_free(reference.entry) == extent_free(REFERENCE)
    assert (reference.entry.extent.run, reference.entry.extent.key) == (EARLIER, "files/docs/r")


def extent_free(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, extent=None)


@LEVELS
def test_every_extent_leads_to_its_content(level: int) -> None:
    builder = PackBuilder(zstd_level=level)
    contents = {b"%04d" % n: b"%d " % n * (n * 7 % 900) for n in range(2000)}
    for path, content in contents.items():
        builder.add(file(path, content), content)
    body = b"".join(builder.finish().body)
    found = members(read(body, level=level))
    assert found.keys() == contents.keys()
    for path, content in contents.items():
        entry = found[path].entry
        extent = entry.extent
        assert extent is not None
        stored = body[extent.offset : extent.offset + extent.length]
        if level:
            stored = zstandard.ZstdDecompressor().decompressobj().decompress(stored)
        assert stored[extent.skip : extent.skip + entry.size] == content
        assert entry.sha256 == hashlib.sha256(content).digest()


@LEVELS
def test_a_pack_of_references_alone_has_no_member(level: int) -> None:
    builder = PackBuilder(zstd_level=level)
    for number in range(2000):
        builder.add_reference(msgspec.structs.replace(REFERENCE, path=b"copy-%d" % number))
    items = read(b"".join(builder.finish().body), level=level)
    assert losses(items) == []
    assert members(items).keys() == {b"copy-%d" % number for number in range(2000)}


def test_a_member_of_a_rewritten_pack_is_of_the_run_it_names() -> None:
    (found,) = members(read(member_header(file(b"old"), run=EARLIER) + END)).values()
    assert (found.run, found.entry.path) == (EARLIER, b"old")
    assert found.entry.extent is not None
    assert found.entry.extent.run == RUN


def test_a_member_of_a_later_run_than_the_pack_is_refused() -> None:
    later = "99991231T235959Z-ffff"
    items = read(member_header(file(b"evil"), run=later) + member_header(file(b"good")) + END)
    assert list(members(items)) == [b"good"]
    (lost,) = losses(items)
    assert (lost.name, lost.reason) == (b"evil", f"it is said to be of the later run {later}")


def test_a_file_of_the_name_that_stands_for_no_entry_is_an_entry() -> None:
    builder = PackBuilder(zstd_level=0)
    builder.add_reference(REFERENCE)
    builder.add(file(b"a"))
    builder.add(file(b".asyncbackup-references"))
    assert len(members(read(b"".join(builder.finish().body)))) == 3


def _fuzzed(level: int) -> bytes:
    builder = PackBuilder(zstd_level=level)
    for entry, content in [*TREE[:-1], (LINK, b""), (LONG_LINK, b"")]:
        builder.add(entry, content[: entry.size])
    builder.add_reference(REFERENCE)
    return b"".join(builder.finish().body)


FUZZED = {level: _fuzzed(level) for level in (0, 3)}


# What tarfile writes -------------------------------------------------------------------------------

_names = st.binary(min_size=1, max_size=130).filter(
    lambda name: not {b"", b".", b".."} & set(name.split(b"/")) and b"\0" not in name
)


@given(
    tree=st.dictionaries(_names, st.binary(max_size=1500), max_size=8),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    mtime=st.integers(-(2**31), 2**35),
    uid=st.integers(0, 2**32 - 1),
    step=st.integers(1, 4000),
)
def test_what_tarfile_writes_is_read_as_tarfile_reads_it(
    tree: dict[bytes, bytes], form: int, mtime: int, uid: int, step: int
) -> None:
    stream = io.BytesIO()
    options: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "format": form}
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for name, content in tree.items():
            info = tarfile.TarInfo(name.decode(errors="surrogateescape"))
            info.size, info.mtime, info.uid, info.mode = len(content), mtime, uid, 0o640
            archive.addfile(info, io.BytesIO(content))
    body = stream.getvalue()
    items = read(body, step=step)
    assert losses(items) == []
    found = members(items)
    with tarfile.open(fileobj=io.BytesIO(body), **options) as archive:
        for info in archive:
            entry = found.pop(info.name.encode(errors="surrogateescape")).entry
            extracted = archive.extractfile(info)
            assert extracted is not None
            assert entry.sha256 == hashlib.sha256(extracted.read()).digest()
            assert entry.extent is not None
            assert (entry.size, entry.extent.offset) == (info.size, info.offset_data)
            assert (entry.mtime_ns, entry.uid, entry.mode) == (mtime * 10**9, uid, 0o100640)
    assert not found


def test_what_is_no_entry_is_named_and_what_follows_is_read() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
            info = tarfile.TarInfo("special")
            info.type = kind
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("after"))
    items = read(stream.getvalue())
    assert members(items).keys() == {b"after"}
    assert [loss.name for loss in losses(items)] == [b"special"] * 3


# Hostile archives ----------------------------------------------------------------------------------

GOOD = member(b"before", b"1")
BARE = member(b"x", mtime_ns=0, ctime_ns=0)
BARE_1 = member(b"x", b"1", mtime_ns=0, ctime_ns=0)
FLAG = slice(156, 157)
HALF = extended_header(b"x", b"11 mtime=1\n")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"../up", "not a path"),
        (b"a/../../up", "not a path"),
        (b"/etc/passwd", "not a path"),
        (b"a//b", "not a path"),
        (b"./", "no name"),
        (b"././a", "not a path"),
        (b"slash/", "not a path"),
    ],
)
def test_a_name_that_no_entry_can_have_is_refused(name: bytes, reason: str) -> None:
    bad = changed(member(b"x", b"content"), slice(345, 500), b"")
    extended, header = bad[:1024], bad[1024:]
    items = read(GOOD + extended + changed(header, slice(0, 100), name) + GOOD + END)
    assert members(items).keys() == {b"before"}
    (loss,) = losses(items)
    assert loss.name == name
    assert reason in loss.reason


def record(keyword: bytes, value: bytes) -> bytes:
    size = len(keyword) + len(value) + 3
    length = size + len(str(size))
    length = size + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def with_records(*records: tuple[bytes, bytes], content: bytes = b"") -> bytes:
    bare = member_header(file(b"bad", content, mtime_ns=0, ctime_ns=0))
    body = extended_header(b"x", b"".join(record(*each) for each in records))
    return body + bare + content + padding(len(content))


@pytest.mark.parametrize(
    "records",
    [
        [(b"path", b"a\0b")],
        [(b"path", b"../up")],
        [(b"path", b"")],
        [(b"mtime", b"yesterday")],
        [(b"mtime", b"9" * 19)],
        [(b"mtime", b"9" * 40)],
        [(b"uid", b"-1")],
        [(b"uid", b"4294967296")],
        [(b"gid", b"1" * 100)],
        [(b"uname", b"a\0b")],
        [(b"SCHILY.xattr.", b"nameless")],
        [(b"SCHILY.xattr.a\0b", b"x")],
        [(b"comment", b"asyncbackup run ../../etc")],
        [(b"comment", b"asyncbackup copy run \xff")],
        [(b"SCHILY.xattr.user.big", b"x" * 900_000)],
    ],
)
def test_values_that_no_file_has_are_refused(records: list[tuple[bytes, bytes]]) -> None:
    items = read(with_records(*records, content=b"skipped") + GOOD + END)
    assert members(items).keys() == {b"before"}
    assert len(losses(items)) == 1


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(with_records((b"size", b"-5")), id="negative-size"),
        pytest.param(with_records((b"size", b"9223372036854775808")), id="size-beyond-63-bits"),
        pytest.param(with_records((b"size", b"9" * 5000)), id="size-of-5000-digits"),
        pytest.param(with_records((b"GNU.sparse.major", b"1")), id="sparse"),
        pytest.param(changed(BARE, OCTAL_SIZE, b"\xff" * 12), id="negative-base256"),
        pytest.param(
            changed(BARE, OCTAL_SIZE, b"\x80" + b"\x7f" * 11), id="huge-base256"
        ),
        pytest.param(changed(BARE, OCTAL_SIZE, b"12x45"), id="no-octal"),
        pytest.param(changed(BARE, FLAG, b"S"), id="gnu-sparse"),
        pytest.param(changed(BARE_1, FLAG, b"5"), id="folder-with-content"),
        pytest.param(changed(BARE_1, FLAG, b"1"), id="link-with-content"),
        pytest.param(changed(BARE, slice(257, 265), b"ustar00"), id="other-magic"),
        pytest.param(bytes(512) + GOOD, id="after-the-end"),
        pytest.param(b"\x01" * 512, id="no-header"),
        pytest.param(GOOD[:100] + b"\x01" + GOOD[101:], id="wrong-checksum"),
        pytest.param(extended_header(b"x", b"12 mtime=1\n" * 2) + GOOD, id="record-cut"),
        pytest.param(extended_header(b"x", b"99999999 path=x\n") + GOOD, id="record-too-long"),
        pytest.param(extended_header(b"x", b"9 =empty\n") + GOOD, id="record-without-keyword"),
        pytest.param(extended_header(b"x", b"no records at all") + GOOD, id="no-record"),
        pytest.param(HALF * 2 + GOOD, id="two-extended-headers"),
        pytest.param(HALF + comment_header(b"x") + GOOD, id="global-between"),
        pytest.param(extended_header(b"g", b"11 mtime=1\n") + GOOD, id="global-values"),
        pytest.param(extended_header(b"g", record(b"comment", b"c" * 70_000)) + GOOD, id="global-too-large"),
        pytest.param(HALF, id="extended-header-of-nothing"),
    ],
)  # fmt: skip
@LEVELS
def test_after_damage_nothing_is_believed_and_it_is_said(bad: bytes, level: int) -> None:
    body = GOOD + bad + member(b"after") + END
    if bad == HALF:
        body = GOOD + bad + END
    if level:
        body = b"".join(raw_frame([body]))
    items = read(body, level=level)
    assert members(items).keys() == {b"before"}
    assert [loss.name for loss in losses(items)] == [None]
    assert "is lost" in losses(items)[0].reason


def test_names_that_readers_of_tar_see_differently_are_refused() -> None:
    long_name = member_header(file(b"n" * 300, mtime_ns=0, ctime_ns=0))
    # The extended header names one path, GNU's long name another.
    assert long_name[156:157] == b"x"
    forged = extended_header(b"x", record(b"path", b"m" * 300)) + long_name[1024:]
    items = read(forged + GOOD + END)
    assert members(items).keys() == {b"before"}
    assert [loss.reason for loss in losses(items)] == ["its long names contradict each other"]


def test_references_that_lead_nowhere_are_refused_one_by_one() -> None:
    builder = PackBuilder(zstd_level=0)
    builder.add_reference(REFERENCE)
    good = b"".join(builder.finish().body)
    line = good[512 : good.index(b"\n", 512 + 80)].partition(b"asyncbackup ")[2]
    bad = [
        line.replace(b'"run":', b'"ran":'),
        line.replace(b'"key":', b'"kay":'),
        line.replace(b"files/docs/r", b"files/../../x"),
        line.replace(EARLIER.encode(), b"20991121T195000Z-0001"),
        line.replace(b'"path":"copy"', b'"path":"../copy"'),
        line.replace(b'"path":"copy"', b'"path":"a%00b"'),
        line.replace(b'"type":"file"', b'"type":"deleted"'),
        b"[" * 60_000,
        b"\xff",
        b"",
    ]
    for each in bad:
        items = read(comment_header(b"asyncbackup " + each + b"\n" + line + b"\n") + GOOD + END)
        assert members(items).keys() == {b"copy", b"before"}
        assert len(losses(items)) == 1, each
    # Comments of others are no concern of ours.
    assert members(read(comment_header(b"0123abcd") + GOOD + END)).keys() == {b"before"}


def test_what_is_said_of_a_loss_is_bounded() -> None:
    name = b"up/../" * 170_000
    body = with_records((b"path", name)) + GOOD + END
    (loss,) = losses(read(body))
    assert loss.name is None
    assert f"a name of {len(name)} bytes" in loss.reason
    assert len(loss.reason) < 2000
    long = b"[" + b"x" * 60_000
    (loss,) = losses(read(comment_header(b"asyncbackup " + long) + GOOD + END))
    assert len(loss.reason) < 2000


@given(seed=st.integers(0, 2**32), level=st.sampled_from([0, 3]), flips=st.integers(1, 20))
def test_damage_of_any_kind_ends_in_items(seed: int, level: int, flips: int) -> None:
    dice = random.Random(seed)
    body = bytearray(FUZZED[level])
    for _ in range(flips):
        place = dice.randrange(len(body))
        if dice.random() < 0.1:
            del body[place : place + dice.randrange(2000)]
        else:
            body[place] = dice.randrange(256)
        body = body or bytearray(1)
    for item in read(bytes(body), level=level, step=dice.randrange(1, 5000)):
        if isinstance(item, PackMember):
            check_path(item.entry.path)
            assert item.entry.size >= 0


def test_a_huge_extended_header_is_refused_before_it_is_read() -> None:
    huge = changed(extended_header(b"x", b"11 mtime=1\n"), OCTAL_SIZE, b"%011o" % (1 << 30))
    body = GOOD + huge + bytes(64 * MIB)
    tracemalloc.start()
    try:
        items = read(body, step=MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert members(items).keys() == {b"before"}
    assert "a header of 1073741824 bytes" in losses(items)[0].reason
    assert peak < 4 * MIB


@LEVELS
def test_any_number_of_members_takes_the_same_memory(level: int) -> None:
    plain = member(b"many", mtime_ns=0, ctime_ns=0) * 1000
    body = b"".join(raw_frame([plain])) if level else plain
    key = "packs/000001.tar"
    reader = PackReader(Pack(RUN, key, 0, compression="zstd" if level else ""))
    count = 0
    tracemalloc.start()
    try:
        for _ in range(8):
            for batch in reader.batches(body):
                assert len(batch) <= 1024
                count += len(batch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 8_000
    assert peak < 4 * MIB


# Damaged frames ------------------------------------------------------------------------------------


def three_frames() -> list[bytes]:
    """Three frames, the last with the archive's end; compressed, so that damage shows."""
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    parts = [
        member(b"%s-%d" % (name, n), b"text of it " * 50) for name in (b"a", b"b", b"c") for n in range(20)
    ]
    bodies = [b"".join(parts[:20]), b"".join(parts[20:40]), b"".join(parts[40:]) + END]
    return [compressor.compress(body) for body in bodies]


def test_behind_a_damaged_frame_the_others_are_read_and_its_members_are_named() -> None:
    first, second, third = three_frames()
    damaged = second[:-1] + bytes([second[-1] ^ 1])
    items = read(first + damaged + third, level=3)
    found = members(items)
    assert found.keys() == {b"%s-%d" % (name, n) for name in (b"a", b"c") for n in range(20)}
    lost = {loss.name for loss in losses(items)}
    assert None in lost
    assert lost - {None} == {b"b-%d" % n for n in range(20)}
    extent = found[b"c-0"].entry.extent
    assert extent is not None
    assert (extent.offset, extent.length) == (len(first) + len(second), len(third))


def test_every_flipped_bit_costs_its_frame_at_the_most() -> None:
    first, second, third = three_frames()
    whole = members(read(first + second + third, level=3))
    for place in range(4, len(second)):
        damaged = second[:place] + bytes([second[place] ^ 0x20]) + second[place + 1 :]
        items = read(first + damaged + third, level=3)
        # Some bits mean nothing.
        assert losses(items) or members(items) == whole, place
        assert members(items).keys() >= {b"a-%d" % n for n in range(20)}


@LEVELS
def test_a_pack_that_was_cut_off_gives_what_it_has_and_says_so(level: int) -> None:
    parts = three_frames()
    body = b"".join(parts) if level else zstandard.ZstdDecompressor().decompress(parts[0]) + END
    for size in {*range(0, len(body), 97), len(body) - 1}:
        items = read(body[:size], level=level)
        assert losses(items)[-1].name is None
        assert "ends early" in losses(items)[-1].reason
    assert losses(read(body, level=level)) == []


def test_a_frame_that_expands_without_end_is_given_up() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * MIB))
    tracemalloc.start()
    try:
        items = read(bomb + b"".join(raw_frame([GOOD + END])), level=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert members(items).keys() == {b"before"}
    assert "expands to more than 16777216 bytes" in losses(items)[0].reason
    assert peak < 8 * MIB


def test_a_member_in_two_frames_is_no_member_of_either() -> None:
    body = GOOD + member(b"torn", b"x" * 2000) + END
    frames = b"".join(raw_frame([body[:4000]])) + b"".join(raw_frame([body[4000:]]))
    items = read(frames, level=3)
    assert members(items).keys() == {b"before"}
    assert [loss.name for loss in losses(items)][:2] == [b"torn", None]


def test_something_between_frames_ends_the_pack() -> None:
    first, second, third = three_frames()
    items = read(first + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + second + third, level=3)
    assert members(items).keys() == {b"a-%d" % n for n in range(20)}
    assert f"no zstd frame begins at byte {len(first)}" in losses(items)[-1].reason
