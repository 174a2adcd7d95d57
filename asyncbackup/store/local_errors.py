"""What the operating system reports, translated into the errors of this package."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from asyncbackup.errors import AccessDeniedError, ObjectMissingError, ObjectRefusedError, StoreError

_CONFLICT = "an object and a folder of the same name cannot both lie in a folder"
_REASONS: dict[int, tuple[type[StoreError], str]] = {
    errno.ENOENT: (ObjectMissingError, "there is no such object"),
    errno.EACCES: (AccessDeniedError, "this user may not do it; check the folder's owner and mode"),
    errno.EPERM: (AccessDeniedError, "this user may not do it; check the folder's owner and mode"),
    errno.EROFS: (AccessDeniedError, "the destination is read-only"),
    errno.EISDIR: (ObjectRefusedError, _CONFLICT),
    errno.ENOTDIR: (ObjectRefusedError, _CONFLICT),
    errno.ENOTEMPTY: (ObjectRefusedError, _CONFLICT),
    errno.ENAMETOOLONG: (ObjectRefusedError, "the name is too long for this file system"),
    errno.EILSEQ: (ObjectRefusedError, "this file system refuses the name"),
    errno.EINVAL: (ObjectRefusedError, "this file system refuses the name"),
    errno.EFBIG: (ObjectRefusedError, "the file is too large for this file system"),
    errno.ENOSPC: (StoreError, "the destination is full"),
    errno.EDQUOT: (StoreError, "the quota of the destination is used up"),
    errno.ELOOP: (StoreError, "there is a symlink where a file was expected"),
    errno.EIO: (StoreError, "the disk reports an error"),
    errno.ESTALE: (StoreError, "the destination was taken away; mount it again"),
}


@contextmanager
def translated(operation: str, key: str) -> Iterator[None]:
    """An ``OSError`` inside leaves as a ``StoreError`` that names its cause."""
    try:
        yield
    except OSError as error:
        kind, reason = _REASONS.get(error.errno or 0, (StoreError, "the file system reports an error"))
        code = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise kind(operation, key, f"{reason} ({error.strerror or error})", code=code) from error
