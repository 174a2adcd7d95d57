"""A process beside the command, from before there is an event loop until after it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncbackup.cli.memory import give_large_buffers_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncbackup.flow.side_process import SideProcess


@contextmanager
def process_beside(
    fork: Callable[[], SideProcess | None], *, wanted: bool = True
) -> Iterator[SideProcess | None]:
    """What ``fork`` gives, if it is wanted; it ends with the block."""
    give_large_buffers_back()  # What is forked is told so too.
    process = fork() if wanted else None
    try:
        yield process
    finally:
        if process is not None:
            process.close()
