"""Opening things below the section's root, however deep, without following a symlink at the end.

Linux refuses paths over 4,096 bytes; longer ones are opened in stretches, each
relative to the descriptor of the stretch before.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Below PATH_MAX (4,096) and, with the root's own path before it, still below.
MAX_STRETCH_BYTES = 2048

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_noatime = getattr(os, "O_NOATIME", 0)
# O_NONBLOCK: a file that was replaced by a FIFO since it was listed must not block the open.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_folder(root: bytes, folder: bytes) -> int:
    """A descriptor of ``folder`` below ``root``; the caller closes it. Raises ``OSError``."""
    if len(root) + len(folder) < MAX_STRETCH_BYTES:
        return os.open(os.path.join(root, folder) if folder else root, _FOLDER_FLAGS & _root_mask(folder))
    descriptor = os.open(root, _FOLDER_FLAGS & _root_mask(b""))
    try:
        for stretch in _stretches(folder):
            deeper = os.open(stretch, _FOLDER_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _root_mask(folder: bytes) -> int:
    # The section's path itself may be a symlink to the tree; nothing below it may.
    return ~0 if folder else ~os.O_NOFOLLOW


def _stretches(folder: bytes) -> Iterator[bytes]:
    rest = folder
    while len(rest) > MAX_STRETCH_BYTES:
        cut = rest.rfind(b"/", 0, MAX_STRETCH_BYTES)
        yield rest[:cut]
        rest = rest[cut + 1 :]
    yield rest


@contextmanager
def folder_descriptor(root: bytes, folder: bytes) -> Iterator[int]:
    """``open_folder`` for the length of a block."""
    descriptor = open_folder(root, folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(name: bytes, folder_descriptor: int) -> int:
    """A descriptor of a file in an open folder, for reading, leaving its atime alone where allowed."""
    try:
        return os.open(name, FILE_FLAGS | _noatime, dir_fd=folder_descriptor)
    except PermissionError:
        # O_NOATIME is the owner's privilege; reading may still be everybody's.
        return os.open(name, FILE_FLAGS, dir_fd=folder_descriptor)
