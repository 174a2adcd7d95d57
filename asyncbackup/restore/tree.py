"""The tree below a restore's target, reached only through descriptors.

Every path is walked from the target's own descriptor, one component after
another, none of which may be a symlink. So whatever a manifest says and
whoever swaps folders for symlinks meanwhile, nothing outside the target is
touched; and neither the length nor the depth of a path is limited by
``PATH_MAX``. The target's own path is the user's choice and may lead through
symlinks.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbackup.format.keys import NUL
from asyncbackup.model import split_path

if TYPE_CHECKING:
    from asyncbackup.restore.metadata import NewFiles

CACHED_FOLDERS = 48
"""Folder descriptors kept open; with transfers and connections the process stays under 256."""

FOLDER_MODE = 0o700
"""A folder's mode until its own metadata is restored, last of all."""

# O_PATH asks for no right to list the folder, which going through it does not need either.
_FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BlockedError(OSError):
    """Something stands in the way that is not replaced: a folder with content, or anything
    under ``--overwrite never``. ``strerror`` is the sentence for the user."""


class _Folder:
    __slots__ = ("cached", "descriptor", "new_files", "users")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.new_files: NewFiles | None = None
        """What the folder's new files have, once one was looked at."""
        self.users = 0
        self.cached = False


class TargetTree:
    """The folders below a target. Thread-safe; all calls block, so they belong in threads."""

    def __init__(self, root: int) -> None:
        self._root = _Folder(root)
        self._root.users = 1
        self._lock = threading.Lock()
        self._folders: OrderedDict[bytes, _Folder] = OrderedDict()
        self._closed = False

    @classmethod
    def open(cls, target: Path) -> TargetTree:
        """The tree below an existing folder. Raises ``OSError``."""
        return cls(os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    @property
    def descriptor(self) -> int:
        """The target's own."""
        return self._root.descriptor

    def close(self) -> None:
        """Close all descriptors. Idempotent; nothing may be borrowed any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for folder in self._folders.values():
                os.close(folder.descriptor)
            self._folders.clear()
            os.close(self._root.descriptor)

    @contextmanager
    def folder(self, path: bytes) -> Iterator[int]:
        """A descriptor to reach a folder's entries by, borrowed for the length of the block.

        It may not be fit for anything else (``O_PATH``). Raises ``OSError``.
        """
        folder = self.borrow(path)
        try:
            yield folder.descriptor
        finally:
            self.give_back(folder)

    def borrow(self, path: bytes) -> _Folder:
        """As :meth:`folder`, for users that outlast a block."""
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the target is closed")
            folder = self._find(path)
            folder.users += 1
            return folder

    def give_back(self, folder: _Folder) -> None:
        """End a :meth:`borrow`."""
        with self._lock:
            folder.users -= 1
            if not folder.users and not folder.cached:
                os.close(folder.descriptor)

    @contextmanager
    def open_folder(self, path: bytes) -> Iterator[int]:
        """A descriptor of a folder's own, to restore its metadata. Raises ``OSError``."""
        parent, name = split_checked(path)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.folder(parent) as descriptor:
            folder = os.open(name or b".", flags, dir_fd=descriptor)
        try:
            yield folder
        finally:
            os.close(folder)

    def make_folder(self, path: bytes, *, replace: bool, adjust: bool) -> bool:
        """Make sure that a folder stands at ``path``; ``True`` if it was made now.

        With ``replace`` anything else that stands there is removed first. With
        ``adjust`` an existing folder of the user's own is made accessible to
        its owner, since its metadata is restored later anyway.

        Raises ``BlockedError`` and ``OSError``.
        """
        if not path:
            return False  # made when the target was opened
        parent, name = split_checked(path)
        with self.folder(parent) as descriptor:
            try:
                os.mkdir(name, FOLDER_MODE, dir_fd=descriptor)
            except FileExistsError:
                status = os.lstat(name, dir_fd=descriptor)
                if stat.S_ISDIR(status.st_mode):
                    if adjust and os.geteuid() and status.st_mode & 0o700 != 0o700:
                        _make_accessible(name, descriptor)
                    return False
                if not replace:
                    raise BlockedError(
                        errno.ENOTDIR, "a folder belongs here, but something else stands in its place"
                    ) from None
                os.unlink(name, dir_fd=descriptor)
                os.mkdir(name, FOLDER_MODE, dir_fd=descriptor)
            return True

    def make_missing(self, path: bytes) -> int:
        """Make a folder and those above it where they are missing; how many were made. Raises ``OSError``."""
        missing: list[bytes] = []
        while True:
            try:
                with self.folder(path):
                    break
            except FileNotFoundError:
                missing.append(path)
                path, _ = split_checked(path)
        for folder in reversed(missing):
            self.make_folder(folder, replace=False, adjust=False)
        return len(missing)

    def status(self, path: bytes) -> os.stat_result | None:
        """``lstat`` of a path, ``None`` where nothing is. Raises ``OSError``."""
        folder, name = split_checked(path)
        try:
            with self.folder(folder) as descriptor:
                return os.lstat(name, dir_fd=descriptor) if name else os.fstat(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _find(self, path: bytes) -> _Folder:
        if not path:
            return self._root
        known = self._folders.get(path)
        if known is not None:
            self._folders.move_to_end(path)
            return known
        start, folder = b"", self._root
        for above, candidate in self._folders.items():
            if len(above) > len(start) and path.startswith(above) and path[len(above)] == 0x2F:
                start, folder = above, candidate
        walked = start
        for name in path[len(start) + 1 if start else 0 :].split(b"/"):
            _check_name(name)
            walked = walked + b"/" + name if walked else name
            # The folder above is the newest of the cache and cannot be evicted by this step.
            folder = self._keep(walked, _Folder(os.open(name, _FOLDER_FLAGS, dir_fd=folder.descriptor)))
        return folder

    def _keep(self, path: bytes, folder: _Folder) -> _Folder:
        folder.cached = True
        self._folders[path] = folder
        while len(self._folders) > CACHED_FOLDERS:
            _, old = self._folders.popitem(last=False)
            old.cached = False
            if not old.users:
                os.close(old.descriptor)
        return folder


def split_checked(path: bytes) -> tuple[bytes, bytes]:
    """Folder and name of a path, the name fit to be used in the folder's descriptor.

    Manifests are checked when they are read; this is the last line before the
    system call. The folder's names are checked as they are walked. Raises ``OSError``.
    """
    folder, name = split_path(path)
    if path:
        _check_name(name if path[:1] != b"/" else b"")
    return folder, name


def _check_name(name: bytes) -> None:
    if name in (b"", b".", b"..") or NUL in name:
        raise OSError(errno.EINVAL, "the snapshot's path is not one below its root")


def _make_accessible(name: bytes, parent: int) -> None:
    """Give the owner's own rights to a folder that may deny even being opened."""
    handle = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    try:
        status = os.fstat(handle)
        if status.st_uid == os.geteuid():
            mode = stat.S_IMODE(status.st_mode) | 0o700
            # A descriptor of O_PATH cannot be given a mode, the file it stands for can.
            os.chmod(f"/proc/self/fd/{handle}" if hasattr(os, "O_PATH") else handle, mode)
    finally:
        os.close(handle)
