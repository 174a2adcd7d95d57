from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.errors import FormatError
from asyncbackup.format.manifest import (
    Deleted,
    Item,
    ManifestHeader,
    ManifestReader,
    ManifestTrailer,
    ManifestWriter,
    entry_fits,
)
from asyncbackup.model import Entry, Kind
from tests.property.format.strategies import EARLIER, RUN, fixed, in_order, paths, trees
from tests.unit.format import independent_reader

HEADER = ManifestHeader(snapshot=RUN, section="home", repository="0" * 32, started_ns=1)
DIFFERENCE = ManifestHeader(
    snapshot=RUN, section="home", repository="0" * 32, started_ns=1, base=EARLIER, depth=32
)


def written(entries: list[Entry]) -> bytes:
    writer = ManifestWriter(HEADER)
    return writer.add(entries) + writer.finish(ManifestTrailer(finished_ns=2))


def read(data: bytes, step: int) -> tuple[list[Item], ManifestTrailer]:
    reader = ManifestReader()
    items = [item for start in range(0, len(data), step) for item in reader.feed(data[start : start + step])]
    return items, reader.finish()


@fixed
@given(trees, st.integers(1, 2000))
def test_every_entry_comes_back(entries: list[Entry], step: int) -> None:
    assert all(map(entry_fits, entries))
    data = written(entries)
    items, trailer = read(data, step)
    assert items == entries
    assert trailer.entries == len(entries)


@fixed
@given(trees)
def test_the_independent_reader_sees_the_same(entries: list[Entry]) -> None:
    _, lines, end = independent_reader.read_manifest(written(entries))
    assert [line["path"] for line in lines] == [entry.path for entry in entries]
    assert [int(line["mode"], 8) for line in lines] == [entry.mode for entry in entries]
    for line, entry in zip(lines, entries, strict=True):
        if entry.extent is not None:
            assert line["extent"]["run"] == entry.extent.run
            assert line["extent"]["key"] == entry.extent.key
            assert line["extent"]["length"] == entry.extent.length
    assert end["bytes"] == sum(entry.size for entry in entries if entry.kind == "file")


@fixed
@given(st.dictionaries(paths, st.booleans(), max_size=8))
def test_differences_come_back(marks: dict[bytes, bool]) -> None:
    writer = ManifestWriter(DIFFERENCE)
    wanted: list[Item] = []
    output = b""
    for path in in_order(set(marks)):
        if marks[path]:
            wanted.append(Deleted(path))
            output += writer.add_deleted([path])
        else:
            entry = Entry(path=path, kind=Kind.FOLDER, mode=0o40755)
            wanted.append(entry)
            output += writer.add([entry])
    output += writer.finish(ManifestTrailer(finished_ns=2))
    assert read(output, 1 << 20)[0] == wanted


@fixed
@given(trees, st.data())
def test_no_beginning_of_a_manifest_is_a_manifest(entries: list[Entry], data: st.DataObject) -> None:
    whole = written(entries)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FormatError):
        read(whole[:cut], 100)


@fixed
@given(st.permutations([b"a", b"b", b"a/x", b"a/y", b"a-b/x"]))
def test_only_one_order_is_taken(order: list[bytes]) -> None:
    entries = [Entry(path=path, kind=Kind.FOLDER, mode=0o40755) for path in order]
    if order == in_order(set(order)):
        written(entries)
        return
    with pytest.raises(FormatError, match="out of order"):
        written(entries)


@fixed
@given(st.binary(max_size=300))
def test_anything_else_is_refused_in_an_orderly_way(data: bytes) -> None:
    with pytest.raises(FormatError):
        read(data, 50)
