"""Folders below a destination: made when needed, and on disk before anything in them counts as saved."""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

REMEMBERED_FOLDERS = 4096
FOLDER_MODE = 0o700
"""A backup holds what its sources' modes kept from others."""
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folders:
    """Folders relative to the descriptor of the destination, which stays open.

    Because everything goes through that descriptor, a disk that is unmounted in mid-run (a lazy
    unmount; an ordinary one is refused) never lets a backup slip onto the mount point below.
    Thread-safe.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._durable: OrderedDict[bytes, None] = OrderedDict()
        self._held: Counter[bytes] = Counter()
        self._syncs: dict[bytes, _Sync] = {}

    @contextmanager
    def opened(self, folder: bytes, *, make: bool = False) -> Iterator[int]:
        """A descriptor of ``folder`` (``b""``: the root), made with its parents if wanted."""
        if make:
            self._make_and_hold(folder)
        try:
            descriptor = self._open(folder)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
        finally:
            if make:
                self._let_go(folder)

    def open_file(self, path: bytes, flags: int) -> int:
        """A descriptor of what lies at ``path``, which is no symlink. Raises ``OSError``."""
        folder, _, name = path.rpartition(b"/")
        with self.opened(folder) as parent:
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)

    def unlink(self, path: bytes) -> None:
        """Remove the name of a file. Raises ``OSError``."""
        folder, _, name = path.rpartition(b"/")
        with self.opened(folder) as parent:
            os.unlink(name, dir_fd=parent)

    def sync(self, folder: bytes, descriptor: int) -> None:
        """Return once the entries of ``folder`` are on disk. Calls that wait together share one sync."""
        with self._lock:
            sync = self._syncs.setdefault(folder, _Sync())
            sync.waiting += 1
            sync.asked += 1
            mine = sync.asked
        try:
            with sync.lock:
                if sync.done < mine:
                    # Whoever asked before this moment has its entry in the folder already.
                    covers = sync.asked
                    os.fsync(descriptor)
                    sync.done = covers
        finally:
            with self._lock:
                sync.waiting -= 1
                if not sync.waiting:
                    self._syncs.pop(folder, None)

    def remove_empty(self, folder: bytes) -> bool:
        """Remove ``folder`` unless something is in it or about to be put there; whether it is gone."""
        with self._lock:
            if folder in self._held:
                return False
            self._durable.pop(folder, None)
            parent, _, name = folder.rpartition(b"/")
            try:
                descriptor = self._open(parent)
                try:
                    os.rmdir(name, dir_fd=descriptor)
                finally:
                    os.close(descriptor)
            except FileNotFoundError:
                return True
            except OSError:
                return False
            return True

    def forget(self, folder: bytes) -> None:
        """Somebody else removed the folder: look again next time."""
        with self._lock:
            while folder:
                self._durable.pop(folder, None)
                folder = folder.rpartition(b"/")[0]

    def _make_and_hold(self, folder: bytes) -> None:
        with self._lock:
            if folder in self._durable:
                self._durable.move_to_end(folder)
            elif folder:
                self._make_chain(folder)
            self._held[folder] += 1

    def _let_go(self, folder: bytes) -> None:
        with self._lock:
            self._held[folder] -= 1
            if not self._held[folder]:
                del self._held[folder]

    def _make_chain(self, folder: bytes) -> None:
        parent, _, name = folder.rpartition(b"/")
        if parent and parent not in self._durable:
            self._make_chain(parent)
        descriptor = self._open(parent)
        try:
            with suppress(FileExistsError):
                os.mkdir(name, FOLDER_MODE, dir_fd=descriptor)
            # Also for one that exists: its maker may have died before syncing.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._durable[folder] = None
        if len(self._durable) > REMEMBERED_FOLDERS:
            self._durable.popitem(last=False)

    def _open(self, folder: bytes) -> int:
        """A descriptor of a folder, walked to step by step: no symlink leads out of the destination."""
        descriptor = os.open(b".", _FLAGS, dir_fd=self.root)
        for name in folder.split(b"/") if folder else ():
            try:
                following = os.open(name, _FLAGS, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = following
        return descriptor


class _Sync:
    __slots__ = ("asked", "done", "lock", "waiting")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting = 0
        self.asked = 0
        self.done = 0
