"""Small manifests for tests, made by the library or line by line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
import zstandard

from asyncbackup.format.keys import content_key
from asyncbackup.format.manifest import ManifestHeader, ManifestTrailer, ManifestWriter
from asyncbackup.model import Entry, Extent, Failure, Kind

RUN = "20261122T195000Z-3fa2"
EARLIER = "20261121T195000Z-00ff"
HEADER = ManifestHeader(snapshot=RUN, section="home", repository="0" * 32, started_ns=1)

_UNSET: Any = object()


def file(path: bytes, *, mode: int = 0o100644, extent: Extent | None = _UNSET, **fields: Any) -> Entry:
    """A file with the content ``hello`` in an object of its own."""
    if extent is _UNSET:
        extent = Extent(RUN, content_key(path, Kind.FILE, prefix_bytes=50), 5)
    return Entry(
        path=path,
        kind=Kind.FILE,
        mode=mode,
        size=5,
        mtime_ns=1,
        sha256=hashlib.sha256(b"hello").digest(),
        extent=extent,
        **fields,
    )


def folder(path: bytes, **fields: Any) -> Entry:
    return Entry(path=path, kind=Kind.FOLDER, mode=0o40755, mtime_ns=1, **fields)


def symlink(path: bytes, *, target: bytes = b"docs", **fields: Any) -> Entry:
    return Entry(path=path, kind=Kind.SYMLINK, mode=0o120777, mtime_ns=1, target=target, **fields)


def written(entries: Iterable[Entry], *, failures: tuple[Failure, ...] = ()) -> bytes:
    """A whole manifest of these entries."""
    writer = ManifestWriter(HEADER)
    return writer.add(entries) + writer.finish(ManifestTrailer(finished_ns=9, failures=failures))


def header_line(**changes: Any) -> dict[str, Any]:
    line: dict[str, Any] = msgspec.to_builtins(HEADER) | changes
    return line


def file_line(path: str, **changes: Any) -> dict[str, Any]:
    line = {"type": "file", "path": path, "mode": "100644", "size": 5, "mtime": 1, "uid": 0, "gid": 0}
    return line | {"extent": {"length": 5}} | changes


def folder_line(path: str, **changes: Any) -> dict[str, Any]:
    line = {"type": "folder", "path": path, "mode": "40755", "size": 0, "mtime": 1, "uid": 0, "gid": 0}
    return line | changes


def symlink_line(path: str, **changes: Any) -> dict[str, Any]:
    line = {"type": "symlink", "path": path, "mode": "120777", "size": 1, "mtime": 1, "uid": 0, "gid": 0}
    return line | {"target": "x"} | changes


def end_line(lines: Iterable[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The end that fits ``lines`` (without the header), if all files have 5 bytes."""
    kinds = [line.get("type") for line in lines]
    line = {
        "type": "end",
        "finished": 9,
        "entries": sum(kinds.count(kind) for kind in ("file", "folder", "symlink")),
        "deleted": kinds.count("deleted"),
        "failed": kinds.count("failed"),
        "files": kinds.count("file"),
        "folders": kinds.count("folder"),
        "symlinks": kinds.count("symlink"),
        "bytes": 5 * kinds.count("file"),
    }
    return line | changes


def frame(text: bytes, *, level: int = 3, checksum: bool = True, window_log: int = 0) -> bytes:
    """``text`` as one zstd frame."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, write_checksum=checksum, write_content_size=False, window_log=window_log
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(text) + stream.flush()


def by_lines(*lines: dict[str, Any], header: dict[str, Any] | None = None) -> bytes:
    """A manifest of these lines, whatever they say, with a header and an end that fits them."""
    whole = [header_line() if header is None else header, *lines, end_line(lines)]
    return frame(b"".join(msgspec.json.encode(line) + b"\n" for line in whole))
