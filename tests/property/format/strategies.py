"""Names, paths and entries as hostile as a file system allows."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from asyncbackup.format.envelope import sealed_size
from asyncbackup.format.keys import content_key
from asyncbackup.model import Entry, Extent, Kind

fixed = settings(derandomize=True, database=None, deadline=None)
"""The same examples on every machine and in every run."""

RUN = "20261122T195000Z-3fa2"
EARLIER = "20261121T195000Z-00ff"

# Pieces that meet each other badly: percent signs and hex digits, combining marks, halves of characters.
_PIECES = [
    b"%",
    b"%4",
    b"41",
    b"F",
    b"\\",
    b"\n",
    b"\x7f",
    b"\xc2\x85",
    b"\xcc\x81",
    b"e",
    b"\xc3\xa9",
    b"\xff",
]
_PIECES += [
    b"\xfe",
    b"\xed\xa0\x80",
    b"\xe2\x82",
    b"\xef\xbf\xbf",
    "日本".encode(),
    "😀".encode(),
    b".",
    b" ",
]
_PIECES += ["\u1100\u1161".encode(), "\u212b".encode(), b"\xf4\x90\x80\x80", b"\xe2\x80\xa8", b"a"]

pieces = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=3), max_size=12).map(b"".join)

any_bytes = pieces | st.binary(max_size=60)
"""Arbitrary bytes without NUL: what a path can be made of."""

names = any_bytes.map(lambda raw: raw.replace(b"\0", b"").replace(b"/", b"")[:255]).filter(
    lambda name: name not in (b"", b".", b"..")
)
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
texts = any_bytes.map(lambda raw: raw.replace(b"\0", b"").decode(errors="surrogateescape"))

xattrs = st.dictionaries(names, st.binary(max_size=40), max_size=3).map(lambda found: tuple(found.items()))
times = st.integers(-(2**63) * 10**9 + 1, 2**63 * 10**9 - 1) | st.integers(-3 * 10**9, 3 * 10**9)
ids = st.integers(0, 2**32 - 1)
permissions = st.integers(0, 0o7777)


@st.composite
def entries(draw: st.DrawFn, path: bytes) -> Entry:
    """Any entry of that path which a manifest may hold."""
    kind = draw(st.sampled_from(Kind))
    type_bits = {Kind.FILE: 0o100000, Kind.FOLDER: 0o040000, Kind.SYMLINK: 0o120000}[kind]
    if not path:
        kind, type_bits = Kind.FOLDER, 0o040000
    size = draw(st.integers(0, 2**40))
    encrypted = kind is Kind.FILE and draw(st.booleans())
    extent = Extent(
        run=draw(st.sampled_from([RUN, EARLIER])),
        key=draw(
            st.sampled_from([content_key(path, kind, prefix_bytes=50), "files/first", "long/" + "0" * 64])
        ),
        length=sealed_size(size) if encrypted else size,
        offset=0 if encrypted else draw(st.integers(0, 2**40)),
        checksum=draw(st.sampled_from(["", "A" * 43 + "=", "A" * 43 + "=-17"])),
        part_size=draw(st.sampled_from([0, 8 << 20])),
        encrypted=encrypted,
    )
    return Entry(
        path=path,
        kind=kind,
        mode=type_bits | draw(permissions),
        size=size,
        mtime_ns=draw(times),
        ctime_ns=draw(times),
        uid=draw(ids),
        gid=draw(ids),
        nlink=draw(st.integers(0, 2**32)),
        owner=draw(texts),
        group=draw(texts),
        sha256=draw(st.sampled_from([b"", b"\xab" * 32])) if kind is Kind.FILE else b"",
        target=draw(paths) if kind is Kind.SYMLINK else b"",
        hardlink="" if kind is Kind.FOLDER else draw(texts),
        sparse=kind is Kind.FILE and draw(st.booleans()),
        xattrs=draw(xattrs),
        extent=extent if kind is Kind.FILE or draw(st.booleans()) else None,
    )


def in_order(found: set[bytes]) -> list[bytes]:
    """Paths in the order of a manifest."""
    return sorted(found, key=lambda path: path.rpartition(b"/")[::2])


trees = st.sets(paths, max_size=8).flatmap(
    lambda found: st.tuples(*(entries(path) for path in in_order(found | {b""}))).map(list)
)
"""Entries of a whole snapshot, in order."""
