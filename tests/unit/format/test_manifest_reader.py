from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgspec
import pytest
import zstandard

from asyncbackup.errors import FormatError
from asyncbackup.format.manifest import MAX_LINE_BYTES, Item, ManifestReader, ManifestTrailer
from asyncbackup.model import Entry
from tests.unit.format.manifests import (
    EARLIER,
    RUN,
    by_lines,
    end_line,
    file,
    file_line,
    folder,
    folder_line,
    frame,
    header_line,
    symlink,
    symlink_line,
    written,
)

TREE = [folder(b""), folder(b"docs"), file(b"zoo"), symlink(b"zz"), file(b"docs/a"), file(b"docs/\xff%41")]
DIFFERENCE = header_line(base=EARLIER, depth=1)


def read(data: bytes, *, step: int = 1 << 20) -> tuple[list[Item], ManifestTrailer]:
    reader = ManifestReader(name="the test's manifest")
    items = [item for start in range(0, len(data), step) for item in reader.feed(data[start : start + step])]
    return items, reader.finish()


def text_of(*lines: dict[str, Any]) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


@pytest.mark.parametrize("step", [1, 7, 100, 1 << 20])
def test_pieces_of_any_size(step: int) -> None:
    items, trailer = read(written(TREE), step=step)
    assert items == TREE
    assert (trailer.entries, trailer.files, trailer.folders, trailer.symlinks) == (6, 3, 2, 1)


def test_header_is_there_with_the_first_line() -> None:
    data = written(TREE)
    reader = ManifestReader()
    before = reader.header
    reader.feed(data)
    header = reader.header
    assert before is None
    assert header is not None
    assert (header.snapshot, header.base, header.depth) == (RUN, None, 0)


def test_buffers_of_every_kind() -> None:
    data = written(TREE)
    for buffer in (data, bytearray(data), memoryview(data)):
        assert ManifestReader().feed(buffer) == TREE


def test_truncated_at_every_byte() -> None:
    data = written(TREE)
    for length in range(len(data)):
        with pytest.raises(FormatError, match="the test's manifest"):
            read(data[:length])


def test_one_bit_flipped_in_any_byte_changes_nothing_unnoticed() -> None:
    """zstd's checksum sees to it; a few bits that mean nothing to zstd (paddings, the window) may pass."""
    data = bytearray(written(TREE))
    good = read(bytes(data))
    passed = 0
    for place in range(len(data)):
        for bit in range(8):
            data[place] ^= 1 << bit
            with contextlib.suppress(FormatError):
                assert read(bytes(data)) == good
                passed += 1
            data[place] ^= 1 << bit
    assert passed < len(data) * 8 / 50


@pytest.mark.parametrize("more", [b"\0", b"more", written(TREE)])
def test_trailing_garbage_is_refused(more: bytes) -> None:
    data = written(TREE)
    with pytest.raises(FormatError, match="something follows its end"):
        read(data + more)
    reader = ManifestReader()
    reader.feed(data)
    with pytest.raises(FormatError, match="something follows its end"):
        reader.feed(more)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"{}\n", b"PK\x03\x04" * 30, text_of(header_line())])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        read(data)


def test_frame_without_checksum_is_refused() -> None:
    text = text_of(header_line(), end_line([]))
    read(frame(text))
    with pytest.raises(FormatError, match="with a checksum"):
        read(frame(text, checksum=False))


def test_large_window_is_refused() -> None:
    with pytest.raises(FormatError, match="memory"):
        read(frame(text_of(header_line(), end_line([])), window_log=24))


@pytest.mark.parametrize("version", [0, 2, 17])
def test_other_versions_are_named_before_anything_else_is_looked_at(version: int) -> None:
    line = {"type": "manifest", "format": version, "snapshot": ["all", "different"]}
    with pytest.raises(FormatError, match=f"has format {version}, this asyncbackup reads format 1"):
        read(frame(text_of(line)))


def test_unknown_requirements_are_named() -> None:
    with pytest.raises(FormatError, match="requires packs, moon; a newer asyncbackup is needed"):
        read(by_lines(header=header_line(requires=["packs", "moon"])))


def test_unknown_fields_are_ignored() -> None:
    items, _ = read(by_lines(file_line("a", later={"x": [1]}), header=header_line(later=1)))
    assert len(items) == 1


