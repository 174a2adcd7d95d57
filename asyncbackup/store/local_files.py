"""Objects as files: written so that they appear whole or not at all. Everything here blocks."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from asyncbackup.errors import ObjectExistsError, ObjectMissingError, StoreError
from asyncbackup.store.base import ObjectInfo, PutResult
from asyncbackup.store.local_attributes import (
    forget_folder_object,
    is_folder_object,
    mtime_ns_of,
    read_attributes,
    write_attributes,
)
from asyncbackup.store.local_errors import translated
from asyncbackup.store.local_keys import TEMPORARY_PREFIX, path_of_key

if TYPE_CHECKING:
    from asyncbackup.store.local_folders import Folders

COPY_BYTES = 1024 * 1024
FILE_MODE = 0o600
WRITE_AT_ONCE = 64
"""Buffers handed to one ``writev``; well below IOV_MAX."""
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_RANGE_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_NO_ANONYMOUS_FILES = {errno.EISDIR, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}
_NOTHING_THERE = (FileNotFoundError, NotADirectoryError)
_FOLDER_TRIES = 3


class Abandoned(Exception):  # noqa: N818 - no error: nobody waits for the result any more
    """The caller of a write went away before the write became visible."""


class LocalFiles:
    """The objects below one destination folder. Thread-safe.

    A file is written without a name (``O_TMPFILE``) where the system can do that, so that a crash
    leaves nothing; elsewhere under a temporary name in its final folder. It is synced, given its
    name, and then the folder is synced. ``attributes`` says whether metadata can be attached.
    """

    def __init__(self, folders: Folders, *, attributes: bool, anonymous: bool) -> None:
        self.folders = folders
        self.attributes = attributes
        self._anonymous = anonymous
        # The random part keeps hosts apart that share a destination over a network.
        self.own_temporaries = TEMPORARY_PREFIX + f"{os.getpid()}-{secrets.token_hex(4)}-".encode()
        self._numbers = itertools.count()

    def publish(
        self,
        operation: str,
        key: str,
        fill: Callable[[int], None],
        *,
        metadata: Mapping[str, str],
        checksum: str,
        if_absent: bool = False,
        abandoned: threading.Event | None = None,
    ) -> PutResult:
        """Make the object ``key``; ``fill`` writes its content to the descriptor that it is given.

        Raises ``Abandoned`` if ``abandoned`` was set before the object became visible.
        """
        path = path_of_key(operation, key)
        if key.endswith("/"):
            return self._publish_folder(operation, key, path, metadata, if_absent=if_absent)
        return self.publish_at(
            operation,
            key,
            path,
            fill,
            metadata=metadata,
            checksum=checksum,
            if_absent=if_absent,
            abandoned=abandoned,
        )

    def publish_at(
        self,
        operation: str,
        key: str,
        path: bytes,
        fill: Callable[[int], None],
        *,
        metadata: Mapping[str, str],
        checksum: str,
        if_absent: bool = False,
        abandoned: threading.Event | None = None,
    ) -> PutResult:
        """Like :meth:`publish`, at a path that may be one of the store's own."""
        folder, _, name = path.rpartition(b"/")
        with translated(operation, key):
            for left in reversed(range(_FOLDER_TRIES)):
                try:
                    with self.folders.opened(folder, make=True) as parent:
                        etag = self._write(
                            parent, name, fill, metadata, checksum, if_absent=if_absent, abandoned=abandoned
                        )
                        self.folders.sync(folder, parent)
                    break
                except FileExistsError as error:
                    raise ObjectExistsError(operation, key, "the key is taken", code="EEXIST") from error
                except FileNotFoundError:
                    # Another process may have removed the folder as empty.
                    if not left:
                        raise
                    self.folders.forget(folder)
        return PutResult(etag=etag, checksum=checksum if self.attributes else "")

    def _write(
        self,
        parent: int,
        name: bytes,
        fill: Callable[[int], None],
        metadata: Mapping[str, str],
        checksum: str,
        *,
        if_absent: bool,
        abandoned: threading.Event | None,
    ) -> str:
        """The ETag of a file that was written, synced and given its name."""
        descriptor, temporary = self._new_file(parent)
        try:
            fill(descriptor)
            if self.attributes:
                write_attributes(descriptor, metadata, checksum=checksum)
            _set_mtime(descriptor, metadata)
            os.fsync(descriptor)
            if abandoned is not None and abandoned.is_set():
                raise Abandoned
            self._give_name(descriptor, temporary, parent, name, if_absent=if_absent)
            temporary = b""
            return _etag(os.fstat(descriptor))
        finally:
            os.close(descriptor)
            if temporary:
                os.unlink(temporary, dir_fd=parent)

    def _publish_folder(
        self, operation: str, key: str, path: bytes, metadata: Mapping[str, str], *, if_absent: bool
    ) -> PutResult:
        with translated(operation, key), self.folders.opened(path, make=True) as descriptor:
            if if_absent and self._is_folder_object(descriptor):
                raise ObjectExistsError(operation, key, "the key is taken", code="EEXIST")
            if self.attributes:
                write_attributes(descriptor, metadata, folder=True)
            _set_mtime(descriptor, metadata)
            os.fsync(descriptor)
            return PutResult(etag=_etag(os.fstat(descriptor)))

    def _new_file(self, parent: int) -> tuple[int, bytes]:
        """``(descriptor, temporary name)``; the name is empty for a file without one."""
        if self._anonymous:
            try:
                return os.open(b".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE, dir_fd=parent), b""
            except OSError as error:
                # Another file system may be mounted below the destination.
                if error.errno not in _NO_ANONYMOUS_FILES:
                    raise
        name = self._temporary_name()
        return os.open(name, _NEW_FLAGS, FILE_MODE, dir_fd=parent), name

    def _give_name(
        self, descriptor: int, temporary: bytes, parent: int, name: bytes, *, if_absent: bool
    ) -> None:
        if not temporary:
            try:
                _link_open_file(descriptor, parent, name)
                return
            except FileExistsError:
                if if_absent:
                    raise
            temporary = self._temporary_name()
            _link_open_file(descriptor, parent, temporary)
            try:
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                os.unlink(temporary, dir_fd=parent)
                raise
        elif if_absent:
            _rename_to_new(parent, temporary, name)
        else:
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)

    def _temporary_name(self) -> bytes:
        return self.own_temporaries + b"%d" % next(self._numbers)

    def open(self, operation: str, key: str) -> tuple[int, ObjectInfo]:
        """An open descriptor of an object, which the caller closes, and what is known of it."""
        path = path_of_key(operation, key)
        folder = key.endswith("/")
        with translated(operation, key):
            try:
                # Never waiting for the other end of a FIFO.
                descriptor = self.folders.open_file(path, os.O_RDONLY | os.O_NONBLOCK)
            except NotADirectoryError as error:
                raise _missing(operation, key) from error
            try:
                status = os.fstat(descriptor)
                is_object = stat.S_ISDIR(status.st_mode) if folder else stat.S_ISREG(status.st_mode)
                if not is_object or (folder and not self._is_folder_object(descriptor)):
                    raise _missing(operation, key)
                return descriptor, self._info(key, descriptor, status)
            except BaseException:
                os.close(descriptor)
                raise

    def head(self, key: str) -> ObjectInfo:
        """What is known of an object."""
        descriptor, info = self.open("HeadObject", key)
        os.close(descriptor)
        return info

    def _info(self, key: str, descriptor: int, status: os.stat_result) -> ObjectInfo:
        metadata, checksum = read_attributes(descriptor) if self.attributes else ({}, "")
        return ObjectInfo(
            key=key,
            size=0 if key.endswith("/") else status.st_size,
            # The mtime is that of the source file; the ctime tells when the object was written.
            modified_ns=status.st_ctime_ns,
            etag=_etag(status),
            checksum=checksum,
            metadata=metadata,
        )

    def _is_folder_object(self, descriptor: int) -> bool:
        # Where nothing can be attached, every folder counts as one.
        return not self.attributes or is_folder_object(descriptor)

    def is_folder_object(self, path: bytes) -> bool:
        """Whether the folder at ``path`` was written as an object."""
        try:
            with self.folders.opened(path) as descriptor:
                return self._is_folder_object(descriptor)
        except OSError:
            return False

    def copy(self, source: str, key: str, metadata: Mapping[str, str]) -> PutResult:
        """Copy an object; the copy has ``metadata`` in place of the source's."""
        descriptor, info = self.open("CopyObject", source)
        try:
            return self.publish(
                "CopyObject",
                key,
                lambda target: copy_file(descriptor, target, info.size),
                metadata=metadata,
                checksum=info.checksum,
            )
        finally:
            os.close(descriptor)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, and folders that are left empty and were made only to hold them."""
        touched: dict[bytes, None] = {}
        for key in keys:
            path = path_of_key("DeleteObjects", key)
            with translated("DeleteObjects", key):
                if key.endswith("/"):
                    self._delete_folder(path)
                else:
                    with suppress(*_NOTHING_THERE, IsADirectoryError):
                        self.folders.unlink(path)
            touched[path.rpartition(b"/")[0]] = None
        for folder in touched:
            self._tidy(folder)

    def _delete_folder(self, path: bytes) -> None:
        with suppress(*_NOTHING_THERE):
            if self.attributes:
                with self.folders.opened(path) as descriptor:
                    forget_folder_object(descriptor)
            self.folders.remove_empty(path)

    def _tidy(self, folder: bytes) -> None:
        """Remove empty folders upwards, then sync the first that stays: a crash undoes no delete."""
        while folder and self.attributes and not self.is_folder_object(folder):
            if not self.folders.remove_empty(folder):
                break
            folder = folder.rpartition(b"/")[0]
        with suppress(*_NOTHING_THERE), self.folders.opened(folder) as descriptor:
            self.folders.sync(folder, descriptor)


def write_buffers(
    descriptor: int, buffers: Sequence[memoryview], abandoned: threading.Event | None = None
) -> None:
    """Write all buffers at the descriptor's position. Raises ``Abandoned`` between writes."""
    left = list(buffers)
    while left:
        if abandoned is not None and abandoned.is_set():
            raise Abandoned
        written = os.writev(descriptor, left[:WRITE_AT_ONCE])
        done = 0
        while done < len(left) and written >= len(left[done]):
            written -= len(left[done])
            done += 1
        left = left[done:]
        if written:
            left[0] = left[0][written:]


