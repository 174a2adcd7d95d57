"""Reads whole snapshots from a folder, written from docs/format.md alone as independent_reader.py is.

Where ``tools/decrypt.py`` is short and restores what it can, this checks
whatever the page says and raises ``ValueError`` for all that is otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import zstandard

from tests.unit.format.independent_reader import (
    MAGIC,
    framed,
    hkdf_expand,
    metadata_time,
    open_sealed,
    percent_decoded,
    read_manifest,
    sha256_hex,
)

FRAME_BYTES = 16 * 1024 * 1024


def expand(data: bytes) -> list[bytes]:
    """What each of a series of frames expands to."""
    frames = []
    while data:
        parameters = zstandard.get_frame_parameters(data)
        if parameters.dict_id or parameters.window_size > 2**23:
            raise ValueError("a frame with a dictionary or a large window")
        stream = zstandard.ZstdDecompressor(max_window_size=2**23).decompressobj()
        frames.append(stream.decompress(data))
        if not stream.eof or len(frames[-1]) > FRAME_BYTES:
            raise ValueError("a frame that is cut off or too large")
        data = stream.unused_data
    return frames


def sealed_size(size: int) -> int:
    return 16 + 56 + size + 16 * (size // 16384 + 1)


def hidden_key(master: bytes, section: str, run: str, path: bytes) -> str:
    names_key = hkdf_expand(master, b"asyncbackup hidden names v1", 32)
    name = framed(b"asyncbackup hidden name v1", section.encode(), run.encode(), path)
    return "hidden/" + hmac.digest(names_key, name, "sha256").hex()


def checksum(stored: bytes, part_size: int) -> str:
    """An extent's ``checksum`` of an object that was stored in parts of that size, or by one PUT (0)."""
    if not part_size:
        return base64.b64encode(hashlib.sha256(stored).digest()).decode()
    parts = [hashlib.sha256(stored[at : at + part_size]).digest() for at in range(0, len(stored), part_size)]
    return f"{base64.b64encode(hashlib.sha256(b''.join(parts)).digest()).decode()}-{len(parts)}"


