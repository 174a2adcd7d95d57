"""The process beside, as a thread: it answers on the same socket from the same memory. How a process is
forked is a matter of ``tests/unit/flow/test_side_process.py``."""

from __future__ import annotations

import contextlib
import mmap
import socket
import threading
from typing import TYPE_CHECKING

from asyncbackup.flow.side_process import SideProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncbackup.flow.side_process import Serve


@contextlib.contextmanager
def side_thread(serve: Serve, *, memory_bytes: int) -> Iterator[SideProcess]:
    """What asks ``serve`` in a thread, which ends with the block."""
    ours, theirs = socket.socketpair()
    process = SideProcess(0, ours, mmap.mmap(-1, memory_bytes))

    def work() -> None:
        with theirs, contextlib.suppress(OSError):
            serve(theirs, process.memory)

    thread = threading.Thread(target=work, name="side")
    thread.start()
    try:
        yield process
    finally:
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        thread.join()
        ours.close()


@contextlib.contextmanager
def dying_side_thread(serve: Serve, *, memory_bytes: int, after: int) -> Iterator[SideProcess]:
    """As :func:`side_thread`; its socket closes as soon as the request after ``after`` others comes."""

    def serve_some(sock: socket.socket, memory: mmap.mmap) -> None:
        serve(_Closing(sock, after), memory)  # type: ignore[arg-type]

    with side_thread(serve_some, memory_bytes=memory_bytes) as process:
        yield process


class _Closing:
    """A socket that ends when so many answers were sent, each with its head."""

    def __init__(self, sock: socket.socket, answers: int) -> None:
        self._sock = sock
        self._sends_left = 2 * answers

    def recv(self, size: int, flags: int) -> bytes:
        return self._sock.recv(size, flags)

    def recv_into(self, view: memoryview) -> int:
        return self._sock.recv_into(view)

    def sendall(self, data: bytes) -> None:
        if not self._sends_left:
            raise OSError("it is gone")
        self._sends_left -= 1
        self._sock.sendall(data)
