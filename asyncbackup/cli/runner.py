"""From a click command into the event loop and back: signals, the loop, and how commands end.

The first Ctrl-C (or SIGTERM) asks to stop cleanly, the second ends the
process at once; whatever it left is taken up by the next run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.memory import give_large_buffers_back, search_cycles_less_often
from asyncbackup.errors import Interrupted
from asyncbackup.flow.stop import StopRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from asyncbackup.cli.output import Output

T = TypeVar("T")

_SHOW_CURSOR = "\x1b[?25h"
_STOPPING = "stopping cleanly; press Ctrl-C again to stop at once"


def run_async(
    main: Callable[[StopRequest], Coroutine[object, object, T]], *, output: Output, graceful: bool
) -> T:
    """What ``main`` returns, run in an event loop of its own.

    With ``graceful`` the first signal sets the stop request and ``main`` ends
    by itself; without, ``main`` is cancelled. Raises ``Interrupted`` for a
    cancelled ``main``, and what ``main`` raises.
    """
    give_large_buffers_back()
    search_cycles_less_often()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_main(main, output=output, graceful=graceful))


async def _main(
    main: Callable[[StopRequest], Coroutine[object, object, T]], *, output: Output, graceful: bool
) -> T:
    stop = StopRequest()
    task = asyncio.current_task()
    assert task is not None, "a coroutine of a runner is a task"
    with _signals(stop, output, None if graceful else task):
        try:
            return await main(stop)
        except asyncio.CancelledError:
            if not stop.requested:
                raise
            task.uncancel()
            raise Interrupted("interrupted") from None


@contextmanager
def _signals(stop: StopRequest, output: Output, cancel: asyncio.Task[object] | None) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def received(number: signal.Signals) -> None:
        if stop.requested:
            _end_at_once()
        stop.request()
        if cancel is None:
            # SIGTERM comes from a service manager, which has no keyboard.
            output.note(_STOPPING if number is signal.SIGINT else "stopping cleanly")
        else:
            cancel.cancel()

    handled: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # What the parent made us ignore (nohup, a shell's background job) stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, received, number)
                handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _end_at_once() -> None:
    # No clean-up may stand in the way here: that is what the second Ctrl-C asks for.
    if sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)
    sys.stderr.flush()
    os._exit(ExitCode.INTERRUPTED)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed; it halves the cost of a request."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
