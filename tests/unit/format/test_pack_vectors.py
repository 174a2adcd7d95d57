"""The checked-in packs, read by nothing of asyncbackup."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
import zstandard

from tests.unit.format import independent_reader
from tests.unit.format.strict_tar import read_tar
from tests.unit.format.vectors import content, load

PACKS = {vector["name"]: vector for vector in load("packs")}


def pack_of(vector: dict[str, Any]) -> bytes:
    data = zstandard.decompress(base64.b64decode(vector["pack"]))
    assert hashlib.sha256(data).hexdigest() == vector["sha256"]
    return data


def expanded(data: bytes) -> bytes:
    tar = b""
    while data:
        expansion = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024).decompressobj()
        tar += expansion.decompress(data)
        assert expansion.eof
        data = expansion.unused_data
    return tar


@pytest.mark.parametrize("name", PACKS)
def test_contents_are_where_the_vector_says(name: str) -> None:
    vector = PACKS[name]
    pack = pack_of(vector)
    for member in vector["members"]:
        if member["kind"] != "file":
            continue
        part = pack[member["offset"] : member["offset"] + member["length"]]
        if name == "zstd":
            # That range is one frame, and the frame is all that is needed.
            expansion = zstandard.ZstdDecompressor().decompressobj()
            part = expansion.decompress(part)
            assert expansion.eof
            assert not expansion.unused_data
        part = part[member["skip"] :][: member["size"]]
        assert part == content(member["size"]), member["path"]


@pytest.mark.parametrize("name", PACKS)
def test_members_and_references(name: str) -> None:
    vector = PACKS[name]
    data = pack_of(vector)
    members = read_tar(expanded(data) if name == "zstd" else data)
    comments = [member.records[b"comment"] for member in members if member.kind == b"g"]
    members = [member for member in members if member.kind != b"g"]
    names = [bytes.fromhex(member["path"]) for member in vector["members"]]
    kinds = [member["kind"] for member in vector["members"]]
    assert [member.name for member in members] == [
        (path + b"/" if path else b"./") if kind == "folder" else path
        for path, kind in zip(names, kinds, strict=True)
    ]
    assert [member.kind for member in members] == [b"5", b"5", b"0", b"0", b"0", b"0", b"1", b"2"]
    assert members[3].mtime_ns == -1_500_000_000
    assert (members[4].mtime_ns, members[4].uid, members[4].gid) == (2**64, 2**31, 2**32 - 1)
    assert (members[4].owner, members[4].xattrs) == (b"o" * 40, {b"user.a%3Db": b"\0\xff\n"})
    assert (members[6].link, members[7].link) == (b"\xff" * 120, b"../\xfe\\up")

    lines = [json.loads(line) for text in comments for line in text.partition(b" ")[2].splitlines()]
    assert [independent_reader.unescape(line["path"]).hex() for line in lines] == vector["references"]
    assert lines[0]["extent"] == {
        "run": "20261121T195000Z-00ff",
        "key": "files/original",
        "length": 5,
        "checksum": base64.b64encode(bytes.fromhex(lines[0]["sha256"])).decode(),
    }
