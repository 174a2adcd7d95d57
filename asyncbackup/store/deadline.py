"""The ends of requests' patience, all of them watched by one timer.

``asyncio.timeout`` sets and takes back timers of the event loop for each request, and again with
every piece of its body: a tenth of what a small request costs. Here a request notes when it ends,
and a look at all of them, a few times in the shortest time-out, cancels those that are over.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from asyncbackup.store.body import PIECE_BYTES

LOOKS = 16
"""In the shortest time-out: a deadline is noticed at most this share of it late."""
LOOK_SECONDS = 1.0
"""The longest time between two looks."""


class Deadlines:
    """The deadlines of one store's requests, none of which are shorter than ``shortest_seconds``."""

    def __init__(self, *, shortest_seconds: float) -> None:
        self._every_seconds = min(LOOK_SECONDS, shortest_seconds / LOOKS)
        self._running: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: Deadline) -> None:
        self._running.add(deadline)
        if self._timer is None:
            self._timer = deadline.loop.call_later(self._every_seconds, self._look, deadline.loop)

    def discard(self, deadline: Deadline) -> None:
        self._running.discard(deadline)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for deadline in [deadline for deadline in self._running if deadline.at <= now]:
            self._running.discard(deadline)
            deadline.expire()
        # Nothing is watched while nothing runs; the next request begins anew.
        self._timer = loop.call_later(self._every_seconds, self._look, loop) if self._running else None


class Deadline:
    """The end of one request's patience, a context: what it holds up ends with ``TimeoutError``.

    It moves on with every piece of a body that the socket takes. While there is more of the body,
    the next piece has ``seconds`` to go: a connection that stands still is noticed by then. Once
    all may have been taken, its answer has ``answer_seconds``, in which the kernel also has to
    send what it has buffered.
    """

    __slots__ = (
        "_answer_seconds",
        "_cancelling",
        "_expired",
        "_others",
        "_seconds",
        "_task",
        "_untaken",
        "at",
        "loop",
        "waited_for",
    )

    def __init__(
        self, others: Deadlines, seconds: float, *, size: int = 0, answer_seconds: float | None = None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None, "requests are sent by tasks"
        self.loop = task.get_loop()
        self._others = others
        self._task = task
        self._cancelling = 0
        self._expired = False
        self._seconds = seconds
        self._answer_seconds = seconds if answer_seconds is None else answer_seconds
        self._untaken = size
        self.waited_for = 0.0
        """How long the wait that is under way may last, in seconds."""
        self.at = 0.0
        """When it ends, by the event loop's clock."""
        self._move_on()

    def __enter__(self) -> Self:
        self._cancelling = self._task.cancelling()
        self._others.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._others.discard(self)
        # As asyncio.timeout does: a cancellation from elsewhere that came meanwhile goes on.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def progress(self) -> None:
        """A piece of the body moved, of at most ``PIECE_BYTES``: a slow line is not a dead one."""
        self._untaken -= PIECE_BYTES
        self._move_on()

    def expire(self) -> None:
        """It is over: interrupt the task that waits."""
        self._expired = True
        self._task.cancel()

    def _move_on(self) -> None:
        self.waited_for = self._seconds if self._untaken > 0 else self._answer_seconds
        self.at = self.loop.time() + self.waited_for