def copy_file(source: int, target: int, size: int, *, offset: int = 0) -> None:
    """Append ``size`` bytes of one open file, from ``offset`` on, to another, inside the kernel where it can.

    Raises ``StoreError`` if the source has fewer.
    """
    done = 0
    while done < size:
        moved = _copy_some(source, target, offset + done, size - done)
        if not moved:
            raise StoreError("CopyObject", "", f"the file ended after {done} of {size} bytes", code="Short")
        done += moved


def _copy_some(source: int, target: int, offset: int, count: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, count, offset_src=offset)
        except OSError as error:
            if error.errno not in _NO_RANGE_COPY:
                raise
    chunk = os.pread(source, min(count, COPY_BYTES), offset)
    write_buffers(target, [memoryview(chunk)] if chunk else [])
    return len(chunk)


def _link_open_file(descriptor: int, parent: int, name: bytes) -> None:
    # With a dst_dir_fd Python calls linkat(AT_SYMLINK_FOLLOW), which is what follows this link.
    os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=parent, follow_symlinks=True)


def _rename_to_new(parent: int, temporary: bytes, name: bytes) -> None:
    """Rename unless the new name exists; atomically where the file system has hard links."""
    try:
        os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=parent, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        return
    os.unlink(temporary, dir_fd=parent)


def _set_mtime(descriptor: int, metadata: Mapping[str, str]) -> None:
    moment = mtime_ns_of(metadata)
    if moment is not None:
        # A time that this file system cannot hold is no reason to lose the object.
        with suppress(OSError):
            os.utime(descriptor, ns=(moment, moment))


def _missing(operation: str, key: str) -> ObjectMissingError:
    return ObjectMissingError(operation, key, "there is no such object", code="ENOENT")


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_ctime_ns:x}-{status.st_size:x}"
