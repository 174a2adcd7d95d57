"""Temporary files in the folder of their final name, so that a file appears whole or not at all.

A temporary name is made of the restore's token and the row's number: the
restore that goes on after a crash finds what was left behind and removes it.
It is created exclusively, 0600, and never followed if it is a symlink.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from asyncbackup.restore.metadata import Applied, NewFiles, Privileges, apply_to_new_file
from asyncbackup.restore.overwrite import Overwrite
from asyncbackup.restore.tree import BlockedError, TargetTree, split_checked

if TYPE_CHECKING:
    from asyncbackup.catalog.selection import SelectedEntry
    from asyncbackup.store.base import Buffer

SPARSE_BLOCK_BYTES = 4096
"""Aligned blocks of zeros of this size become holes: the block size of common file systems."""

_ZEROS = bytes(SPARSE_BLOCK_BYTES)
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def temporary_name(token: str, number: int) -> bytes:
    """The temporary name of one row of a selection."""
    return f".asyncbackup-restore-{token}-{number}".encode()


def remove_stale(name: bytes, folder: int) -> None:
    """Remove what a killed restore left under a temporary name, if anything. Raises ``OSError``."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


class TemporaryFile:
    """One file on its way to its final name. Its calls block; different parts may be written in parallel.

    End it with :meth:`commit` or :meth:`abandon`, after the last write has returned.
    """

    def __init__(self, tree: TargetTree, row: SelectedEntry, token: str) -> None:
        """Create the file in its folder, which must exist. Raises ``OSError``."""
        entry = row.entry
        folder, self._name = split_checked(entry.path)
        self._tree = tree
        self._entry = entry
        self._temporary = temporary_name(token, row.id)
        self._folder = tree.borrow(folder)
        try:
            self._descriptor = self._create()
        except BaseException:
            tree.give_back(self._folder)
            raise
        self._open = True

    def write(self, offset: int, content: Buffer) -> None:
        """Write ``content`` at ``offset``; of a sparse file, blocks of zeros become holes."""
        if self._entry.sparse:
            self._write_sparse(offset, content)
        else:
            self._write_all(offset, content)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Read what was written into ``buffer``, or the beginning of it; returns how many bytes."""
        return os.preadv(self._descriptor, [buffer], offset)

    def clear(self) -> None:
        """Forget what was written, to begin again."""
        os.ftruncate(self._descriptor, 0)

    def stretch(self) -> None:
        """Give the file its size before it is written: what is not written reads as zeros."""
        os.ftruncate(self._descriptor, self._entry.size)

    def commit(self, privileges: Privileges, overwrite: Overwrite) -> Applied:
        """Give the file its metadata, then its final name.

        Raises ``BlockedError``, ``FileExistsError`` (only under ``Overwrite.NEVER``)
        and ``OSError``; the file is then still to be abandoned.
        """
        if self._entry.sparse:
            self.stretch()
        new_files = self._folder.new_files
        if new_files is None:
            new_files = self._folder.new_files = NewFiles.like(self._descriptor)
        applied = apply_to_new_file(self._descriptor, self._entry, privileges, new_files)
        place(self._temporary, self._name, self._folder.descriptor, overwrite)
        self._close()
        return applied

    def abandon(self) -> None:
        """Remove the file, unless it was committed. Idempotent."""
        if self._open:
            try:
                remove_stale(self._temporary, self._folder.descriptor)
            finally:
                self._close()

    def _create(self) -> int:
        try:
            return os.open(self._temporary, _CREATE_FLAGS, 0o600, dir_fd=self._folder.descriptor)
        except FileExistsError:
            os.unlink(self._temporary, dir_fd=self._folder.descriptor)
            return os.open(self._temporary, _CREATE_FLAGS, 0o600, dir_fd=self._folder.descriptor)

    def _close(self) -> None:
        self._open = False
        try:
            os.close(self._descriptor)
        finally:
            self._tree.give_back(self._folder)

    def _write_all(self, offset: int, content: Buffer) -> None:
        written = os.pwrite(self._descriptor, content, offset)
        if written < len(content):
            rest = memoryview(content)
            while written < len(rest):
                written += os.pwrite(self._descriptor, rest[written:], offset + written)

    def _write_sparse(self, offset: int, content: Buffer) -> None:
        view = memoryview(content)
        begin = position = 0
        while position < len(content):
            block = SPARSE_BLOCK_BYTES - (offset + position) % SPARSE_BLOCK_BYTES
            end = min(position + block, len(content))
            # The file is new: what is never written reads as zeros, also in part of a block.
            # As bytes: views are compared one item after another.
            if bytes(view[position:end]) == _ZEROS[: end - position]:
                if begin < position:
                    self._write_all(offset + begin, view[begin:position])
                begin = end
            position = end
        if begin < len(content):
            self._write_all(offset + begin, view[begin:])


def place(temporary: bytes, name: bytes, folder: int, overwrite: Overwrite) -> None:
    """Give a temporary file, symlink or link its final name, in one step.

    An empty folder that stands there is removed first. Raises ``BlockedError``
    for one with content, ``FileExistsError`` for anything under
    ``Overwrite.NEVER``, and ``OSError``.
    """
    if overwrite is Overwrite.NEVER:
        _place_new(temporary, name, folder)
        return
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise BlockedError(
                    errno.ENOTEMPTY, "a folder that is not empty stands in its place"
                ) from None
            raise
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _place_new(temporary: bytes, name: bytes, folder: int) -> None:
    try:
        # Unlike a rename, a link never replaces what appeared there meanwhile.
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        try:
            os.lstat(name, dir_fd=folder)
        except FileNotFoundError:
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
    os.unlink(temporary, dir_fd=folder)
