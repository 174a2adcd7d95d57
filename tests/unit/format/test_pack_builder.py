"""Packs as a whole: what lies where, references, bounds."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.errors import FormatError
from asyncbackup.format.frames import FrameCompressor
from asyncbackup.format.manifest_entries import entry_of_line
from asyncbackup.format.manifest_lines import FileLine, FolderLine, SymlinkLine
from asyncbackup.format.pack_builder import FRAME_BYTES, NO_ENTRY, BuiltPack, PackBuilder, Placement
from asyncbackup.model import Entry, Extent, Kind
from tests.unit.format.strict_tar import Member, read_tar
from tests.unit.format.test_frames import expanded, noise
from tests.unit.format.test_tar import entry
from tests.unit.format.vectors import content

if TYPE_CHECKING:
    from asyncbackup.format.frames import Buffer

RUN = "20261122T195000Z-3fa2"
EARLIER = "20261121T195000Z-00ff"
LEVELS = pytest.mark.parametrize("level", [0, 3], ids=["plain", "zstd"])


def stored(pack: BuiltPack) -> bytes:
    """The pack's bytes, which are what it says of them."""
    data = b"".join(pack.body)
    assert len(data) == pack.size
    assert hashlib.sha256(data).digest() == pack.sha256
    return data


def tar_of(pack: BuiltPack, level: int) -> bytes:
    """The tar that a pack is or expands to, all frames of it."""
    data = stored(pack)
    if not level:
        return data
    tar = b""
    while data:
        expansion = zstandard.ZstdDecompressor().decompressobj()
        tar += expansion.decompress(data)
        assert expansion.eof
        data = expansion.unused_data
    return tar


def placed(pack: BuiltPack, placement: Placement, size: int, level: int) -> bytes:
    """The content at a placement, from those bytes of the pack alone."""
    part = stored(pack)[placement.offset : placement.offset + placement.length]
    assert len(part) == placement.length
    if not level:
        assert placement.length == size
        assert placement.skip == 0
        return part
    return expanded([part])[placement.skip : placement.skip + size]


def reference(path: bytes, *, size: int = 7, extent: Extent | None = None, **fields: Any) -> Entry:
    extent = extent or Extent(EARLIER, "packs/000001.tar.zst", 999, offset=5, compression="zstd", skip=512)
    return entry(path, size=size, sha256=hashlib.sha256(path).digest(), extent=extent, **fields)


def references_of(members: list[Member]) -> list[dict[str, Any]]:
    """The lines in all comments, and that each header keeps to its bound."""
    lines = []
    for member in members:
        if member.kind == b"g":
            assert member.size <= 65_536
            (text,) = member.records.values()
            introduction, _, rest = text.partition(b" ")
            assert introduction == b"asyncbackup"
            assert rest.endswith(b"\n")
            lines += [json.loads(line) for line in rest.splitlines()]
    return lines


@LEVELS
def test_every_content_is_where_its_placement_says(level: int) -> None:
    sizes = [0, 1, 511, 512, 513, 2048, 64 * 1024, 200_000, 0, 700_001, 3, 1_048_576, 5]
    builder = PackBuilder(zstd_level=level)
    for number, size in enumerate(sizes):
        data: Buffer = content(size) if number % 2 else memoryview(noise(size))
        assert builder.add(entry(b"f%d" % number, size=size), data) == number
    pack = builder.finish()
    assert len(pack.placements) == builder.members == len(sizes)
    for number, (size, placement) in enumerate(zip(sizes, pack.placements, strict=True)):
        assert placed(pack, placement, size, level) == (content(size) if number % 2 else noise(size))
    members = read_tar(tar_of(pack, level))
    assert [member.size for member in members] == sizes
    if not level:
        assert [member.offset for member in members] == [place.offset for place in pack.placements]


