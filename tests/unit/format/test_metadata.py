from __future__ import annotations

import string
from typing import Any

import pytest

from asyncbackup.errors import FormatError
from asyncbackup.format.envelope import sealed_size
from asyncbackup.format.keys import content_key, long_key
from asyncbackup.format.metadata import (
    MAX_METADATA_BYTES,
    decode_metadata,
    describe_object,
    encode_metadata,
    long_path_fits,
)
from asyncbackup.model import Entry, Kind
from tests.unit.format import independent_reader

FILE = Entry(
    path=b"docs/report.pdf",
    kind=Kind.FILE,
    mode=0o100640,
    size=5,
    mtime_ns=1_732_304_200_123_456_789,
    ctime_ns=1_732_304_200_000_000_001,
    uid=1000,
    gid=100,
    nlink=1,
    owner="me",
    group="staff people",
    sha256=b"\xab" * 32,
)
KEY = "files/docs/report.pdf"


def changed(**fields: Any) -> Entry:
    names = FILE.__struct_fields__
    return Entry(**({name: getattr(FILE, name) for name in names} | fields))


def stored(entry: Entry, **options: Any) -> dict[str, str]:
    metadata = encode_metadata(entry, **({"original_size": None, "long_path": False} | options))
    assert sum(len(name) + len(value) for name, value in metadata.items()) <= MAX_METADATA_BYTES
    for name, value in metadata.items():
        assert set(name) <= set(string.ascii_lowercase + string.digits + "-")
        assert value.isascii()
        assert value.isprintable()
        assert " " not in value
    return metadata


def test_plain_file() -> None:
    assert stored(FILE) == {
        "mtime": "1732304200.123456789",
        "mode": "100640",
        "uid": "1000",
        "gid": "100",
        "asyncbackup-sha256": "ab" * 32,
        "asyncbackup-owner": "me",
        "asyncbackup-group": "staff%20people",
        "asyncbackup-ctime": "1732304200.000000001",
    }
    assert decode_metadata(stored(FILE), key=KEY, stored_size=5) == FILE


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0.000000000"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (-1_500_000_000, "-1.500000000"),
        (2**63 * 10**9 - 1, "9223372036854775807.999999999"),
    ],
)
def test_times_are_sign_and_magnitude(ns: int, text: str) -> None:
    metadata = stored(changed(mtime_ns=ns))
    assert metadata["mtime"] == text
    assert independent_reader.metadata_time(text) == ns
    assert decode_metadata(metadata, key=KEY, stored_size=5).mtime_ns == ns


@pytest.mark.parametrize(
    ("text", "ns"), [("12", 12 * 10**9), ("-1.5", -1_500_000_000), ("1.0000000019", 10**9 + 1)]
)
def test_times_that_rclone_writes_are_read(text: str, ns: int) -> None:
    metadata = stored(FILE) | {"mtime": text}
    assert decode_metadata(metadata, key=KEY, stored_size=5).mtime_ns == ns


def test_sealed_file_tells_its_size_and_not_its_digest() -> None:
    metadata = stored(FILE, original_size=5)
    assert metadata["asyncbackup-size"] == "5"
    assert metadata["asyncbackup-encoding"] == "cobblestone-256"
    assert "ab" * 32 not in metadata.values()
    found = describe_object(metadata, key=KEY, stored_size=sealed_size(5))
    assert found.encrypted
    assert found.entry == changed(sha256=b"")


@pytest.mark.parametrize("sealed", [False, True])
def test_a_compressed_content_tells_its_size_and_what_was_done_to_it(sealed: bool) -> None:
    metadata = stored(FILE, original_size=FILE.size if sealed else None, compression="zstd")
    assert metadata["asyncbackup-size"] == "5"
    assert metadata["asyncbackup-encoding"] == ("zstd+cobblestone-256" if sealed else "zstd")
    described = describe_object(metadata, key=KEY, stored_size=sealed_size(3) if sealed else 3)
    assert (described.compression, described.encrypted, described.entry.size) == ("zstd", sealed, 5)
    # In clear beside a sealed object the digest would tell whether it is some known file.
    assert described.entry.sha256 == (b"" if sealed else FILE.sha256)


