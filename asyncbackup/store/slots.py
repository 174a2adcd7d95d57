"""How many requests may be under way at once, and fewer while the endpoint fails."""

from __future__ import annotations

import enum
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from asyncbackup.flow.load import RequestLoad
from asyncbackup.flow.window import Window
from asyncbackup.store.retry import Clock, SystemClock, TransientError

if TYPE_CHECKING:
    from asyncbackup.store.adaptive import Adjustment, ConcurrencyController

log = logging.getLogger(__name__)

CREDIT = 8.0
"""Failures that are forgiven before requests are held back."""
CREDIT_PER_SUCCESS = 0.25
"""More than one failure to four successes, and requests are held back: at most about 1.3 a result."""
FIRST_SPACING_SECONDS = 0.5
LAST_SPACING_SECONDS = 5.0


class Outcome(enum.Enum):
    """What a request says about the endpoint's health."""

    ANSWERED = enum.auto()
    TROUBLE = enum.auto()
    UNKNOWN = enum.auto()
    """The caller went away before there was an answer."""


class RequestSlots:
    """At most ``limit`` requests at once, first come first served.

    Failures use up a credit that successes refill. Once it is gone the endpoint is taken to be
    in trouble: one request at a time goes out as a probe, spaced by up to 5 seconds, and every
    success lets one more through at once until all slots are open again. Requests that wait
    here use no attempt of their own, so however many wait, an outage costs few requests.

    With a ``controller`` the slots that are open while all is well are as many as it says; each
    change is logged, under the endpoint's ``name``. ``load`` tells others how things are.

    Not thread-safe; belongs to one event loop.
    """

    def __init__(
        self,
        limit: int,
        *,
        controller: ConcurrencyController | None = None,
        name: str = "",
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if limit < 1:
            raise ValueError(f"at least one request slot is needed, not {limit}")
        if controller is not None and controller.bound > limit:
            raise ValueError(f"{limit} slots for a controller that opens up to {controller.bound}")
        self.limit = controller.window if controller is not None else limit
        """Slots that are open while the endpoint is well."""
        self._controller = controller
        self._name = name
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._window = Window(self.limit)
        self.load = RequestLoad(Window(self.limit), self._window, clock=self._clock.now)
        self._credit = CREDIT
        self._spacing = 0.0
        self._not_before = 0.0
        self._full_at = float("-inf")
        """When all slots were last in use."""
        self._backing_off = 0
        self._held = 0

    @property
    def window(self) -> int:
        """Slots that are open now."""
        return self._window.size

    @property
    def in_use(self) -> int:
        return self._window.in_use

    @property
    def peak(self) -> int:
        return self._window.peak

    async def acquire(self) -> float:
        """Wait for a slot. Whoever got it calls :meth:`release` exactly once.

        Returns the clock's time, which is when the request begins.
        """
        if not self._window.take():
            await self._window.acquire()
        if self._troubled:
            self._note_load()
        try:
            while self._not_before and (wait := self._not_before - self._clock.now()) > 0:
                self._held += 1
                self._note_load()
                try:
                    await self._clock.sleep(wait)
                finally:
                    self._held -= 1
                    self._note_load()
        except BaseException:
            self.release(Outcome.UNKNOWN)
            raise
        now = self._clock.now()
        if self._window.in_use >= self.limit:
            self._full_at = now
        return now

    def release(
        self,
        outcome: Outcome,
        *,
        began: float = 0.0,
        size: int = 0,
        failure: TransientError | None = None,
    ) -> None:
        """Give the slot back and say how the request went.

        ``began`` is what :meth:`acquire` returned, ``size`` the bytes that were moved, ``failure``
        what the trouble was. A controller learns from them.
        """
        # Answers may come in one turn of the loop: those before have left their slots when this one counts.
        full = self._full_at >= began or self._window.in_use >= self.limit
        if outcome is Outcome.ANSWERED:
            self._credit = min(CREDIT, self._credit + CREDIT_PER_SUCCESS)
            self._spacing = 0.0
            if self._window.size < self.limit:
                self._window.resize(self._window.size + 1)
            if self._controller is not None:
                self._adjust(
                    self._controller.answered(now=self._clock.now(), began=began, size=size, full=full)
                )
        elif outcome is Outcome.TROUBLE:
            if self._controller is not None and failure is not None and failure.overload:
                self._adjust(
                    self._controller.troubled(
                        now=self._clock.now(), began=began, reason=failure.code or failure.reason
                    )
                )
            self._note_trouble()
        self._window.release()
        if self._troubled:
            self._note_load()

    @property
    def _troubled(self) -> bool:
        """Whether something is held back, or was when that was last noted."""
        return self._backing_off > 0 or self._held > 0 or self.load.held_back.running

    def pause(self, seconds: float) -> None:
        """Send nothing for ``seconds``: the endpoint asked for it."""
        self._not_before = max(self._not_before, self._clock.now() + seconds)

    def back_off_began(self) -> None:
        """Note that a request waits to be sent again; :meth:`back_off_ended` follows."""
        self._backing_off += 1
        self._note_load()

    def back_off_ended(self) -> None:
        self._backing_off -= 1
        self._note_load()

    def _adjust(self, change: Adjustment | None) -> None:
        if change is None:
            return
        log.info(
            "%s: %d requests at once instead of %d: %s",
            self._name,
            change.after,
            change.before,
            change.reason,
        )
        # What failures have closed stays closed.
        open_slots = change.after if self._window.size == self.limit else min(self._window.size, change.after)
        self.limit = change.after
        self.load.callers.resize(change.after)
        self._window.resize(open_slots)

    def _note_trouble(self) -> None:
        self._credit = max(0.0, self._credit - 1.0)
        if self._credit:
            return
        self._window.resize(1)
        now = self._clock.now()
        # Requests that failed together are one failed probe, not many.
        if now >= self._not_before:
            self._spacing = min(LAST_SPACING_SECONDS, max(FIRST_SPACING_SECONDS, self._spacing * 2))
            self._not_before = now + self._spacing * (1.0 + self._jitter()) / 2.0

    def _note_load(self) -> None:
        """Requests are held back while more of them wait to be sent (again) than are under way."""
        waiting = self._backing_off + self._held
        self.load.held_back.set(waiting > self._window.in_use - self._held)
