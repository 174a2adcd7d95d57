"""Faults on purpose, by operation: 500, 503, connections that break."""

from __future__ import annotations

import random
from collections.abc import Mapping

from benchmarks.server.message import S3Error

ANY = "*"
"""In place of an operation's name: all that have no share of their own."""


class ConnectionFault(Exception):  # noqa: N818 - what happens, not what went wrong
    """The connection is to be broken without an answer."""


class Faults:
    """Which requests fail. Shares are percentages by operation; the choice is the seed's, so repeatable."""

    def __init__(
        self,
        *,
        fail: Mapping[str, float],
        slow_down: Mapping[str, float],
        reset: Mapping[str, float],
        per_second: Mapping[str, float],
        seed: int,
    ) -> None:
        self._fail = fail
        self._slow_down = slow_down
        self._reset = reset
        self._per_second = per_second
        self._none = not (fail or slow_down or reset or per_second)
        self._allowed: dict[str, tuple[float, float]] = {}
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret

    def check(self, operation: str, now: float) -> None:
        """Let a request pass. Raises ``S3Error`` or ``ConnectionFault`` for one that shall not."""
        if self._none:
            return
        if self._drawn(self._reset, operation):
            raise ConnectionFault
        if self._drawn(self._fail, operation):
            raise S3Error(500, "InternalError", "We encountered an internal error. Please try again.")
        if self._drawn(self._slow_down, operation) or not self._in_rate(operation, now):
            raise S3Error(503, "SlowDown", "Please reduce your request rate.")

    def _drawn(self, shares: Mapping[str, float], operation: str) -> bool:
        share = shares.get(operation, shares.get(ANY, 0.0))
        return share > 0 and self._random.random() * 100 < share

    def _in_rate(self, operation: str, now: float) -> bool:
        """A bucket of tokens that holds those of one second."""
        rate = self._per_second.get(operation, self._per_second.get(ANY, 0.0))
        if not rate:
            return True
        tokens, since = self._allowed.get(operation, (rate, now))
        tokens = min(rate, tokens + (now - since) * rate)
        allowed = tokens >= 1
        self._allowed[operation] = (tokens - allowed, now)
        return allowed
