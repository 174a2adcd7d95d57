"""Listings of a destination folder. Everything here blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from asyncbackup.store.base import ObjectInfo, ObjectPage, UploadInfo
from asyncbackup.store.local_errors import translated
from asyncbackup.store.local_keys import is_own, is_temporary
from asyncbackup.store.local_uploads import TEMPORARY_UPLOAD

if TYPE_CHECKING:
    from asyncbackup.store.local_files import LocalFiles

PAGE_OBJECTS = 1000


def list_objects(files: LocalFiles, prefix: str) -> Iterator[ObjectPage]:
    """Pages of the objects below ``prefix``; symlinks and special files are none."""
    page: ObjectPage = []
    for info in _objects(files, prefix):
        page.append(info)
        if len(page) >= PAGE_OBJECTS:
            yield page
            page = []
    if page:
        yield page


def stale_temporaries(files: LocalFiles, prefix: str) -> Iterator[UploadInfo]:
    """Temporary files of dead processes in the folders below ``prefix``, in the shape of uploads to abort."""
    for folder, entry in _entries(files, prefix):
        name = os.fsencode(entry.name)
        if is_temporary(name) and not name.startswith(files.own_temporaries):
            key = _key(_join(folder, name))
            status = entry.stat(follow_symlinks=False)
            yield UploadInfo(key=key, upload_id=TEMPORARY_UPLOAD, initiated_ns=status.st_mtime_ns)


def _objects(files: LocalFiles, prefix: str) -> Iterator[ObjectInfo]:
    base = prefix.rpartition("/")[0]
    if base and prefix == base + "/" and files.is_folder_object(_path(base)):
        yield ObjectInfo(key=prefix, size=0)
    for folder, entry in _entries(files, prefix):
        name = os.fsencode(entry.name)
        path = _join(folder, name)
        if is_own(path):
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                key = _key(path) + "/"
                if key.startswith(prefix) and files.is_folder_object(path):
                    yield ObjectInfo(key=key, size=0)
            elif entry.is_file(follow_symlinks=False) and _key(path).startswith(prefix):
                status = entry.stat(follow_symlinks=False)
                yield ObjectInfo(key=_key(path), size=status.st_size, modified_ns=status.st_ctime_ns)
        except FileNotFoundError:
            continue  # Deleted since the folder was read.


def _entries(files: LocalFiles, prefix: str) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
    """``(folder, entry)`` of all folders that can hold keys with ``prefix``, one open at a time."""
    pending = [_path(prefix.rpartition("/")[0])]
    while pending:
        folder = pending.pop()
        with translated("ListObjectsV2", prefix):
            try:
                with files.folders.opened(folder) as descriptor, os.scandir(descriptor) as entries:
                    for entry in entries:
                        path = _join(folder, os.fsencode(entry.name))
                        if entry.is_dir(follow_symlinks=False) and not is_own(path):
                            key = _key(path) + "/"
                            if key.startswith(prefix) or prefix.startswith(key):
                                pending.append(path)
                        yield folder, entry
            except (FileNotFoundError, NotADirectoryError):
                continue


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def _key(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _path(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
