from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import zstandard

from asyncbackup.errors import FormatError
from asyncbackup.format.manifest import (
    MAX_LINE_BYTES,
    Deleted,
    ManifestHeader,
    ManifestReader,
    ManifestTrailer,
    ManifestWriter,
    entry_fits,
)
from asyncbackup.model import Entry, Extent, Failure, Kind
from tests.unit.format import independent_reader
from tests.unit.format.manifests import EARLIER, HEADER, RUN, file, folder, symlink, written


def lines_of(data: bytes) -> list[dict[str, Any]]:
    text = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return [json.loads(line) for line in text.splitlines()]


TREE = [folder(b""), folder(b"docs"), file(b"zoo"), symlink(b"zz"), file(b"docs/a"), file(b"docs/b")]


def test_lines() -> None:
    header, *entries, end = lines_of(written(TREE))
    assert header["type"] == "manifest"
    assert [(line["type"], line["path"]) for line in entries] == [
        ("folder", ""),
        ("folder", "docs"),
        ("file", "zoo"),
        ("symlink", "zz"),
        ("file", "docs/a"),
        ("file", "docs/b"),
    ]
    assert end == {
        "type": "end",
        "finished": 9,
        "entries": 6,
        "deleted": 0,
        "packs": 0,
        "failed": 0,
        "files": 3,
        "folders": 2,
        "symlinks": 1,
        "bytes": 15,
    }


def test_batches_of_any_size_give_one_manifest() -> None:
    entries = [folder(b""), *(file(b"%06d" % number) for number in range(3000))]
    writer = ManifestWriter(HEADER)
    pieces = [writer.add(entries[start : start + 7]) for start in range(0, len(entries), 7)]
    pieces.append(writer.finish(ManifestTrailer(finished_ns=9)))
    assert lines_of(b"".join(pieces)) == lines_of(written(entries))


def test_output_comes_while_writing() -> None:
    writer = ManifestWriter(HEADER)
    assert any(writer.add([file(b"%06d" % number)]) for number in range(20_000))


def test_what_goes_without_saying_is_left_out() -> None:
    own, other = file(b"a"), file(b"b", extent=Extent(EARLIER, "files/first", 5))
    _, line, moved, _ = lines_of(written([own, other]))
    assert line["extent"] == {"length": 5}
    assert moved["extent"] == {"run": EARLIER, "key": "files/first", "length": 5}
    for absent in ("hardlink", "sparse", "xattrs"):
        assert absent not in line


def test_default_key_is_the_path_as_written() -> None:
    entries = [
        folder(b"", extent=Extent(RUN, "files/", 0)),
        folder(b"a\\b", extent=Extent(RUN, "files/a%5Cb/", 0)),
        symlink(b"l", extent=Extent(RUN, "files/l", 0)),
    ]
    data = written(entries)
    assert [line["extent"] for line in lines_of(data)[1:-1]] == [{"length": 0}] * 3
    assert ManifestReader().feed(data) == entries


def test_totals_of_a_difference_are_the_caller_s() -> None:
    header = ManifestHeader(
        snapshot=RUN, section="home", repository="0" * 32, started_ns=1, base=EARLIER, depth=1
    )
    writer = ManifestWriter(header)
    data = writer.add([file(b"a")]) + writer.add_deleted([b"b", b"c"]) + writer.add([file(b"d")])
    data += writer.finish(ManifestTrailer(finished_ns=9, files=70, folders=8, symlinks=9, bytes=1000))
    assert writer.trailer is not None
    assert (writer.trailer.entries, writer.trailer.deleted, writer.trailer.files) == (2, 2, 70)
    reader = ManifestReader()
    assert reader.feed(data) == [file(b"a"), Deleted(b"b"), Deleted(b"c"), file(b"d")]
    assert reader.finish() == writer.trailer


def test_totals_of_a_whole_are_the_writer_s() -> None:
    writer = ManifestWriter(HEADER)
    writer.add(TREE)
    writer.finish(ManifestTrailer(finished_ns=9, files=70, bytes=1))
    assert writer.trailer is not None
    assert (writer.trailer.files, writer.trailer.bytes) == (3, 15)


