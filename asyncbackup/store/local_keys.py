"""Keys as paths below a destination folder, and the keys that no folder can hold."""

from __future__ import annotations

import re

from asyncbackup.errors import ObjectRefusedError

TEMPORARY_PREFIX = b".asyncbackup-tmp-"
UPLOADS_FOLDER = b".asyncbackup-uploads"
SEGMENT_LIMIT_BYTES = 255

_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + rb"[0-9]+-[0-9a-f]{8}-[0-9]+")


def path_of_key(operation: str, key: str) -> bytes:
    """The path of a key, relative to the destination; that of a folder's key without its ``/``.

    Raises ``ObjectRefusedError`` for what would leave the destination, mean two things, or
    collide with the store's own temporary names.
    """
    path = key.removesuffix("/").encode("utf-8", "surrogateescape")
    for segment in path.split(b"/"):
        if problem := _problem(segment):
            raise ObjectRefusedError(operation, key, f"a folder cannot hold it: {problem}", code="InvalidKey")
    if is_own(path):
        reason = "a folder cannot hold it: the name is the store's own"
        raise ObjectRefusedError(operation, key, reason, code="InvalidKey")
    return path


def is_own(path: bytes) -> bool:
    """Whether a path belongs to the store itself and is never listed.

    Only what the store really makes: somebody's file may well be called ``.asyncbackup-uploads``.
    """
    return path.split(b"/", 1)[0] == UPLOADS_FOLDER or is_temporary(path.rpartition(b"/")[2])


def is_temporary(name: bytes) -> bool:
    """Whether a name is that of a temporary file: prefix, process, random part, number."""
    return _TEMPORARY.fullmatch(name) is not None


def _problem(segment: bytes) -> str:
    if not segment:
        return "the key has an empty segment"
    if segment in (b".", b".."):
        return f"the key has a segment {segment.decode()!r}"
    if b"\0" in segment:
        return "the key has a NUL"
    if len(segment) > SEGMENT_LIMIT_BYTES:
        return f"a segment of the key is longer than {SEGMENT_LIMIT_BYTES} bytes"
    return ""
