"""What time it is at the endpoint: it refuses signatures that are over 15 minutes older or newer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from asyncbackup.units import format_duration

log = logging.getLogger(__name__)

TOLERANCE_SECONDS = 5 * 60.0
"""A difference below it is no reason for a refusal."""


class EndpointClock:
    """This machine's clock until a refusal shows that the endpoint's differs, then that.

    ``now`` gives the machine's time in seconds since 1970.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.generation = 0
        """Grows with every correction."""
        self.offset_seconds = 0.0
        self._now = now

    def now(self) -> float:
        """Seconds since 1970, for signatures."""
        return self._now() + self.offset_seconds

    def correct(self, endpoint_seconds: float, *, seen: int) -> bool:
        """Whether a request refused at the endpoint's time ``endpoint_seconds`` may be signed anew.

        ``seen`` is the generation that it was signed under. 0 stands for an answer without a time.
        """
        if self.generation != seen:
            return True  # Another request has seen to it.
        if not endpoint_seconds or abs(endpoint_seconds - self.now()) < TOLERANCE_SECONDS:
            return False
        self.offset_seconds = endpoint_seconds - self._now()
        self.generation += 1
        log.warning(
            "the clock of this machine is %s %s that of the endpoint; requests are signed with the "
            "endpoint's time, but set this machine's clock",
            format_duration(abs(self.offset_seconds)),
            "behind" if self.offset_seconds > 0 else "ahead of",
        )
        return True
