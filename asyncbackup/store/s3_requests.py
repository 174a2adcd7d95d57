"""Every request to an endpoint passes here: its slot, its deadline, its retries, its count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from asyncbackup.errors import AccessDeniedError, StoreError
from asyncbackup.store.deadline import Deadline, Deadlines
from asyncbackup.store.retry import Clock, DatedRefusalError, RetryPolicy, SystemClock, TransientError
from asyncbackup.store.slots import Outcome, RequestSlots

if TYPE_CHECKING:
    from asyncbackup.model import RequestCounts
    from asyncbackup.store.lean.signer import KeySource

T = TypeVar("T")

SLOWEST_BYTES_PER_SECOND = 64 * 1024
"""The answer gets its time-out and the time that what is still buffered takes at this rate."""
BUFFERED_BYTES = 1024 * 1024
"""What the kernel may have taken of a body without having sent it. Its buffer grows with what the line has
carried, so a slow line has less; more is sent within the time-out itself."""


EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
"""Refusals after which the credentials are looked up once more."""


class S3Requests:
    """Sends requests, each in a slot and under a deadline, and sends them again by the one policy.

    A request is signed after its slot was taken, so signatures do not grow old in a queue, and
    no slot is held while a request waits to be sent again. ``counts`` are requests sent, by
    operation; ``retries`` those that were not the first. A request that was refused because
    ``credentials`` have expired, or because the endpoint's clock shows another time, is signed anew
    and sent once more, if there are new credentials or the time differs.
    """

    def __init__(
        self,
        *,
        slots: RequestSlots,
        policy: RetryPolicy,
        timeout_seconds: float,
        clock: Clock | None = None,
        credentials: KeySource | None = None,
        on_retry: Callable[[str], None] | None = None,
    ) -> None:
        self.slots = slots
        self.counts: RequestCounts = Counter()
        self.retries = 0
        self.timeout_seconds = timeout_seconds
        self.clock = clock or SystemClock()
        self._policy = policy
        self._credentials = credentials
        self._on_retry = on_retry
        self._contacted = False
        self._deadlines = Deadlines(shortest_seconds=timeout_seconds)

    async def run(
        self,
        operation: str,
        key: str,
        send: Callable[[Deadline], Awaitable[T]],
        *,
        size: int = 0,
        patience: float = 1.0,
        keep_slot: bool = False,
    ) -> T:
        """What ``send`` returns, called once an attempt.

        ``size`` is the body's length in bytes, ``patience`` a factor on the time-out for
        operations that take long at the endpoint. With ``keep_slot`` the slot still belongs
        to the caller when this returns. Raises what ``send`` raises; a ``TransientError``
        only after the last attempt.
        """
        attempt, signed_anew = 0, False
        while True:
            attempt += 1
            signed = self._signed_with()
            try:
                return await self._attempt(operation, key, send, size, patience, keep_slot)
            except AccessDeniedError as error:
                if signed_anew or not await self._can_sign_anew(error, signed):
                    raise
                signed_anew = True
                self.retries += 1
                attempt -= 1
                continue
            except TransientError as error:
                failure = error
            await self.back_off(failure, attempt)

    def _signed_with(self) -> tuple[int, int]:
        """The generations of credentials and clock."""
        credentials = self._credentials
        return (credentials.generation, credentials.clock.generation) if credentials else (0, 0)

    async def _can_sign_anew(self, refusal: AccessDeniedError, signed: tuple[int, int]) -> bool:
        if self._credentials is None:
            return False
        if refusal.code in EXPIRED_CODES:
            return await self._credentials.renew(signed[0])
        return isinstance(refusal, DatedRefusalError) and self._credentials.clock.correct(
            refusal.endpoint_seconds, seen=signed[1]
        )

    async def back_off(self, error: TransientError, attempt: int) -> None:
        """Wait as long as the policy says after failed attempt number ``attempt``, or raise ``error``."""
        allowed = self._policy.attempts_for(error, contacted=self._contacted)
        if attempt >= allowed:
            raise error.given_up(attempt) from error
        delay = self._policy.delay(attempt, retry_after_seconds=error.retry_after_seconds)
        if self._on_retry is not None:
            self._on_retry(f"{error}; attempt {attempt + 1} of {allowed} in {delay:.1f} s")
        self.retries += 1
        self.slots.back_off_began()
        try:
            await self.clock.sleep(delay)
        finally:
            self.slots.back_off_ended()

    async def _attempt(
        self,
        operation: str,
        key: str,
        send: Callable[[Deadline], Awaitable[T]],
        size: int,
        patience: float,
        keep_slot: bool,
    ) -> T:
        seconds = self.timeout_seconds * patience
        answer_seconds = seconds + min(size, BUFFERED_BYTES) / SLOWEST_BYTES_PER_SECOND
        began = await self.slots.acquire()
        outcome, kept, failure = Outcome.UNKNOWN, False, None
        try:
            self.counts[operation] += 1
            deadline = Deadline(self._deadlines, seconds, size=size, answer_seconds=answer_seconds)
            try:
                with deadline:
                    result = await send(deadline)
            except TimeoutError as error:
                reason = f"no answer for {deadline.waited_for:.0f} s"
                raise TransientError(operation, key, reason, code="Timeout") from error
            outcome = Outcome.ANSWERED
            self._contacted = True
            kept = keep_slot
            return result
        except TransientError as error:
            outcome, failure = Outcome.TROUBLE, error
            self._contacted = self._contacted or not error.unreachable
            if error.retry_after_seconds:
                self.slots.pause(min(error.retry_after_seconds, self._policy.retry_after_cap_seconds))
            raise
        except StoreError:
            outcome = Outcome.ANSWERED
            self._contacted = True
            raise
        finally:
            if not kept:
                self.slots.release(outcome, began=began, size=size, failure=failure)
