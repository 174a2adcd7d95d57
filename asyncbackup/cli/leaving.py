"""The end of the process, without taking the interpreter apart."""

from __future__ import annotations

import atexit
import os
import sys
import threading

THREAD_SECONDS = 0.1
"""Threads that were told to end take far less."""


def leave(code: int) -> int:
    """End the process with ``code`` once its threads and exit handlers are done.

    Freeing every object and module one by one takes a tenth of what starting takes, and the kernel takes all
    memory back at once. Returns ``code`` where the end is better left to the interpreter: a thread is still
    at work, or what was printed cannot be written.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(THREAD_SECONDS)
            if thread.is_alive():
                return code
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, ValueError):
        return code
    os._exit(code)
