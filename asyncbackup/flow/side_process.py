"""A process beside this one that works on its own processor, and shares memory with it.

Python's threads take turns with one lock, so a thread that makes thousands of short
system calls slows down the event loop and itself. A process does not. It is forked
before there is an event loop or a thread, so that it inherits no lock that somebody
holds, and what was imported by then is in memory once.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from asyncbackup.flow.shared_slots import SharedSlots

Serve: TypeAlias = Callable[[socket.socket, mmap.mmap], None]
"""What the process does: answer on the socket until it ends, with the memory that both see."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PR_SET_PDEATHSIG = 1
_END_SECONDS = 1.0
_LOOK_SECONDS = 0.001


class SideProcess:
    """The process, seen from the one that forked it. Made by :func:`fork_side_process`.

    ``socket`` leads to it and ``memory`` is what both see. It ends when its socket does: with
    :meth:`close`, or with this process, however that ends.
    """

    def __init__(self, pid: int, sock: socket.socket, memory: mmap.mmap) -> None:
        self.pid = pid
        self.socket = sock
        self.memory = memory
        self.retired = False
        """It is not to be asked anything any more."""
        self._slots: dict[int, SharedSlots] = {}

    def slots(self, *, slot_bytes: int, begin: int = 0, end: int | None = None) -> SharedSlots:
        """The memory from ``begin`` to ``end`` in parts, the same ones whoever asks: who uses it next must
        not get a part that is still viewed."""
        if begin not in self._slots:
            from asyncbackup.flow.shared_slots import SharedSlots

            self._slots[begin] = SharedSlots(self.memory, slot_bytes=slot_bytes, begin=begin, end=end)
        return self._slots[begin]

    def close(self) -> None:
        """Let it end, and wait for that, so that its processor time is counted with this process'.

        One that hangs in a read of a file system that does not answer is killed, and not waited for.
        """
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        deadline = time.monotonic() + _END_SECONDS
        with suppress(ChildProcessError):
            while not os.waitpid(self.pid, os.WNOHANG)[0]:
                if time.monotonic() > deadline:
                    os.kill(self.pid, signal.SIGKILL)
                    return
                time.sleep(_LOOK_SECONDS)


def fork_side_process(serve: Serve, *, memory_bytes: int) -> SideProcess | None:
    """A process that calls ``serve``, with ``memory_bytes`` that both see; those that nobody writes to take
    no memory.

    ``None`` where there is nothing to win, with a single processor; where it is not tried, on another
    system than Linux; where it is not safe, since there are threads, which may hold locks; and where the
    system allows no further process.
    """
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2 or threading.active_count() > 1:
        return None
    try:
        ours, theirs = socket.socketpair()
    except OSError:
        return None
    parent = os.getpid()
    try:
        memory = mmap.mmap(-1, memory_bytes)
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        return None
    if not pid:
        _be_the_side(serve, ours, theirs, memory, parent=parent)
    theirs.close()
    return SideProcess(pid, ours, memory)


def _be_the_side(
    serve: Serve, ours: socket.socket, theirs: socket.socket, memory: mmap.mmap, *, parent: int
) -> None:
    """Never returns: nothing of what the other process began is to be ended here."""
    code = 1
    try:
        # What it is at when the other one is killed must not be gone on with: somebody may begin anew.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
        gc.freeze()
        gc.enable()
        # Whoever interrupts means the other one, which ends this one when it needs it no more.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        serve(theirs, memory)
        code = 0
    finally:
        os._exit(code)