def test_stand_in_names_the_first_path_and_tells_no_digest() -> None:
    entry = changed(hardlink="dev 1/ino 2", nlink=3)
    metadata = stored(entry, first_path=b"docs/\xff first")
    assert metadata["asyncbackup-hardlink"] == "docs/%FF%20first"
    assert "asyncbackup-sha256" not in metadata
    found = describe_object(metadata, key=KEY, stored_size=0)
    assert found.first_path == b"docs/\xff first"
    assert not found.encrypted
    assert found.entry == changed(hardlink="dev 1/ino 2", nlink=3, sha256=b"")


def test_symlink() -> None:
    link = changed(kind=Kind.SYMLINK, mode=0o120777, size=7, sha256=b"", target=b"../\xe4 \n=")
    metadata = stored(link)
    assert metadata["asyncbackup-target"] == "../%E4%20%0A%3D"
    assert decode_metadata(metadata, key=KEY, stored_size=0) == link


@pytest.mark.parametrize("path", [b"", b"docs", b"docs/\xff"])
def test_folder(path: bytes) -> None:
    folder = changed(path=path, kind=Kind.FOLDER, mode=0o42770, size=0, sha256=b"", nlink=7)
    key = content_key(path, Kind.FOLDER, prefix_bytes=40)
    assert decode_metadata(stored(folder), key=key, stored_size=0) == folder


def test_extended_attributes() -> None:
    entry = changed(
        xattrs=((b"user.a", b"\0\xff" * 3), (b"user.\xff:,", b""), (b"system.posix_acl_access", b"x"))
    )
    metadata = stored(entry)
    assert metadata["asyncbackup-xattr"] == "user.a:AP8A_wD_,user.%FF%3A%2C:,system.posix_acl_access:eA"
    assert decode_metadata(metadata, key=KEY, stored_size=5) == entry


def test_long_path() -> None:
    path = b"/".join([b"some folder \xff"] * 60)
    entry = changed(path=path)
    assert not long_path_fits(entry)
    short = changed(path=path[:699])
    assert long_path_fits(short)
    metadata = stored(short, long_path=True)
    assert independent_reader.percent_decoded(metadata["asyncbackup-path"]) == short.path
    assert decode_metadata(metadata, key=long_key(short.path), stored_size=5) == short

    metadata = stored(entry, long_path=True)
    assert metadata["asyncbackup-omitted"] == "path"
    key = long_key(path)
    with pytest.raises(FormatError, match=r"\.path"):
        decode_metadata(metadata, key=key, stored_size=5)
    assert decode_metadata(metadata, key=key, stored_size=5, path=path) == entry
    with pytest.raises(FormatError, match="another key"):
        decode_metadata(metadata, key=key, stored_size=5, path=path + b"x")


def test_path_that_fits_alone_stands_beside_everything_else_of_fixed_size() -> None:
    """The worst case of all that is never left out, and the longest path that has room."""
    entry = changed(
        path=b"p" * 1100,
        mtime_ns=-(2**63 * 10**9) + 1,
        mode=0o107777,
        uid=2**32 - 1,
        gid=2**32 - 1,
        nlink=2**31,
        sparse=True,
        owner="o" * 200,
        xattrs=((b"user.x", b"v" * 400),),
    )
    metadata = stored(entry, long_path=True)
    assert len(metadata["asyncbackup-path"]) == 1100
    assert "xattr" in metadata["asyncbackup-omitted"].split(",")


def test_what_has_no_room_is_left_out_in_the_documented_order_and_named() -> None:
    entry = changed(
        hardlink="l" * 300,
        owner="o" * 1000,
        group="g" * 200,
        xattrs=((b"user.big", b"v" * 3000),),
        nlink=2,
    )
    metadata = stored(entry)
    assert metadata["asyncbackup-links"] == "l" * 300
    assert metadata["asyncbackup-owner"] == "o" * 1000
    assert "asyncbackup-group" not in metadata
    assert "asyncbackup-ctime" in metadata, "shorter fields after one that was left out still go in"
    assert metadata["asyncbackup-omitted"] == "group,xattr"
    assert describe_object(metadata, key=KEY, stored_size=5).omitted == ("group", "xattr")


def test_everything_left_out_at_once_still_fits() -> None:
    entry = changed(
        kind=Kind.SYMLINK,
        mode=0o120777,
        path=b"\xff" * 2000,
        target=b"t" * 2000,
        hardlink="l" * 2000,
        owner="o" * 2000,
        group="g" * 2000,
        xattrs=((b"user.x", b"v" * 2000),),
    )
    metadata = stored(entry, long_path=True, first_path=b"f" * 2000)
    assert metadata["asyncbackup-omitted"] == "path,target,hardlink,links,owner,group,xattr"


