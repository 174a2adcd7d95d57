"""Keys as paths below a destination folder, and the keys that no folder can hold."""

from __future__ import annotations

from asyncbackup.errors import ObjectRefusedError

TEMPORARY_PREFIX = b".asyncbackup-tmp-"
UPLOADS_FOLDER = b".asyncbackup-uploads"
SEGMENT_LIMIT_BYTES = 255


def path_of_key(operation: str, key: str) -> bytes:
    """The path of a key, relative to the destination; that of a folder's key without its ``/``.

    Raises ``ObjectRefusedError`` for what would leave the destination, mean two things, or
    collide with the store's own temporary names.
    """
    path = key.removesuffix("/").encode("utf-8", "surrogateescape")
    for segment in path.split(b"/"):
        if problem := _problem(segment):
            raise ObjectRefusedError(operation, key, f"a folder cannot hold it: {problem}", code="InvalidKey")
    return path


def is_own_name(name: bytes) -> bool:
    """Whether a name belongs to the store itself and is never listed."""
    return name.startswith(TEMPORARY_PREFIX) or name == UPLOADS_FOLDER


def _problem(segment: bytes) -> str:
    if not segment:
        return "the key has an empty segment"
    if segment in (b".", b".."):
        return f"the key has a segment {segment.decode()!r}"
    if b"\0" in segment:
        return "the key has a NUL"
    if len(segment) > SEGMENT_LIMIT_BYTES:
        return f"a segment of the key is longer than {SEGMENT_LIMIT_BYTES} bytes"
    if is_own_name(segment):
        return f"names like {segment.decode(errors='replace')!r} are the store's own"
    return ""
