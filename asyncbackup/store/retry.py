"""The one retry policy: when a request is sent again, how long after, and when it is given up.

Two things bound what a failing endpoint is asked:

* :class:`RetryPolicy`, for each request: exponential delays with jitter and a bounded number of
  attempts. Half of every delay is fixed, so that the default attempts outlast an outage of at
  least 30 seconds; the other half is random, so that requests which failed together do not
  return together.
* :class:`~asyncbackup.store.slots.RequestSlots`, for all of them together: while the endpoint
  fails, few requests may be under way, and a storm costs little more than one failure for each
  request that it caught.

Nothing else in asyncbackup sends anything again: botocore's own retries are switched off. A refusal
for expired credentials or for a clock that differs is no failure of the endpoint: the request is signed
anew, once, and uses no attempt.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from asyncbackup.errors import AccessDeniedError, StoreError


class Clock(Protocol):
    """Time as the store sees it; tests bring their own."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""


class SystemClock:
    """The machine's time, which event loops go by too. (Finding the running one costs a system call.)"""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


OVERLOAD_CODES = frozenset(
    {
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "Timeout",
        "TooManyRequests",
        "Unreachable",
    }
)
"""Failures that fewer requests at once may avoid."""


class TransientError(StoreError):
    """A failure that the same request may not meet again. Left to the caller only once attempts ran out.

    ``retry_after_seconds`` is what the endpoint asked for, 0 where it asked for nothing;
    ``unreachable`` means that no connection came about at all.
    """

    def __init__(
        self,
        operation: str,
        key: str,
        reason: str,
        *,
        code: str = "",
        retry_after_seconds: float = 0.0,
        unreachable: bool = False,
    ) -> None:
        super().__init__(operation, key, reason, code=code, retryable=True)
        self.retry_after_seconds = retry_after_seconds
        self.unreachable = unreachable

    @property
    def overload(self) -> bool:
        """Whether the endpoint may have been asked for too much at once."""
        return self.code in OVERLOAD_CODES

    def given_up(self, attempts: int) -> TransientError:
        """The same failure, saying how often it was tried."""
        return TransientError(
            self.operation,
            self.key,
            f"{self.reason} (given up after {attempts} attempts)" if attempts > 1 else self.reason,
            code=self.code,
            retry_after_seconds=self.retry_after_seconds,
            unreachable=self.unreachable,
        )


class DatedRefusalError(AccessDeniedError):
    """A refusal by an endpoint that told the time, ``endpoint_seconds`` since 1970: is its clock another?"""

    def __init__(
        self, operation: str, key: str, reason: str, *, code: str = "", endpoint_seconds: float
    ) -> None:
        super().__init__(operation, key, reason, code=code)
        self.endpoint_seconds = endpoint_seconds


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """``max_attempts`` requests in all; delays of about 0.2, 0.6, 1.8, 5.4, 16, 20, 20… seconds.

    ``first_contact_attempts`` bounds an endpoint that has not once answered: a wrong address
    is told at once. ``jitter`` gives numbers in [0, 1).
    """

    max_attempts: int = 8
    first_contact_attempts: int = 2
    base_seconds: float = 0.2
    factor: float = 3.0
    cap_seconds: float = 20.0
    retry_after_cap_seconds: float = 120.0
    jitter: Callable[[], float] = random.random

    def attempts_for(self, error: TransientError, *, contacted: bool) -> int:
        """How many attempts a request may make that met ``error``."""
        if error.unreachable and not contacted:
            return min(self.first_contact_attempts, self.max_attempts)
        return self.max_attempts

    def delay(self, attempt: int, *, retry_after_seconds: float = 0.0) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (from 1), no less than was asked for."""
        full = min(self.cap_seconds, self.base_seconds * self.factor ** (attempt - 1))
        waited = full * (1.0 + self.jitter()) / 2.0
        return max(waited, min(retry_after_seconds, self.retry_after_cap_seconds))
