from __future__ import annotations

import hashlib
from typing import Any

import pytest

from asyncbackup.errors import ConfigError, FormatError
from asyncbackup.format.keys import (
    check_path,
    check_section_name,
    content_key,
    data_prefix,
    extent_key,
    long_path_key,
    path_of_content_key,
    run_of_snapshot_key,
    run_prefix,
    snapshot_key,
    snapshots_prefix,
)
from asyncbackup.model import Extent, Kind
from tests.unit.format.vectors import load

RUN = "20261122T195000Z-3fa2"
CASES = load("keys")


def test_layout() -> None:
    assert snapshots_prefix("home") == "home/snapshots/"
    assert snapshot_key("home", RUN) == f"home/snapshots/{RUN}.jsonl.zst"
    assert data_prefix("home") == "home/data/"
    assert run_prefix("home", RUN) == f"home/data/{RUN}/"
    assert extent_key("home", Extent(RUN, "files/a", 1)) == f"home/data/{RUN}/files/a"


@pytest.mark.parametrize(
    ("key", "run"),
    [
        (f"home/snapshots/{RUN}.jsonl.zst", RUN),
        (f"work/snapshots/{RUN}.jsonl.zst", None),
        (f"home/snapshots/{RUN}.jsonl", None),
        (f"home/snapshots/x/{RUN}.jsonl.zst", None),
        ("home/snapshots/.jsonl.zst", None),
        ("home/snapshots/20269922T195000Z-3fa2.jsonl.zst", None),
        (f"home/data/{RUN}/files/a", None),
    ],
)
def test_run_of_snapshot_key(key: str, run: str | None) -> None:
    assert run_of_snapshot_key("home", key) == run


@pytest.mark.parametrize("case", CASES, ids=[case["key"][:40] for case in CASES])
def test_content_key_vectors(case: dict[str, Any]) -> None:
    path = bytes.fromhex(case["path"])
    key = content_key(path, Kind(case["kind"]), prefix_bytes=case["prefix_bytes"])
    assert key == case["key"]
    if key.startswith("long/"):
        assert key == "long/" + hashlib.sha256(path).hexdigest()
        assert path_of_content_key(key) is None
        assert long_path_key(path) == key + ".path"
    else:
        assert case["prefix_bytes"] + len(key.encode()) <= 1024
        assert path_of_content_key(key) == path


def test_limit_counts_bytes_not_characters() -> None:
    path = "/".join(["ä" * 100] * 5)
    size = len(f"files/{path}".encode())
    assert size == 1010 > len(f"files/{path}")
    assert content_key(path.encode(), Kind.FILE, prefix_bytes=14) == f"files/{path}"
    assert content_key(path.encode(), Kind.FILE, prefix_bytes=15).startswith("long/")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "files",
        "packs/000001.tar",
        "long/abc",
        "long/" + "A" * 64,
        "long/" + "a" * 64 + ".path",
        "files/../etc",
        "files//etc",
        "files/a/./b",
        "files/a//",
        "files/%2E%2E/x",
        "files/a%2F..%2Fb",
        "files/a%00b",
    ],
)
def test_keys_of_no_entry_are_refused(key: str) -> None:
    with pytest.raises(FormatError):
        path_of_content_key(key)


@pytest.mark.parametrize(
    "path", [b"/", b"/a", b"a/", b"a//b", b".", b"..", b"a/..", b"../a", b"a/./b", b"a\0b"]
)
def test_impossible_paths_are_refused(path: bytes) -> None:
    with pytest.raises(FormatError):
        check_path(path)


@pytest.mark.parametrize("path", [b"", b"a", b"...", b"..a", b"a..", b".a/b.", b"a/...", b" ", b"\xff\n"])
def test_odd_but_possible_paths_pass(path: bytes) -> None:
    check_path(path)


@pytest.mark.parametrize("name", ["home", "a", "Home-2.0_x", "0", "x" * 64])
def test_section_names(name: str) -> None:
    check_section_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".home",
        "home.",
        "-home",
        "a/b",
        "a b",
        "a\n",
        "höme",
        "x" * 65,
        "asyncbackup.json",
        "Restore.MD",
    ],
)
def test_impossible_section_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="section name"):
        check_section_name(name)
