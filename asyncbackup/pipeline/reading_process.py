"""The process that reads small files, forked before anything is loaded that only a change needs."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from asyncbackup.flow.side_process import SideProcess, fork_side_process

if TYPE_CHECKING:
    import mmap

SLOT_BYTES = 4 * 1024 * 1024 + 64 * 1024
"""The contents of a batch, and a byte for each of them."""
SLOTS = 8


def fork_reader() -> SideProcess | None:
    """The process, not yet asked anything; ``None`` where there is none. See :func:`fork_side_process`."""
    return fork_side_process(serve_reads, memory_bytes=SLOTS * SLOT_BYTES)


def serve_reads(sock: socket.socket, memory: mmap.mmap) -> None:
    """What the process does: wait to be asked, and read batch after batch. Blocks."""
    if sock.recv(1, socket.MSG_PEEK):
        from asyncbackup.pipeline.side_reader import answer_reads

        answer_reads(sock, memory)