class Section:
    """One section of a destination that lies in a folder; ``master`` is the key where it is sealed."""

    def __init__(self, folder: Path, name: str, *, master: bytes | None = None) -> None:
        self.folder, self.name, self.master = folder, name, master
        self.repository = json.loads((folder / "asyncbackup.json").read_bytes())["repository"]

    def manifest_keys(self) -> dict[str, tuple[int, str]]:
        """Run → the highest revision and its key."""
        found: dict[str, tuple[int, str]] = {}
        for path in sorted((self.folder / self.name / "snapshots").iterdir()):
            match = re.fullmatch(r"(\d{8}T\d{6}Z-[0-9a-f]{4})(?:\.([1-9][0-9]*))?\.jsonl\.zst", path.name)
            if match:  # other keys are to be ignored
                revision = (int(match[2] or 0), f"{self.name}/snapshots/{path.name}")
                found[match[1]] = max(found.get(match[1], (-1, "")), revision)
        return found

    def snapshots(self) -> list[str]:
        return [
            run
            for run in sorted(self.manifest_keys())
            if not (self.folder / self.name / "forgotten" / run).exists()
        ]

    def opened(self, key: str, *, sealed: bool) -> bytes:
        stored = (self.folder / key).read_bytes()
        if not sealed:
            return stored
        if self.master is None:
            raise ValueError(f"{key} is sealed, and there is no key")
        return open_sealed(self.master, self.repository, self.name, key, stored)

    def manifest(self, run: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
        revision, key = self.manifest_keys()[run]
        sealed = (self.folder / key).read_bytes()[:8] == MAGIC
        header, lines, end = read_manifest(self.opened(key, sealed=sealed))
        stated = (header["repository"], header["section"], header["snapshot"], header.get("revision", 0))
        if stated != (self.repository, self.name, run, revision):
            raise ValueError(f"{key}: the manifest of something else")
        packs = {(line["run"], line["key"]): line for line in lines if line["type"] == "pack"}
        for line in lines:
            if "extent" not in line:
                continue
            extent = line["extent"]
            if extent["run"] > run and not revision:
                raise ValueError(f"{key}: a content of a later run")
            if extent["key"].startswith("packs/"):
                line["pack"] = packs[extent["run"], extent["key"]]
        return header, lines, end

    def entries(self, run: str) -> dict[bytes, dict[str, Any]]:
        """The lines of a snapshot, differences resolved, by path."""
        header, lines, end = self.manifest(run)
        found: dict[bytes, dict[str, Any]] = {}
        if header["base"] is None:
            if header["depth"]:
                raise ValueError("a depth without a base")
        else:
            base_header, _, _ = self.manifest(header["base"])
            if not (base_header["depth"] < header["depth"] <= 32 and header["base"] < run):
                raise ValueError("not a chain")
            found = self.entries(header["base"])
        for line in lines:
            if line["type"] == "deleted":
                found.pop(line["path"], None)
            elif line["type"] in ("file", "folder", "symlink"):
                found[line["path"]] = line
        kinds = [line["type"] for line in found.values()]
        totals = [kinds.count("file"), kinds.count("folder"), kinds.count("symlink")]
        totals.append(sum(line["size"] for line in found.values() if line["type"] == "file"))
        if totals != [end["files"], end["folders"], end["symlinks"], end["bytes"]]:
            raise ValueError("the totals are not those of the snapshot")
        return found

    def content(self, line: dict[str, Any]) -> bytes:
        """The content of a file's entry."""
        extent, size, pack = line["extent"], line["size"], line.get("pack")
        key = f"{self.name}/data/{extent['run']}/{extent['key']}"
        stored = (self.folder / key).read_bytes()
        sealed, compression = extent.get("encrypted", False), extent.get("compression")
        if pack is not None:
            if (pack["size"], pack["checksum"]) != (len(stored), checksum(stored, 0)):
                raise ValueError(f"{key}: not the pack that its line describes")
            if (pack.get("encrypted", False), pack.get("compression")) != (sealed, compression):
                raise ValueError(f"{key}: the pack and its member are not stored alike")
        else:
            plain = base64.b64encode(bytes.fromhex(line["sha256"])).decode()
            if extent.get("checksum", plain) != checksum(stored, extent.get("part_size", 0)):
                raise ValueError(f"{key}: not the object that was stored")
        offset, length, skip = extent["offset"], extent["length"], extent.get("skip", 0)
        if pack is None and (offset or length != len(stored)):
            raise ValueError(f"{key}: an object of its own that is not wholly the file's")
        if compression is None:
            whole = sealed_size(skip + size) if sealed and pack is None else size
            if length != whole or (skip and (pack is not None or not sealed)):
                raise ValueError(f"{key}: {length} bytes are not those of {size}")
        opened = self.opened(key, sealed=sealed)
        part = opened[offset : offset + length] if pack is not None else opened
        if compression is not None:
            frames = expand(part)
            if pack is not None and len(frames) != 1:
                raise ValueError(f"{key}: a member that is not in one frame")
            part = b"".join(frames)
        content = part[skip : skip + size]
        if len(content) != size or sha256_hex(content) != line["sha256"]:
            raise ValueError(f"{key}: another content")
        if extent["key"].startswith("hidden/"):
            self.check_head(key, line, part)
        return content

    def check_head(self, key: str, line: dict[str, Any], opened: bytes) -> None:
        """Of an object with a hidden name: what stands before the content is of the path of its key."""
        head = self.head(key)
        extent = line["extent"]
        if extent["skip"] != 4 + int.from_bytes(opened[:4], "big"):
            raise ValueError(f"{key}: the content does not follow the head")
        if "hardlink" not in line and percent_decoded(head["asyncbackup-path"]) != line["path"]:
            raise ValueError(f"{key}: the head of another path")

    def head(self, key: str) -> dict[str, str]:
        """The metadata inside an object with a hidden name."""
        assert self.master is not None
        stored = (self.folder / key).read_bytes()
        if int.from_bytes(stored[8:16], "big") != 2**64 - 1:
            raise ValueError(f"{key}: it announces its size")
        opened = self.opened(key, sealed=True)
        if opened[:4] == b"\x28\xb5\x2f\xfd":
            opened = b"".join(expand(opened))
        length = int.from_bytes(opened[:4], "big")
        head: dict[str, str] = json.loads(opened[4 : 4 + length])
        _, _, run, _ = key.split("/", 3)
        path = percent_decoded(head["asyncbackup-path"])
        if key != f"{self.name}/data/{run}/{hidden_key(self.master, self.name, run, path)}":
            raise ValueError(f"{key}: not the key of its path")
        metadata_time(head["mtime"])
        return head
