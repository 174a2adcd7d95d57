"""From entries to rows and back, through a real table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.catalog.rows import COLUMNS, PLACEHOLDERS, entry_of_row, row_of_entry
from asyncbackup.catalog.schema import TABLES
from asyncbackup.model import Entry, Extent, Kind, Pending

BEYOND_2262 = 2**63
YEAR_9999 = 253_402_300_799_999_999_999

INSERT = f"INSERT INTO entries ({COLUMNS}) VALUES ({PLACEHOLDERS})"  # noqa: S608 - constants only
SELECT = f"SELECT {COLUMNS} FROM entries"  # noqa: S608 - constants only

times = st.one_of(
    st.integers(-(2**63) - 10, 2**63 + 10),
    st.sampled_from([-(2**63) - 1, -(2**63), -1, 0, 2**63 - 1, BEYOND_2262, 2**64, YEAR_9999, 2**80]),
)
numbers = st.integers(0, 2**63 - 1)
names = st.binary(min_size=1, max_size=6).filter(lambda n: b"/" not in n and b"\0" not in n)
paths = st.lists(names, max_size=3).map(b"/".join)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
extents = st.builds(
    Extent,
    run=texts,
    key=texts,
    length=numbers,
    offset=numbers,
    checksum=texts,
    part_size=numbers,
    encrypted=st.booleans(),
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind, bits = draw(
        st.sampled_from([(Kind.FILE, 0o100000), (Kind.FOLDER, 0o040000), (Kind.SYMLINK, 0o120000)])
    )
    return Entry(
        path=draw(paths),
        kind=kind,
        mode=bits | draw(st.integers(0, 0o7777)),
        size=draw(numbers),
        mtime_ns=draw(times),
        ctime_ns=draw(times),
        uid=draw(st.integers(0, 2**32 - 1)),
        gid=draw(st.integers(0, 2**32 - 1)),
        nlink=draw(st.integers(0, 2**32)),
        owner=draw(texts),
        group=draw(texts),
        sha256=draw(st.binary(max_size=32)),
        target=draw(st.binary(max_size=8)),
        hardlink=draw(texts),
        sparse=draw(st.booleans()),
        xattrs=tuple(draw(st.lists(st.tuples(names, st.binary(max_size=8)), max_size=2))),
        extent=draw(st.none() | extents),
    )


@pytest.fixture(scope="module")
def table() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(TABLES)
        yield connection


@given(entry=entries(), pending=st.sampled_from(Pending))
@settings(deadline=None, derandomize=True)
def test_every_entry_comes_back_as_it_was(table: sqlite3.Connection, entry: Entry, pending: Pending) -> None:
    table.execute("DELETE FROM entries")
    table.execute(INSERT, row_of_entry(entry, pending))
    (row,) = table.execute(SELECT).fetchall()
    assert entry_of_row(row) == entry
    assert row[2] == pending


@pytest.mark.parametrize(
    ("position", "value"), [(3, None), (4, b"12"), (3, 0o010644), (10, b"root"), (12, "no bytes"), (0, 5)]
)
def test_a_row_that_no_entry_can_have_is_refused(position: int, value: object) -> None:
    row = list(row_of_entry(Entry(path=b"a", kind=Kind.FILE, mode=0o100644), Pending.NEW))
    row[position] = value  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"expected|neither"):
        entry_of_row(tuple(row))


def test_the_root_is_a_row_like_others() -> None:
    root = Entry(path=b"", kind=Kind.FOLDER, mode=0o040755)
    assert row_of_entry(root, Pending.NEW)[:2] == (b"", b"")
    assert entry_of_row(row_of_entry(root, Pending.NEW)) == root