def test_frames_are_closed_after_the_member_that_filled_them() -> None:
    builder = PackBuilder(zstd_level=3)
    header = 1536
    size = FRAME_BYTES // 2 - header
    for number in range(5):
        builder.add(entry(b"f%d" % number, size=size), noise(size + number)[:size])
    frames = [(placement.offset, placement.skip) for placement in builder.finish().placements]
    assert frames[0] == (0, header)
    assert frames[1] == (0, header + FRAME_BYTES // 2)
    assert frames[2][0] > FRAME_BYTES
    assert frames[2][1] == header
    assert frames[3][0] == frames[2][0] < frames[4][0]


def test_no_frame_expands_to_more_than_16_mib() -> None:
    builder = PackBuilder(zstd_level=1)
    attributes = ((b"user.large", bytes(700_000)),)
    largest = 8 * 1024 * 1024
    builder.add(entry(b"small", size=500_000), bytes(500_000))
    builder.add(entry(b"large", size=largest, xattrs=attributes), bytes(largest))
    data = stored(builder.finish())
    while data:
        expansion = zstandard.ZstdDecompressor().decompressobj()
        assert len(expansion.decompress(data)) <= 16 * 1024 * 1024
        data = expansion.unused_data


@LEVELS
def test_a_frame_is_closed_before_a_member_that_would_pass_the_bound(level: int) -> None:
    builder = PackBuilder(zstd_level=level)
    size = 16 * 1024 * 1024 - 1024
    builder.add(entry(b"small", size=100), bytes(100))
    builder.add(entry(b"large", size=size, mtime_ns=0), bytes(size))
    with pytest.raises(ValueError, match="too many for a member"):
        builder.add(entry(b"too large", size=size + 1024, mtime_ns=0), bytes(size + 1024))
    pack = builder.finish()
    small, large = pack.placements
    assert len(read_tar(tar_of(pack, level))) == 2
    if level:
        assert large.offset == small.offset + small.length
        assert large.skip == 512


def test_large_contents_are_not_copied() -> None:
    data = bytearray(noise(300_000))
    for level in (0, 3):
        builder = PackBuilder(zstd_level=level)
        builder.add(entry(b"small", size=5), b"hello")
        builder.add(entry(b"large", size=len(data)), data)
        builder.add(entry(b"after", size=5), b"hello")
        pack = builder.finish()
        shared = [
            len(piece)
            for piece in pack.body
            if piece is data or (isinstance(piece, memoryview) and piece.obj is data)
        ]
        assert sum(shared) == len(data)
        assert len(pack.body) < 20


def test_small_members_are_joined() -> None:
    builder = PackBuilder(zstd_level=0)
    for number in range(2000):
        builder.add(entry(b"f%d" % number, size=1000), content(1000))
    assert len(builder.finish().body) < 20


def test_a_pack_holds_copies_of_small_contents() -> None:
    for data in (noise(FRAME_BYTES), content(FRAME_BYTES)):
        buffer = bytearray(data)
        builder = PackBuilder(zstd_level=3)
        view = memoryview(buffer)
        for number in range(32):
            size = FRAME_BYTES // 32
            builder.add(entry(b"f%d" % number, size=size), view[number * size : (number + 1) * size])
        view.release()
        pack = builder.finish()
        buffer.clear()  # Raises if anything views it.
        assert b"".join(placed(pack, place, size, 3) for place in pack.placements) == data


def test_a_compressor_serves_one_pack_after_another() -> None:
    compressor = FrameCompressor(level=3)
    packs = []
    for again in (compressor, compressor, None):
        builder = PackBuilder(zstd_level=3, compressor=again)
        for number in range(100):
            builder.add(entry(b"f%d" % number, size=10_000), content(10_000))
        packs.append(stored(builder.finish()))
    assert packs[0] == packs[1] == packs[2]


def test_the_digest_is_left_out_on_demand() -> None:
    built = []
    for digest in (True, False):
        builder = PackBuilder(zstd_level=3)
        builder.add(entry(b"f", size=1000), content(1000))
        built.append(builder.finish(digest=digest))
    assert built[0].sha256 == hashlib.sha256(stored(built[0])).digest()
    assert built[1] == msgspec.structs.replace(built[0], sha256=b"")


@LEVELS
def test_what_a_builder_says_on_the_way(level: int) -> None:
    builder = PackBuilder(zstd_level=level)
    assert (builder.empty, builder.size, builder.members, builder.references) == (True, 0, 0, 0)
    builder.add(entry(b"f", size=100, mtime_ns=0), bytes(100))
    assert (builder.empty, builder.size, builder.members) == (False, 1024, 1)
    builder.add_reference(reference(b"copy"))
    assert (builder.members, builder.references, builder.unreferenced) == (1, 1, 0)
    assert 1024 + 200 < builder.size < 1024 + 1000
    before = builder.size
    builder.add(entry(b"g", size=600_000), content(600_000))
    grown = builder.size - before
    assert grown < 20_000 if level else grown > 600_000
    assert builder.finish().size == pytest.approx(builder.size, abs=3000)


@LEVELS
def test_an_empty_pack(level: int) -> None:
    pack = PackBuilder(zstd_level=level).finish()
    assert pack.placements == ()
    assert tar_of(pack, level) == bytes(1024)


@LEVELS
def test_references(level: int) -> None:
    digest = hashlib.sha256(b"copy").digest()
    plain = Extent(RUN, "files/copy", 7)
    entries = [
        reference(b"copy", extent=plain),
        reference(b"packed"),
        reference(b"sealed", extent=Extent(EARLIER, "files/x", 95, checksum="c2VhbGVk", encrypted=True)),
        reference(b"parts", extent=Extent(EARLIER, "files/y", 7, part_size=5, checksum="cGFydHM=-2")),
        reference(b"\xff\n%41", xattrs=((b"user.\xff", b"\0"),), owner="j\xfcrgen", hardlink="1-1", nlink=2),
        entry(b"dir", Kind.FOLDER, extent=Extent(EARLIER, "files/dir/", 0)),
        entry(b"link", Kind.SYMLINK, size=3, target=b"a\\b", extent=Extent(EARLIER, "files/link", 0)),
    ]
    builder = PackBuilder(zstd_level=level)
    index = builder.add(entry(b"f", size=600_000), content(600_000))
    for item in entries:
        builder.add_reference(item)
    builder.add(entry(b"g", size=5), b"hello")
    pack = builder.finish()
    assert placed(pack, pack.placements[index], 600_000, level) == content(600_000)
    assert placed(pack, pack.placements[1], 5, level) == b"hello"
    members = read_tar(tar_of(pack, level))
    assert [member.name for member in members if member.kind != b"g"] == [b"f", b"g"]
    lines = references_of(members)
    assert [line["extent"]["run"] for line in lines] == [RUN, *([EARLIER] * 6)]
    assert lines[0]["extent"] == {
        "run": RUN,
        "key": "files/copy",
        "length": 7,
        "checksum": base64.b64encode(digest).decode(),
    }
    assert [line["extent"]["key"] for line in lines[1:]] == [
        "packs/000001.tar.zst",
        "files/x",
        "files/y",
        "packs/000001.tar.zst",
        "files/dir/",
        "files/link",
    ]
    assert [line["extent"].get("checksum") for line in lines[1:4]] == [None, "c2VhbGVk", "cGFydHM=-2"]

    decoder = msgspec.json.Decoder(FileLine | FolderLine | SymlinkLine)
    for line, item in zip(lines[1:], entries[1:], strict=True):
        found = entry_of_line(decoder.decode(json.dumps(line)), item.path, RUN)
        assert msgspec.structs.replace(found, extent=None) == msgspec.structs.replace(item, extent=None)


@LEVELS
def test_references_alone(level: int) -> None:
    builder = PackBuilder(zstd_level=level)
    builder.add_reference(reference(b"copy"))
    assert not builder.empty
    pack = builder.finish()
    assert pack.placements == ()
    members = read_tar(tar_of(pack, level))
    assert [(member.kind, member.name, member.size) for member in members[1:]] == [(b"0", NO_ENTRY, 0)]
    assert len(references_of(members)) == 1


@LEVELS
@pytest.mark.parametrize("members", [0, 1, 3])
def test_many_references(level: int, members: int) -> None:
    builder = PackBuilder(zstd_level=level)
    for number in range(members):
        builder.add(entry(b"f%d" % number, size=600_000), content(600_000))
    count = 15_000
    for number in range(count):
        builder.add_reference(reference(b"copies/%d" % number))
    pack = builder.finish()
    for placement in pack.placements:
        assert placed(pack, placement, 600_000, level) == content(600_000)
    read = read_tar(tar_of(pack, level))
    assert [line["path"] for line in references_of(read)] == [f"copies/{n}" for n in range(count)]
    run = longest = 0
    for member in read:
        run = run + 1 if member.kind == b"g" else 0
        longest = max(longest, run)
    assert 1 < longest <= 16
    assert read[-1].kind == b"0"
    runs = -(-sum(member.kind == b"g" for member in read) // 16)
    assert sum(member.name == NO_ENTRY for member in read) == max(0, runs - members)
    assert builder.references == count


def test_a_reference_of_any_length_near_the_bound() -> None:
    builder = PackBuilder(zstd_level=0)
    lengths = range(65_180, 65_240)
    for length in lengths:
        builder.add_reference(reference(b"n" * length))
    assert builder.unreferenced
    assert builder.references
    assert builder.references + builder.unreferenced == len(lengths)
    members = read_tar(stored(builder.finish()))
    assert len(references_of(members)) == builder.references
    assert max(member.size for member in members if member.kind == b"g") == 65_536


def test_hard_links_are_placed_where_their_first_name_is() -> None:
    builder = PackBuilder(zstd_level=3)
    for number in range(3):
        builder.add(entry(b"f%d" % number, size=400_000), noise(400_000))
    linked = entry(b"first", size=5, nlink=3, hardlink="1")
    first = builder.add(linked, b"hello")
    builder.add(entry(b"large", size=600_000), noise(600_000))
    second = builder.add(msgspec.structs.replace(linked, path=b"second"), link_to=b"first")
    third = builder.add(msgspec.structs.replace(linked, path=b"third"), link_to=b"first")
    copy = builder.add(entry(b"copy", size=5), link_to=b"first", copy=True)
    pack = builder.finish()
    assert {pack.placements[index] for index in (second, third, copy)} == {pack.placements[first]}
    assert placed(pack, pack.placements[third], 5, 3) == b"hello"
    assert [m.link for m in read_tar(tar_of(pack, 3))][-3:] == [b"first", b"first", b"first"]


def test_ten_thousand_links() -> None:
    builder = PackBuilder(zstd_level=3)
    builder.add(entry(b"first", size=5), b"hello")
    for number in range(10_000):
        builder.add(entry(b"link %d" % number, size=5), link_to=b"first")
    pack = builder.finish()
    assert set(pack.placements) == {pack.placements[0]}
    assert sum(member.kind == b"1" for member in read_tar(tar_of(pack, 3))) == 10_000


def test_what_is_refused_changes_nothing() -> None:
    builder = PackBuilder(zstd_level=0)
    builder.add(entry(b"first", size=5), b"hello")
    builder.add(entry(b"dir", Kind.FOLDER, size=4096))
    builder.add(entry(b"symlink", Kind.SYMLINK, size=1, target=b"t"))
    size = builder.size
    with pytest.raises(ValueError, match="4 bytes of content are not what the entry says"):
        builder.add(entry(b"f", size=5), b"hell")
    with pytest.raises(ValueError, match="1 bytes of content are not what the entry says"):
        builder.add(entry(b"d", Kind.FOLDER), b"x")
    for target in (b"missing", b"dir", b"symlink"):
        with pytest.raises(ValueError, match="no member"):
            builder.add(entry(b"second", size=5), link_to=target)
    with pytest.raises(ValueError, match="no member"):
        builder.add(entry(b"second", size=6), link_to=b"first")
    with pytest.raises(ValueError, match="a link has no content"):
        builder.add(entry(b"second", size=5), b"hello", link_to=b"first")
    with pytest.raises(ValueError, match="readers of tar"):
        builder.add(entry(b"x", xattrs=((b"user.x", bytes(2**21)),)))
    with pytest.raises(ValueError, match="where its content lies"):
        builder.add_reference(entry(b"f"))
    with pytest.raises(FormatError, match="mode"):
        builder.add_reference(reference(b"f", mode=0o40755))
    assert (builder.size, builder.members, builder.references) == (size, 3, 0)
    assert len(read_tar(stored(builder.finish()))) == 3


def test_further_names_of_symlinks_need_no_first_one() -> None:
    builder = PackBuilder(zstd_level=0)
    builder.add(entry(b"second", Kind.SYMLINK, size=1, target=b"t"), link_to=b"first")
    (member,) = read_tar(stored(builder.finish()))
    assert (member.kind, member.link) == (b"2", b"t")


@given(
    sizes=st.lists(st.integers(0, 3000) | st.integers(0, 300_000), max_size=30),
    references=st.integers(0, 30),
    level=st.sampled_from([0, 1]),
    seed=st.integers(0, 1000),
)
def test_any_pack(sizes: list[int], references: int, level: int, seed: int) -> None:
    source = random.Random(seed)
    contents = [source.randbytes(size) if source.random() < 0.5 else content(size) for size in sizes]
    builder = PackBuilder(zstd_level=level)
    for number, data in enumerate(contents):
        builder.add(entry(b"n" * source.randrange(1, 300), size=len(data)), data)
        if number < references:
            builder.add_reference(reference(b"copy %d" % number))
    pack = builder.finish()
    members = read_tar(tar_of(pack, level))
    assert [member.content for member in members if member.kind != b"g"] == contents
    for data, placement in zip(contents, pack.placements, strict=True):
        assert placed(pack, placement, len(data), level) == data