def test_failures_are_named() -> None:
    failures = (
        Failure(path=b"a\xff\n", reason="Permission denied: \udcff"),
        Failure(path=b"b", kind=Kind.FOLDER, reason="x" * 5000),
    )
    data = written(TREE, failures=failures)
    *_, first, second, end = lines_of(data)
    assert first == {
        "type": "failed",
        "path": "a%FF%0A",
        "kind": "file",
        "reason": "Permission denied: \\udcff",
    }
    assert len(second["reason"]) == 2000
    assert end["failed"] == 2
    reader = ManifestReader()
    reader.feed(data)
    assert [failure.path for failure in reader.finish().failures] == [b"a\xff\n", b"b"]
    assert independent_reader.read_manifest(data)[2] == end


@pytest.mark.parametrize(
    "entries",
    [
        [file(b"b"), file(b"a")],
        [file(b"a"), file(b"a")],
        [folder(b""), folder(b"")],
        [file(b"a/b"), file(b"c")],
        [folder(b"a"), folder(b"")],
        [file(b"a-b/c"), file(b"a/b")],
        [file(b".."), file(b"a")],
        [file(b"a/../b")],
        [file(b"/a")],
        [file(b"a/")],
        [file(b"a\0b")],
        [file(b"a", mode=0o40644)],
        [file(b"a", mode=0o644)],
        [file(b"a", mode=0o20644)],
        [file(b"a", mode=0o4100644)],
        [file(b"a", mode=-1)],
        [file(b"a", extent=None)],
        [file(b"a", extent=Extent(RUN, "files/a", 4))],
        [file(b"a", extent=Extent(RUN, "files/a", 5, encrypted=True))],
    ],
)
def test_what_no_reader_would_take_is_refused(entries: list[Entry]) -> None:
    with pytest.raises(FormatError):
        ManifestWriter(HEADER).add(entries)


def test_deleted_entries_need_a_base() -> None:
    with pytest.raises(FormatError, match="without a base"):
        ManifestWriter(HEADER).add_deleted([b"a"])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"snapshot": "latest"},
        {"base": EARLIER},
        {"base": EARLIER, "depth": 33},
        {"base": RUN, "depth": 1},
        {"base": "20270101T000000Z-0000", "depth": 1},
        {"base": "x", "depth": 1},
        {"depth": 1},
        {"requires": ("packs",)},
    ],
)
def test_impossible_headers_are_refused(change: dict[str, Any]) -> None:
    header = msgspec.structs.replace(HEADER, **change)
    with pytest.raises(FormatError):
        ManifestWriter(header)


@pytest.mark.parametrize(
    "entry",
    [
        file(b"a", xattrs=((b"user.x", b"v" * 700_000),)),
        file(b"a", xattrs=tuple((b"user.%05d" % number, b"v" * 20) for number in range(9000))),
        file(b"/".join([b"\xff" * 255] * 1200)),
        symlink(b"a", target=b"\xff" * 300_000),
    ],
)
def test_what_is_said_to_fit_does_fit(entry: Entry) -> None:
    assert entry_fits(entry)
    (found,) = ManifestReader().feed(written([entry]))
    assert found == entry


@pytest.mark.parametrize(
    "entry",
    [
        file(b"a", xattrs=((b"user.x", b"v" * 800_000),)),
        file(b"/".join([b"\xff" * 255] * 1500)),
        symlink(b"a", target=b"\xff" * 400_000),
    ],
)
def test_what_does_not_fit_is_refused(entry: Entry) -> None:
    assert not entry_fits(entry)
    with pytest.raises(FormatError, match=f"over {MAX_LINE_BYTES} bytes"):
        ManifestWriter(HEADER).add([entry])


def test_frame_has_a_checksum_and_a_small_window() -> None:
    data = written([file(b"%07d" % number) for number in range(50_000)])
    parameters = zstandard.get_frame_parameters(data)
    assert parameters.has_checksum
    assert parameters.window_size <= 8 * 1024 * 1024
