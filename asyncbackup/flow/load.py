"""What a store has under way, live: read by the stages that feed it and by the summary."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from asyncbackup.flow.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.flow.window import Window


class RequestLoad:
    """``callers`` has a place for each request that may be under way while all is well.

    Who holds a place asks for at most one request at a time, so that what is waiting to be sent
    waits where it can still be taken back, not before a request slot. ``held_back`` runs while
    failures keep requests from being sent.
    """

    __slots__ = ("_requests", "callers", "held_back")

    def __init__(
        self, callers: Window, requests: Window | None = None, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self.callers = callers
        self.held_back = Stopwatch(clock)
        self._requests = requests or callers

    @property
    def size(self) -> int:
        """Requests that may be under way at once, as things are."""
        return self.callers.size

    @property
    def peak(self) -> int:
        """The most requests that were under way at once."""
        return self._requests.peak
