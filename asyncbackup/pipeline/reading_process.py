"""The process that reads small files and makes frames of them, forked before anything is loaded that
only a change needs."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from asyncbackup.flow.side_process import SideProcess, fork_side_process

if TYPE_CHECKING:
    import mmap

SLOT_BYTES = 4 * 1024 * 1024 + 64 * 1024
"""The contents of a batch, and a byte for each of them."""
SLOTS = 8
READ_BYTES = SLOTS * SLOT_BYTES
ROOM_BYTES = 21 * 1024 * 1024
"""The frames of a pack of the usual size, which a batch may exceed. Those that have no room take another."""
ROOMS = 2
"""One is filled while what another holds is sealed."""
MEMORY_BYTES = READ_BYTES + ROOMS * ROOM_BYTES


def fork_reader() -> SideProcess | None:
    """The process, not yet asked anything; ``None`` where there is none. See :func:`fork_side_process`."""
    return fork_side_process(serve_reads, memory_bytes=MEMORY_BYTES)


def serve_reads(sock: socket.socket, memory: mmap.mmap) -> None:
    """What the process does: wait to be asked, and answer one request after another. Blocks."""
    if sock.recv(1, socket.MSG_PEEK):
        from asyncbackup.pipeline.side_work import answer_work

        answer_work(sock, memory)
