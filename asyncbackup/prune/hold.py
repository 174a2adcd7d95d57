"""Prunes of a machine without a database of the section: one at a time, the next knows of a killed one."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncbackup.errors import CatalogError, SectionBusyError
from asyncbackup.format.runid import is_run_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Hold:
    """The lock of one section. ``earlier`` are prunes that this machine began and that never ended."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        text = os.pread(descriptor, 64 * 1024, 0).decode(errors="replace")
        self.earlier = frozenset(word for word in text.split() if is_run_id(word))

    def begin(self, prune: str) -> None:
        """Note a prune before it writes its mark."""
        self._write(" ".join(sorted({*self.earlier, prune})))

    def end(self) -> None:
        """Note that no prune of this machine is unfinished any more."""
        self._write("")

    def _write(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)
        os.fsync(self._descriptor)


@contextmanager
def hold_section(path: Path) -> Iterator[Hold]:
    """Hold the lock file ``path``, made 0600 where missing, until the block ends, however it does.

    Raises ``SectionBusyError`` while another process holds it, and ``CatalogError``
    where it cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CatalogError(
            f"cannot create {path}: {error.strerror}; choose a writable state_dir in the configuration"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SectionBusyError(f"another prune holds {path}; wait for it to end") from error
        yield Hold(descriptor)
    finally:
        os.close(descriptor)
