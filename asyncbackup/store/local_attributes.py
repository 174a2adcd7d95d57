"""Metadata and checksum of an object as extended attributes ``user.asyncbackup.*`` of its file."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

_METADATA = "user.asyncbackup.meta."
_CHECKSUM = "user.asyncbackup.checksum"
_FOLDER = "user.asyncbackup.folder"
_UNSUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

SYSTEM_HAS_ATTRIBUTES = hasattr(os, "setxattr")
"""Python offers them on Linux alone."""


def supports_attributes(descriptor: int) -> bool:
    """Whether the file system of an open file or folder keeps user attributes."""
    if not SYSTEM_HAS_ATTRIBUTES:
        return False
    try:
        os.getxattr(descriptor, _CHECKSUM)
    except OSError as error:
        return error.errno not in _UNSUPPORTED
    return True


def write_attributes(
    descriptor: int, metadata: Mapping[str, str], *, checksum: str = "", folder: bool = False
) -> None:
    """Attach metadata and checksum to an open file or folder, replacing what a folder had."""
    if folder:
        for name in os.listxattr(descriptor):
            if name.startswith(_METADATA):
                os.removexattr(descriptor, name)
        os.setxattr(descriptor, _FOLDER, b"1")
    for name, value in metadata.items():
        os.setxattr(descriptor, _METADATA + name.lower(), value.encode())
    if checksum:
        os.setxattr(descriptor, _CHECKSUM, checksum.encode())


def read_attributes(descriptor: int) -> tuple[dict[str, str], str]:
    """``(metadata, checksum)`` of an open file or folder."""
    metadata: dict[str, str] = {}
    checksum = ""
    for name in os.listxattr(descriptor):
        if name.startswith(_METADATA):
            metadata[name.removeprefix(_METADATA)] = os.getxattr(descriptor, name).decode(errors="replace")
        elif name == _CHECKSUM:
            checksum = os.getxattr(descriptor, name).decode(errors="replace")
    return metadata, checksum


def is_folder_object(descriptor: int) -> bool:
    """Whether an open folder was written as an object, not merely made to hold one."""
    try:
        os.getxattr(descriptor, _FOLDER)
    except OSError:
        return False
    return True


def forget_folder_object(descriptor: int) -> None:
    """Make a folder object a mere folder again."""
    for name in os.listxattr(descriptor):
        if name == _FOLDER or name.startswith(_METADATA):
            os.removexattr(descriptor, name)


def mtime_ns_of(metadata: Mapping[str, str]) -> int | None:
    """The ``mtime`` of the metadata (seconds with a fraction) in nanoseconds; ``None`` if unusable."""
    try:
        moment = int(Decimal(metadata["mtime"]) * 1_000_000_000)
    except (KeyError, InvalidOperation, ValueError, OverflowError):
        return None
    return moment if -(2**63) <= moment < 2**63 else None
