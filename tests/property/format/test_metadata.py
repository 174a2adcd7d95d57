from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.errors import FormatError
from asyncbackup.format.envelope import sealed_size
from asyncbackup.format.keys import content_key
from asyncbackup.format.metadata import (
    MAX_METADATA_BYTES,
    describe_object,
    encode_metadata,
    long_path_fits,
)
from asyncbackup.model import Entry, Kind
from tests.property.format.strategies import entries, fixed, paths, texts
from tests.unit.format import independent_reader

FIELDS = {"links": "hardlink", "owner": "owner", "group": "group", "ctime": "ctime_ns", "xattr": "xattrs"}


def as_described(entry: Entry, *, omitted: tuple[str, ...], with_digest: bool) -> Entry:
    """What the object of ``entry`` tells of it: the manifest alone knows the rest."""
    names = [FIELDS[field] for field in omitted if field in FIELDS]
    without = {name: type(getattr(entry, name))() for name in names}
    sizes = {Kind.FILE: entry.size, Kind.FOLDER: 0, Kind.SYMLINK: len(entry.target)}
    return msgspec.structs.replace(
        entry,
        size=sizes[entry.kind],
        sha256=entry.sha256 if with_digest else b"",
        extent=None,
        **without,
    )


@fixed
@given(
    (paths | st.just(b"")).flatmap(entries), st.sampled_from(["plain", "sealed", "stand-in"]), st.booleans()
)
def test_every_field_comes_back_or_is_named(entry: Entry, stored_as: str, long_path: bool) -> None:
    if entry.kind is not Kind.FILE:
        stored_as = "plain"
    long_path = long_path and entry.path != b""
    first_path = b"first/\xff" if stored_as == "stand-in" else b""
    metadata = encode_metadata(
        entry,
        original_size=entry.size if stored_as == "sealed" else None,
        long_path=long_path,
        first_path=first_path,
    )
    assert sum(len(name) + len(value) for name, value in metadata.items()) <= MAX_METADATA_BYTES
    assert all(value.isascii() and value.isprintable() and " " not in value for value in metadata.values())

    prefix_bytes = 1024 if long_path else 50
    key = content_key(entry.path, entry.kind, prefix_bytes=prefix_bytes)
    stored_size = {"plain": entry.size, "sealed": sealed_size(entry.size), "stand-in": 0}[stored_as]
    if entry.kind is not Kind.FILE:
        stored_size = 0
    path = None if long_path_fits(entry) else entry.path
    found = describe_object(metadata, key=key, stored_size=stored_size, path=path)
    assert found.described
    assert found.encrypted == (stored_as == "sealed")
    assert "path" not in found.omitted or not long_path_fits(entry)
    if "hardlink" not in found.omitted:
        assert found.first_path == first_path
    if "target" in found.omitted:
        return
    wanted = as_described(entry, omitted=found.omitted, with_digest=stored_as == "plain")
    assert found.entry == wanted


@fixed
@given(texts)
def test_values_are_percent_encoded_as_the_document_says(text: str) -> None:
    entry = Entry(path=b"a", kind=Kind.FILE, mode=0o100644, owner=text)
    value = encode_metadata(entry, original_size=None, long_path=False).get("asyncbackup-owner", "")
    assert independent_reader.percent_decoded(value) == text.encode(errors="surrogateescape")


NAMES = ["mtime", "mode", "uid", "gid"]
NAMES += [f"asyncbackup-{name}" for name in ("size", "encoding", "sha256", "path", "target", "hardlink")]
NAMES += [f"asyncbackup-{name}" for name in ("links", "owner", "ctime", "xattr", "nlink", "omitted")]
VALUES = st.text(max_size=20) | st.text("0123456789.:%,-AFx", max_size=12)
KEYS = ["files/a", "files/a/", "files/", "long/" + "0" * 64, "files/..", "x"]


@fixed
@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.sampled_from(KEYS), st.integers(0, 10))
def test_any_metadata_is_read_or_refused_in_an_orderly_way(
    metadata: dict[str, str], key: str, stored_size: int
) -> None:
    try:
        found = describe_object(metadata, key=key, stored_size=stored_size)
    except FormatError as error:
        message = str(error)
    else:
        assert found.entry.path in (b"a", b"")
        return
    assert repr(key) in message