@pytest.mark.parametrize(
    "line",
    [
        file_line(""),
        file_line("/a"),
        file_line("a/"),
        file_line("a//b"),
        file_line("."),
        file_line(".."),
        file_line("../a"),
        file_line("a/../b"),
        file_line("a/."),
        file_line("%2E%2E"),
        file_line("a/%2e%2e/b"),
        file_line("a%2F..%2Fb"),
        file_line("a%2F"),
        file_line("a%00b"),
        file_line("a\0b"),
        file_line("a", size=-1),
        file_line("a", size=2**63),
        file_line("a", size=5.0),
        file_line("a", size="5"),
        file_line("a", size=4),
        file_line("a", mode="40755"),
        file_line("a", mode="644"),
        file_line("a", mode="100888"),
        file_line("a", mode="-100644"),
        file_line("a", mode="0o100644"),
        file_line("a", mode="0100644"),
        file_line("a", mode=33188),
        file_line("a", mtime=1.5),
        file_line("a", mtime=2**93),
        file_line("a", uid=-1),
        file_line("a", uid=2**32),
        file_line("a", sha256="ab"),
        file_line("a", sha256="zz" * 32),
        file_line("a", sha256="ab " * 31 + "ab"),
        file_line("a", extent=None),
        file_line("a", extent={}),
        file_line("a", extent={"length": 4}),
        file_line("a", extent={"length": 5, "offset": -1}),
        file_line("a", extent={"length": 5, "run": "x"}),
        file_line("a", extent={"length": 5, "run": "20991231T000000Z-0000"}),
        file_line("a", extent={"length": 5, "key": "../x"}),
        file_line("a", extent={"length": 5, "key": "/etc/passwd"}),
        file_line("a", extent={"length": 5, "key": "files//x"}),
        file_line("a", extent={"length": 5, "encrypted": True}),
        file_line("a", extent={"length": 93, "offset": 1, "encrypted": True}),
        file_line("a", xattrs={"user.a": "not base64"}),
        file_line("a", xattrs={"": ""}),
        file_line("a", xattrs={"user.%00": ""}),
        file_line("a", xattrs=[1]),
        folder_line("a", mode="100644"),
        symlink_line("a", target=""),
        symlink_line("a", target="a%00b"),
        symlink_line("a", mode="100777"),
        {"type": "symlink", "path": "a", "mode": "120777", "size": 1, "mtime": 1, "uid": 0, "gid": 0},
        {"type": "device", "path": "a"},
        {"type": "manifest", "format": 1},
        {"path": "a"},
        {"type": "deleted", "path": "a"},
        {"type": "failed", "path": "a", "kind": "device", "reason": ""},
    ],
    ids=lambda line: str(line)[:90],
)
def test_bad_lines_are_refused_and_numbered(line: dict[str, Any]) -> None:
    good = folder_line("")
    with pytest.raises(FormatError, match=r"^the test's manifest: line 3: "):
        read(by_lines(good, line))


@pytest.mark.parametrize(
    "text",
    [
        b"\n",
        b" \n",
        b"null\n",
        b"[]\n",
        b"{\n",
        b"x\n",
        b'{"type":"file","path":"\xff"}\n',
        b'{"type":"file","path":"\\ud800"}\n',
        b'{"type":"file","mtime":1' + b"0" * 9999 + b"}\n",
        b'{"type":"file","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    ],
    ids=lambda text: repr(text[:30]),
)
def test_lines_that_are_no_json_objects_are_refused_and_numbered(text: bytes) -> None:
    for before in (0, 2000):
        lines = [folder_line(f"{number:04}") for number in range(before)]
        data = frame(text_of(header_line(), *lines) + text + text_of(end_line([])))
        with pytest.raises(FormatError, match=f"line {before + 2}: "):
            read(data)


@pytest.mark.parametrize(
    "paths",
    [
        ["b", "a"],
        ["a", "a"],
        ["a", "%61"],
        ["b/a", "a"],
        ["a/b", "a"],
        ["b/c", "a/d"],
        ["a-b/c", "a/b"],
        ["a/b", "c"],
        ["a/b", ""],
        ["", ""],
    ],
)
def test_order_is_checked(paths: list[str]) -> None:
    with pytest.raises(FormatError, match=r"line 3: .*out of order"):
        read(by_lines(*(folder_line(path) for path in paths)))


def test_order_is_by_folder_then_name_as_bytes() -> None:
    paths = ["", "a", "a-b", "b", "é", "a/y", "a/z", "a-b/x", "a/y/x", "é/x"]
    items, _ = read(by_lines(*(folder_line(path) for path in paths)))
    assert [item.path.decode() for item in items if isinstance(item, Entry)] == paths


def test_difference() -> None:
    lines = [file_line("a"), {"type": "deleted", "path": "b"}, file_line("c/d")]
    items, trailer = read(by_lines(*lines, header=DIFFERENCE))
    assert [type(item).__name__ for item in items] == ["Entry", "Deleted", "Entry"]
    assert (trailer.entries, trailer.deleted) == (2, 1)
    with pytest.raises(FormatError, match=r"line 3: .*out of order"):
        read(by_lines(file_line("a"), {"type": "deleted", "path": "a"}, header=DIFFERENCE))
    with pytest.raises(FormatError, match=r"line 2: '\.\.' is not a path"):
        read(by_lines({"type": "deleted", "path": ".."}, header=DIFFERENCE))


@pytest.mark.parametrize(
    "change",
    [
        {"snapshot": "x"},
        {"snapshot": None},
        {"base": EARLIER},
        {"base": EARLIER, "depth": 33},
        {"base": RUN, "depth": 1},
        {"depth": -1},
        {"section": 5},
        {"requires": "packs"},
        {"type": "file"},
    ],
)
def test_bad_headers_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"^the test's manifest: (line 1|the first line)"):
        read(by_lines(header=header_line(**change)))


