"""Comparing two trees entry by entry: names, kinds, contents and metadata.

Uses nothing of asyncbackup, so that it cannot share its mistakes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Comparison:
    """What was compared, and a sentence for each difference."""

    files: int = 0
    folders: int = 0
    symlinks: int = 0
    bytes: int = 0
    differences: list[str] = field(default_factory=list)


def compare_trees(left: Path, right: Path, *, excluded_suffix: str) -> Comparison:
    """Compare two folders and all in them; names with ``excluded_suffix`` are not expected on the right."""
    result = Comparison()
    _compare(os.fsencode(left), os.fsencode(right), b".", result, os.fsencode(excluded_suffix))
    return result


def _compare(left: bytes, right: bytes, path: bytes, result: Comparison, excluded: bytes) -> None:
    one, other = os.lstat(left), os.lstat(right)
    name = path.decode(errors="backslashreplace")
    for what, a, b in (
        ("mode", oct(one.st_mode), oct(other.st_mode)),
        ("owner", one.st_uid, other.st_uid),
        ("group", one.st_gid, other.st_gid),
        ("time", one.st_mtime_ns, other.st_mtime_ns),
        ("extended attributes", _attributes(left), _attributes(right)),
    ):
        if a != b:
            result.differences.append(f"{name}: {what} {a} became {b}")
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return
    if stat.S_ISLNK(one.st_mode):
        result.symlinks += 1
        if os.readlink(left) != os.readlink(right):
            result.differences.append(f"{name}: another target")
    elif stat.S_ISDIR(one.st_mode):
        result.folders += 1
        ours, theirs = set(os.listdir(left)), set(os.listdir(right))
        ours = {entry for entry in ours if not entry.endswith(excluded)}
        result.differences += [f"{name}/{entry!r}: missing" for entry in sorted(ours - theirs)]
        result.differences += [f"{name}/{entry!r}: was not saved" for entry in sorted(theirs - ours)]
        for entry in sorted(ours & theirs):
            _compare(left + b"/" + entry, right + b"/" + entry, path + b"/" + entry, result, excluded)
    else:
        result.files += 1
        result.bytes += one.st_size
        if Path(os.fsdecode(left)).read_bytes() != Path(os.fsdecode(right)).read_bytes():
            result.differences.append(f"{name}: another content")


def _attributes(path: bytes) -> dict[str, bytes]:
    if not hasattr(os, "listxattr"):
        return {}
    try:
        return {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if name.startswith("user.")
        }
    except OSError:
        return {}
