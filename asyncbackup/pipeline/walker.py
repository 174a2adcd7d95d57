"""The walker: folders in, listings of ``lstat``ed entries out.

Several tasks share a stack of pending folders (last in, first out, so that it
stays small) and list as many folders in one thread hop as give a good batch.
The stack is the walker's own: were pending folders queued in the bounded
output channel, walkers that wait for room would wait for themselves.
"""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.listings import LISTED_AT_ONCE
from asyncbackup.excludes import Excludes, exclude_nothing
from asyncbackup.flow.pace import Pace
from asyncbackup.model import Failure, Kind, Pending, join_path
from asyncbackup.pipeline.listing import FolderChunk, WalkBatch
from asyncbackup.source import folder_descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncbackup.catalog.rows import Row
    from asyncbackup.flow.channel import Sender
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.flow.workers import ThreadGate

BATCH_ENTRIES = 2048
"""Entries that one listing batch aims at; benchmarks/micro has the curve."""
CHUNK_ENTRIES = LISTED_AT_ONCE
"""A folder with more entries is listed in several chunks, so that no batch grows with a folder. What is
known of an entry takes about a kilobyte."""
NAMES_AT_ONCE = 1024
"""Names are encoded together, and not all of a folder: the longer form of a million would be 60 MB."""

_COMMITTED = int(Pending.COMMITTED)
_TYPE_BITS = 0o170000

SLOW_SECONDS = 0.00025
"""A disk that keeps a thread waiting this long for each entry is worth another thread."""


class WalkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``skip_inodes`` are (dev, ino) of folders that are never entered: the state folder and a
    destination inside the tree. ``device`` bounds the walk to one file system, ``None`` does not."""

    root: bytes
    excludes: Excludes
    skip_inodes: frozenset[tuple[int, int]] = frozenset()
    device: int | None = None
    tasks: int = 4


async def walk(settings: WalkSettings, out: Sender[WalkBatch], gate: ThreadGate, stop: StopRequest) -> None:
    """List the whole tree into ``out``, in no particular order of folders.

    Ends early, as if at the end of the tree, when a stop is requested: the
    engine then commits nothing.
    """
    pending: list[bytes] = [b""]
    pace = Pace(gate, settings.tasks, slow_seconds=SLOW_SECONDS)
    working = 0
    changed = asyncio.Condition()

    async def work(sender: Sender[WalkBatch]) -> None:
        nonlocal working
        with sender:
            while True:
                async with changed:
                    while not pending and working and not stop.requested:
                        await changed.wait()
                    if not pending or stop.requested:
                        changed.notify_all()
                        return
                    # Share what is there: one task must not take a wide level alone.
                    share = max(1, min(len(pending) // settings.tasks, 256))
                    folders = [pending.pop() for _ in range(share)]
                    working += 1
                lister = FolderLister(settings, folders)
                try:
                    while (batch := await pace.run(_entries_in, lister.next_batch)) is not None:
                        await sender.send(batch)
                        if _stopped(stop):
                            return
                finally:
                    lister.close()
                    pending.extend(lister.found)
                    working -= 1
                    async with changed:
                        changed.notify_all()

    async with asyncio.TaskGroup() as group:
        for _ in range(settings.tasks):
            group.create_task(work(out.clone()))
    out.close()


def _entries_in(batch: WalkBatch | None) -> int:
    return 1 + sum(len(chunk.rows) for chunk in batch.chunks) if batch is not None else 1


def _stopped(stop: StopRequest) -> bool:
    # As a call: a type checker believes that an attribute, once false, stays so across awaits.
    return stop.requested


class FolderLister:
    """Lists some folders in batches, in a thread. ``found`` are the folders below them, complete
    once ``next_batch`` returned ``None``."""

    def __init__(self, settings: WalkSettings, folders: list[bytes]) -> None:
        self.found: list[bytes] = []
        self._settings = settings
        self._folders = folders
        self._chunks: Iterator[FolderChunk] | None = None
        self._unlisted: list[Failure] = []
        self._special: list[bytes] = []
        self._excluded = 0
        self._other_devices: list[bytes] = []

    def next_batch(self) -> WalkBatch | None:
        """About ``BATCH_ENTRIES`` entries, or ``None`` at the end."""
        if self._chunks is None:
            self._chunks = self._list_all()
        chunks: list[FolderChunk] = []
        entries = 0
        for chunk in self._chunks:
            chunks.append(chunk)
            entries += len(chunk.rows) + 1
            if entries >= BATCH_ENTRIES:
                break
        if not (chunks or self._unlisted or self._special or self._excluded):
            return None
        batch = WalkBatch(
            chunks=tuple(chunks),
            unlisted=tuple(self._unlisted),
            special=tuple(self._special),
            excluded=self._excluded,
        )
        self._unlisted, self._special, self._excluded = [], [], 0
        return batch

    def close(self) -> None:
        """Close the folder that is being listed, if any."""
        self._chunks = iter(())

    def _list_all(self) -> Iterator[FolderChunk]:
        for folder in self._folders:
            try:
                yield from self._list_folder(folder)
            except OSError as error:
                self._unlisted.append(
                    Failure(path=folder, reason=f"cannot list: {error.strerror}", kind=Kind.FOLDER)
                )

    def _list_folder(self, folder: bytes) -> Iterator[FolderChunk]:
        settings = self._settings
        with folder_descriptor(settings.root, folder) as descriptor:
            after: bytes | None = None
            if not folder:
                own = os.fstat(descriptor)
                yield FolderChunk(folder=b"", rows=[_row(b"", b"", own)], statuses=[own], upto=b"")
                after = b""
            names, folders = _names_in(descriptor)
            for begin in range(0, max(len(names), 1), CHUNK_ENTRIES):
                part = names[begin : begin + CHUNK_ENTRIES]
                upto = part[-1] if begin + CHUNK_ENTRIES < len(names) else None
                if settings.excludes is not exclude_nothing:
                    part = self._without_excluded(folder, part, folders)
                rows, statuses, unknown = self._look_at(folder, descriptor, part, folders)
                yield FolderChunk(
                    folder=folder,
                    rows=rows,
                    statuses=statuses,
                    unknown=tuple(unknown),
                    after=after,
                    upto=upto,
                )
                after = upto
                # Not entered, so empty as far as the snapshot goes, whatever an earlier one had there.
                while self._other_devices:
                    yield FolderChunk(folder=self._other_devices.pop())

    def _without_excluded(self, folder: bytes, names: list[bytes], folders: set[bytes]) -> list[bytes]:
        excludes = self._settings.excludes
        kept = [name for name in names if not excludes(join_path(folder, name), name in folders)]
        self._excluded += len(names) - len(kept)
        return kept

    def _look_at(
        self, folder: bytes, descriptor: int, names: list[bytes], folders: set[bytes]
    ) -> tuple[list[Row], list[os.stat_result], list[bytes]]:
        """Rows and statuses of what is there, and the names of what could not be looked at."""
        rows: list[Row] = []
        statuses: list[os.stat_result] = []
        unknown: list[bytes] = []
        lstat, file_type = os.lstat, stat.S_IFREG
        for name in names:
            try:
                status = lstat(name, dir_fd=descriptor)
            except FileNotFoundError:
                continue  # gone since it was listed: as if it had never been
            except OSError as error:
                self._unlisted.append(
                    Failure(
                        path=join_path(folder, name),
                        reason=f"cannot stat: {error.strerror}",
                        kind=Kind.FOLDER if name in folders else Kind.FILE,
                    )
                )
                unknown.append(name)
                continue
            mode = status.st_mode
            if mode & _TYPE_BITS == file_type:
                # As _row would; nearly all entries are files, and a call would be a tenth of their cost.
                rows.append((
                    folder, name, _COMMITTED, mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                    status.st_uid, status.st_gid, status.st_nlink,
                ))  # fmt: skip
            elif self._keeps(folder, name, status):
                rows.append(_row(folder, name, status))
            else:
                continue
            statuses.append(status)
        return rows, statuses, unknown

    def _keeps(self, folder: bytes, name: bytes, status: os.stat_result) -> bool:
        """Whether what is no file belongs to the snapshot; notes what is to be done with it."""
        settings = self._settings
        if stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in settings.skip_inodes:
                self._excluded += 1
                return False
            same = settings.device is None or status.st_dev == settings.device
            (self.found if same else self._other_devices).append(join_path(folder, name))
            return True
        if stat.S_ISLNK(status.st_mode):
            return True
        self._special.append(join_path(folder, name))
        return False


def _names_in(descriptor: int) -> tuple[list[bytes], set[bytes]]:
    """The names in a folder, sorted, and which of them are folders."""
    # Names alone are kept: a million of the scan's items would be a gigabyte. Listed from a descriptor
    # they come as str, undecodable bytes as surrogates; as no name has a slash, one call encodes many.
    names: list[bytes] = []
    folders: set[bytes] = set()
    some: list[str] = []
    with os.scandir(descriptor) as scan:
        for item in scan:
            some.append(item.name)
            if item.is_dir(follow_symlinks=False):
                folders.add(os.fsencode(item.name))
            if len(some) == NAMES_AT_ONCE:
                names += os.fsencode("/".join(some)).split(b"/")
                some.clear()
    if some:
        names += os.fsencode("/".join(some)).split(b"/")
    names.sort()
    return names, folders


def _row(folder: bytes, name: bytes, status: os.stat_result) -> Row:
    """What the catalog has of an entry that is as ``status`` says."""
    mode = status.st_mode
    return (
        folder,
        name,
        _COMMITTED,
        mode,
        status.st_size if stat.S_ISREG(mode) else 0,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_uid,
        status.st_gid,
        # The number of a folder's links says how many folders it has; it is not saved.
        status.st_nlink if not stat.S_ISDIR(mode) else 0,
    )