@pytest.mark.parametrize(
    "change",
    [{name: 7} for name in ("entries", "deleted", "failed", "files", "folders", "symlinks", "bytes")]
    + [{"entries": -1}, {"finished": "x"}],
)
def test_end_must_fit(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        read(frame(text_of(header_line(), file_line("a"), end_line([file_line("a")], **change))))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([header_line(), file_line("a")], "ends early"),
        ([header_line()], "ends early"),
        ([], "ends early"),
        ([header_line(), end_line([]), end_line([])], "line 3: something follows the last line"),
        ([header_line(), end_line([]), file_line("a")], "line 3: something follows the last line"),
        (
            [header_line(), {"type": "failed", "path": "x", "kind": "file", "reason": ""}, file_line("a")],
            "line 3: an entry or a pack follows the failures",
        ),
    ],
)
def test_the_end_is_the_end(lines: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read(frame(text_of(*lines)))


def test_last_line_without_line_feed_is_refused() -> None:
    with pytest.raises(FormatError, match="ends early"):
        read(frame(text_of(header_line(), end_line([]))[:-1]))


def test_long_lines() -> None:
    def line(size: int) -> bytes:
        filling = size - len(msgspec.json.encode(file_line("a", later=""))) - 1
        return text_of(file_line("a", later="x" * filling))

    start, end = text_of(header_line()), text_of(end_line([file_line("a")]))
    assert len(line(MAX_LINE_BYTES)) == MAX_LINE_BYTES
    read(frame(start + line(MAX_LINE_BYTES) + end))
    for step in (100, 1 << 20):
        with pytest.raises(FormatError, match=f"line 2 is longer than {MAX_LINE_BYTES} bytes"):
            read(frame(start + line(MAX_LINE_BYTES + 1) + end), step=step)


def test_many_failures_are_counted_and_the_first_kept() -> None:
    lines = [{"type": "failed", "path": f"{n}", "kind": "file", "reason": "no"} for n in range(10_500)]
    _, trailer = read(by_lines(*lines))
    assert trailer.failed == 10_500
    assert len(trailer.failures) == 10_000


@pytest.mark.parametrize(
    "line",
    [b"x" * (1 << 20), text_of(folder_line("a", later="x" * 900_000)), b"\n" * (1 << 20)],
    ids=["endless line", "one line again and again", "empty lines"],
)
def test_a_bomb_costs_no_memory(line: bytes) -> None:
    """Half a GiB in some KiB is stopped within its first MiBs."""
    stream = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compressobj()
    data = stream.compress(text_of(header_line()))
    data += b"".join(stream.compress(line) for _ in range(512)) + stream.flush()
    assert len(data) < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"longer than|out of order|line 2"):
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20


def test_batches_are_bounded_whatever_the_data_expands_to() -> None:
    """Large attributes that repeat compress a thousandfold; they still come a few at a time."""
    entries = [file(b"%05d" % number, xattrs=((b"user.x", b"v" * 60_000),)) for number in range(300)]
    data = written(entries)
    assert len(data) < 100_000
    sizes = [len(batch) for batch in ManifestReader().batches(data)]
    assert sum(sizes) == 300
    assert max(sizes) <= 4
