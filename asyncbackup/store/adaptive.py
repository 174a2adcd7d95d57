"""How many requests at once serve an endpoint best: found by trying, lowered when it complains.

Additive increase, multiplicative decrease, with a measure of what an increase gains. Pure logic:
it is told what happened and when, and answers with the next window. ``RequestSlots`` asks it.

* The window is only judged while it is what limits: most answers found all of it in use.
* A *trial* is one step up or down. It is kept by its elasticity: the growth of throughput over the
  growth of the window, 1 where an endpoint has more to give and 0 where requests only wait longer.
  Above one half the larger of the two windows is kept, otherwise the smaller. What is near one half
  is measured for longer.
* A step that is kept is followed by another in the same direction. After one that was taken back
  the window rests, longer each time, and the next trial goes the other way.
* The first steps, and those after a cut up to half of what was too much, multiply by 1.5; all
  others add an eighth, at least 4.
* A refusal for load, a time-out or a stall halves the window. What else fails of the requests that
  were sent before the cut is the same trouble and cuts no further.
"""

from __future__ import annotations

import msgspec

FLOOR = 4
START = 16

FAST_FACTOR = 1.5
STEP = 4
STEP_DIVISOR = 8
WORTHWHILE = 0.5
"""Elasticity from which the larger window is kept."""
UNCERTAIN = 0.25
"""So near to it, a short measurement decides nothing: latencies vary."""
FULL_SHARE = 0.75
"""Of the answers that found the window full: below it something else limits the run."""
CONGESTED_RATE, CONGESTED_LATENCY = 0.8, 1.5
"""Throughput below, and latency above, these parts of what they were: a trial downwards is due."""

EPOCH_SECONDS = 0.5
"""The shortest time over which throughput is measured."""
EPOCH_WINDOWS, LONG_EPOCH_WINDOWS = 3, 10
"""Answers that make a short and a long measurement, as multiples of the window."""
REST_EPOCHS, LONGEST_REST_EPOCHS = 8, 64
SHY_SHARE = 0.9
"""Of the window that was too much: reaching it, the window rests before it tries more."""

REQUEST_COST_BYTES = 64 * 1024
"""What a request counts for besides its bytes, so that small files are measured as well as large parts."""


class Adjustment(msgspec.Struct, frozen=True):
    """A change of the window, and why."""

    before: int
    after: int
    reason: str


class _Measure(msgspec.Struct, frozen=True):
    window: int
    rate: float
    latency: float