def test_undecodable_owner_comes_back() -> None:
    entry = changed(owner=b"m\xfcller".decode(errors="surrogateescape"))
    assert decode_metadata(stored(entry), key=KEY, stored_size=5) == entry


def test_names_that_are_not_known_are_ignored() -> None:
    metadata = stored(FILE) | {"btime": "x", "content-type": "y", "asyncbackup-later": "z"}
    assert decode_metadata(metadata, key=KEY, stored_size=5) == FILE


def test_object_without_metadata_is_guessed_and_said_to_be() -> None:
    found = describe_object({}, key=KEY, stored_size=9)
    assert not found.described
    assert (found.entry.kind, found.entry.mode, found.entry.size) == (Kind.FILE, 0o100600, 9)
    found = describe_object({}, key="files/docs/", stored_size=0)
    assert (found.entry.path, found.entry.kind, found.entry.mode) == (b"docs", Kind.FOLDER, 0o40700)


SEALED = stored(FILE, original_size=5)


@pytest.mark.parametrize(
    ("metadata", "key", "size"),
    [
        ({"mode": "100644"}, "files/docs/", 0),
        ({"mode": "40755"}, KEY, 0),
        ({"mode": "20644"}, KEY, 5),
        ({"mode": "644"}, KEY, 5),
        ({"mode": "0o100644"}, KEY, 5),
        ({"mode": "100644 "}, KEY, 5),
        ({"mode": "40755"}, "files/docs/", 1),
        ({"mode": "120777", "asyncbackup-target": "a%00b"}, KEY, 0),
        ({"uid": "-1"}, KEY, 5),
        ({"uid": "1e3"}, KEY, 5),
        ({"uid": "٣"}, KEY, 5),
        ({"uid": "9" * 5000}, KEY, 5),
        ({"mtime": "2026-11-22T00:00:00Z"}, KEY, 5),
        ({"mtime": "nan"}, KEY, 5),
        ({"mtime": "1.-5"}, KEY, 5),
        ({"mtime": "9223372036854775808"}, KEY, 5),
        ({"mtime": "-9223372036854775808.000000000"}, KEY, 5),
        ({"asyncbackup-ctime": "9" * 19}, KEY, 5),
        ({"asyncbackup-size": "6"}, KEY, 5),
        ({"asyncbackup-size": "6"}, KEY, 0),
        ({"asyncbackup-size": "5", "asyncbackup-hardlink": "first"}, KEY, 4),
        ({"asyncbackup-hardlink": "../first"}, KEY, 0),
        ({"asyncbackup-sha256": "AB" * 32}, KEY, 5),
        ({"asyncbackup-sha256": "ab" * 31}, KEY, 5),
        ({"asyncbackup-xattr": "user.a"}, KEY, 5),
        ({"asyncbackup-xattr": "user.a:e*A"}, KEY, 5),
        ({"asyncbackup-xattr": "user.a:AAAAA"}, KEY, 5),
        ({"asyncbackup-xattr": ":eA"}, KEY, 5),
        ({"asyncbackup-owner": "a\udc80"}, KEY, 5),
        (SEALED | {"asyncbackup-size": "6"}, KEY, sealed_size(5)),
        (SEALED | {"asyncbackup-encoding": "rot13"}, KEY, sealed_size(5)),
        (SEALED, KEY, 5),
        ({"asyncbackup-encoding": "cobblestone-256"}, KEY, sealed_size(5)),
        ({"asyncbackup-encoding": "zstd"}, KEY, 5),
        ({"asyncbackup-encoding": "zstd", "asyncbackup-size": "-1"}, KEY, 5),
        ({"asyncbackup-encoding": "cobblestone-256+zstd", "asyncbackup-size": "5"}, KEY, sealed_size(5)),
        ({"asyncbackup-encoding": "zstd+cobblestone-256", "asyncbackup-size": "5"}, KEY, 80),
        ({"mode": "40755", "asyncbackup-encoding": "zstd", "asyncbackup-size": "0"}, "files/a/", 0),
        ({}, "packs/000001.tar", 5),
    ],
)
def test_contradictions_are_refused_and_the_key_named(metadata: dict[str, str], key: str, size: int) -> None:
    with pytest.raises(FormatError) as caught:
        describe_object(metadata, key=key, stored_size=size)
    assert repr(key) in str(caught.value)
