"""The checked-in vectors, opened by the library and by the reader written from the format document."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from asyncbackup.errors import AuthenticationError
from asyncbackup.format.envelope import Opener, context
from asyncbackup.format.keyslots import RepositoryKey
from asyncbackup.format.manifest import ManifestReader
from asyncbackup.model import Entry, Kind
from tests.unit.format import independent_reader
from tests.unit.format.test_envelope import read_into
from tests.unit.format.vectors import content, load

SEALED = load("sealed")
OBJECTS = {vector["name"]: vector for vector in SEALED["objects"]}
DAMAGED = load("damaged")
MANIFEST = load("manifest")


@pytest.mark.parametrize("name", OBJECTS)
def test_sealed(name: str) -> None:
    vector = OBJECTS[name]
    stored = base64.b64decode(vector["stored"])
    plain = content(vector["size"])
    assert hashlib.sha256(plain).hexdigest() == vector["sha256"]

    place = (SEALED["repository"], SEALED["section"], vector["key"])
    assert context(*place, stored[:16]).hex() == vector["context"]
    opener = Opener(
        RepositoryKey(bytes.fromhex(SEALED["master_key"])),
        repository=place[0],
        section=place[1],
        object_key=place[2],
    )
    assert opener.feed(stored) + opener.finish() == plain
    assert independent_reader.open_sealed(bytes.fromhex(SEALED["master_key"]), *place, stored) == plain


@pytest.mark.parametrize("vector", DAMAGED, ids=[vector["what"] for vector in DAMAGED])
def test_damaged(vector: dict[str, Any]) -> None:
    original = OBJECTS[vector["object"]]
    stored = bytearray(base64.b64decode(original["stored"]))
    if "flip" in vector:
        stored[vector["flip"]] ^= 1
    if "exchange_chunks" in vector:
        first, second = (72 + 16400 * number for number in vector["exchange_chunks"])
        stored[first : first + 16400], stored[second : second + 16400] = (
            stored[second : second + 16400],
            stored[first : first + 16400],
        )
    del stored[vector.get("keep", len(stored)) :]
    stored += bytes.fromhex(vector.get("append", ""))
    master = bytes.fromhex(vector.get("master_key", SEALED["master_key"]))
    repository = vector.get("repository", SEALED["repository"])
    section = vector.get("section", SEALED["section"])
    key = vector.get("key", original["key"])

    opener = Opener(RepositoryKey(master), repository=repository, section=section, object_key=key)
    given = bytearray()
    with pytest.raises(AuthenticationError):
        read_into(given, opener, bytes(stored), step=8)
    assert given == content(original["size"])[: vector["given_out"]]
    with pytest.raises(ValueError, match=r"sealed object|context|truncated|authentic|announced"):
        independent_reader.open_sealed(master, repository, section, key, bytes(stored))


def test_manifest_by_the_independent_reader_and_the_library() -> None:
    plain = base64.b64decode(MANIFEST["manifest"])
    header, lines, end = independent_reader.read_manifest(plain)
    reader = ManifestReader()
    entries = reader.feed(plain)
    trailer = reader.finish()
    assert reader.header is not None
    assert (reader.header.snapshot, reader.header.started_ns) == (header["snapshot"], header["started"])
    assert [e.path.hex() for e in entries if isinstance(e, Entry)] == MANIFEST["paths"]
    assert (trailer.files, trailer.bytes, trailer.finished_ns) == (
        end["files"],
        end["bytes"],
        end["finished"],
    )
    assert len(trailer.failures) == trailer.failed == 1
    assert lines[-1]["type"] == "failed"
    assert trailer.failures[0].path == lines[-1]["path"]
    for line, entry in zip(lines[:-1], entries, strict=True):
        assert isinstance(entry, Entry)
        assert line["path"] == entry.path
        assert line["type"] == entry.kind.value
        assert int(line["mode"], 8) == entry.mode
        for field, value in {
            "size": entry.size,
            "mtime": entry.mtime_ns,
            "uid": entry.uid,
            "gid": entry.gid,
            "owner": entry.owner,
            "group": entry.group,
        }.items():
            assert line[field] == value
        assert line.get("ctime", 0) == entry.ctime_ns
        assert line.get("nlink", 0) == entry.nlink
        assert line.get("sha256", "") == entry.sha256.hex()
        assert line.get("sparse", False) == entry.sparse
        assert line.get("hardlink", "") == entry.hardlink
        assert independent_reader.unescape(line.get("target", "")) == entry.target
        xattrs = tuple(
            (independent_reader.unescape(name), base64.b64decode(value))
            for name, value in line.get("xattrs", {}).items()
        )
        assert xattrs == entry.xattrs
        assert ("extent" in line) == (entry.extent is not None)
        if entry.extent is not None:
            extent = line["extent"]
            for name in entry.extent.__struct_fields__:
                default = {
                    "offset": 0,
                    "checksum": "",
                    "part_size": 0,
                    "encrypted": False,
                    "compression": "",
                    "skip": 0,
                }.get(name)
                assert extent.get(name, default) == getattr(entry.extent, name)
    kinds = [entry.kind for entry in entries if isinstance(entry, Entry)]
    assert set(kinds) == set(Kind)