class ConcurrencyController:
    """``window`` is how many requests may be under way; always from ``floor`` to ``bound``.

    Times are seconds on one clock that never goes back.
    """

    def __init__(self, *, bound: int, floor: int = FLOOR, start: int = START) -> None:
        if not 1 <= floor <= bound:
            raise ValueError(f"a floor of {floor} requests under a bound of {bound} is none")
        self.floor = floor
        self.bound = bound
        self.window = min(bound, max(floor, start))
        self._fast_below = bound
        self._kept: _Measure | None = None
        """What the window in force achieved; while a trial runs, the window before it."""
        self._trial = False
        self._upwards = True
        self._resting = 0
        self._rest = REST_EPOCHS
        self._too_much: int | None = None
        self._recovering = False
        self._changed_at = float("-inf")
        self._cut_at = float("-inf")
        self._epoch_began: float | None = None
        self._answers = self._full = 0
        self._work = self._latency = 0.0

    def answered(self, *, now: float, began: float, size: int, full: bool) -> Adjustment | None:
        """Note an answer to a request sent at ``began`` with ``size`` bytes either way.

        ``full`` says whether the whole window was in use when it came.
        """
        if began < self._changed_at:
            return None  # It was sent under another window.
        if self._epoch_began is None:
            # From one answer to a later one: requests that started together end together.
            self._epoch_began = now
            return None
        self._answers += 1
        self._full += full
        self._work += size + REQUEST_COST_BYTES
        self._latency += now - began
        elapsed = now - self._epoch_began
        if self._answers < EPOCH_WINDOWS * self.window or elapsed < EPOCH_SECONDS:
            return None
        if self._full < FULL_SHARE * self._answers:
            self._begin_epoch(now)
            return self._idle(now)
        measure = _Measure(self.window, self._work / elapsed, self._latency / self._answers)
        if self._trial and self._kept is not None:
            elasticity = _elasticity(self._kept, measure)
            near = abs(elasticity - WORTHWHILE) < UNCERTAIN
            if near and self._answers < LONG_EPOCH_WINDOWS * self.window:
                return None
            self._begin_epoch(now)
            return self._end_trial(self._kept, measure, now, worthwhile=elasticity >= WORTHWHILE)
        self._begin_epoch(now)
        return self._look(measure, now)

    def troubled(self, *, now: float, began: float, reason: str) -> Adjustment | None:
        """Note a refusal for load, a time-out or a stall of a request sent at ``began``."""
        if began <= self._cut_at:
            return None
        self._cut_at = now
        half = self.window // 2
        self._fast_below = max(half, self._fast_below) if self._recovering else half
        if not self._recovering:
            self._too_much = self.window
        self._recovering = True
        self._kept, self._trial, self._upwards = None, False, True
        self._resting, self._rest = 0, REST_EPOCHS
        self._begin_epoch(None)
        return self._change(half, now, f"halved: {reason}")

    def _look(self, measure: _Measure, now: float) -> Adjustment | None:
        """Between trials: is one due?"""
        kept = self._kept
        if kept is not None and _is_congested(measure, kept):
            self._kept, self._upwards, self._resting = measure, False, 0
            times = measure.latency / kept.latency
            return self._try(now, f"answers take {times:.1f} times as long, and fewer come")
        self._kept = measure
        if self._resting:
            self._resting -= 1
            return None
        return self._try(now, "more may come through" if self._upwards else "fewer may do as well")

    def _end_trial(
        self, kept: _Measure, measure: _Measure, now: float, *, worthwhile: bool
    ) -> Adjustment | None:
        self._trial = False
        low, high = sorted((kept, measure), key=lambda each: each.window)
        if worthwhile == self._upwards:
            self._kept = measure
            self._rest = REST_EPOCHS
            self._recovering = False
            if self._upwards:
                gain = high.rate / low.rate - 1.0
                reason = f"{gain:.0%} more came through with {high.window} than with {low.window}"
            else:
                reason = f"{low.window} did as well as {high.window}"
            return self._try(now, reason)
        overshot = self._upwards and self._is_fast()
        self._fast_below = 0
        self._upwards = not self._upwards
        # A coarse step that was too much leaves finer ones to be tried, at once.
        if not overshot:
            self._take_rest()
        if worthwhile:
            reason = f"less came through with {low.window}"
        else:
            reason = f"no more came through with {high.window}, answers only took longer"
        return self._change(kept.window, now, reason)

    def _idle(self, now: float) -> Adjustment | None:
        """Something else limits the run: a trial says nothing, and nothing is tried."""
        if not self._trial or self._kept is None:
            return None
        self._trial = False
        self._take_rest()
        return self._change(self._kept.window, now, "the run has no more to send")

    def _try(self, now: float, reason: str) -> Adjustment | None:
        """One step on, or a rest where there is none to take."""
        step = max(STEP, self.window // STEP_DIVISOR)
        if not self._upwards:
            wanted = self.window - step
        elif self._is_fast():
            wanted = int(self.window * FAST_FACTOR)
        else:
            wanted = self.window + step
        shy = self._upwards and self._too_much is not None and wanted > SHY_SHARE * self._too_much
        if shy:
            self._too_much = None
        wanted = self._bounded(wanted)
        if shy or wanted == self.window:
            self._take_rest()
            self._upwards = shy or not self._upwards
            return None
        self._trial = True
        return self._change(wanted, now, reason)

    def _change(self, window: int, now: float, reason: str) -> Adjustment | None:
        before, self.window = self.window, self._bounded(window)
        if before == self.window:
            return None
        self._changed_at = now
        self._begin_epoch(None)
        return Adjustment(before, self.window, reason)

    def _begin_epoch(self, now: float | None) -> None:
        self._epoch_began = now
        self._answers = self._full = 0
        self._work = self._latency = 0.0

    def _is_fast(self) -> bool:
        return self.window < self._fast_below

    def _take_rest(self) -> None:
        self._resting, self._rest = self._rest, min(LONGEST_REST_EPOCHS, self._rest * 2)

    def _bounded(self, window: int) -> int:
        return min(self.bound, max(self.floor, window))


def _elasticity(one: _Measure, other: _Measure) -> float:
    """The growth of throughput over the growth of the window, from the smaller to the larger."""
    low, high = sorted((one, other), key=lambda each: each.window)
    return (high.rate / low.rate - 1.0) / (high.window / low.window - 1.0)


def _is_congested(measure: _Measure, kept: _Measure) -> bool:
    return (
        measure.rate < CONGESTED_RATE * kept.rate
        and measure.latency > CONGESTED_LATENCY * kept.latency
        and kept.latency > 0
    )
