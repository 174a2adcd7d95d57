"""From figures to settings, each with its reason."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.bench.measurement import MULTIPART, PUT
from asyncbackup.units import format_duration, format_rate, format_size, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.bench.measurement import Measurement

GOOD_ENOUGH = 0.9
"""A lower concurrency with so much of the best rate is kinder to the endpoint and to memory."""
PART_GOOD_ENOUGH = 0.95
THROTTLED_SHARE = 0.01
"""More requests than that told to slow down: the endpoint has had enough."""
PACKS_WORTH = 3.0
"""How many times as long a tree of small files has to take as objects for packs to be recommended."""
EXAMPLE_FILES = 100_000
MEMBER_BYTES = 1536
"""What tar adds to a member."""


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the configuration: ``setting = value``, the value as TOML has it; empty if nothing
    that was measured tells."""

    setting: str
    value: str
    reason: str


def recommend(measurements: Sequence[Measurement]) -> tuple[Recommendation, ...]:
    """``concurrency``, ``part_size`` and ``layout``."""
    concurrency, best = _concurrency(measurements)
    return (concurrency, _part_size(measurements, best), _layout(measurements, best))


def _concurrency(measurements: Sequence[Measurement]) -> tuple[Recommendation, int]:
    puts = [each for each in measurements if each.operation == PUT]
    levels = sorted({each.concurrency for each in puts})
    if not levels:
        return Recommendation(setting="concurrency", value="", reason="no PUT was measured"), 0
    scores = {level: _score(puts, level) for level in levels}
    calm = [level for level in levels if not _is_throttled(measurements, level)]
    candidates = calm or levels[:1]
    top = max(scores[level] for level in candidates)
    chosen = next(level for level in candidates if scores[level] >= GOOD_ENOUGH * top)
    reason = f"{scores[chosen] / max(scores.values()):.0%} of the best rate that was measured"
    if len(calm) < len(levels):
        throttled = min(level for level in levels if level not in calm)
        reason += f"; with {throttled} the endpoint asks to slow down"
    elif chosen == levels[-1] and len(levels) > 1:
        reason += f"; it grows up to the end, so try more: --concurrency {chosen},{2 * chosen},{4 * chosen}"
    elif higher := [level for level in levels if level > chosen]:
        gain = max(scores[level] for level in higher) / scores[chosen] - 1
        more = f"only {gain:.0%} faster" if gain >= 0.005 else "not faster"
        reason += f"; up to {higher[-1]} it is {more}"
    return Recommendation(setting="concurrency", value=str(chosen), reason=reason), chosen


def _score(puts: Sequence[Measurement], level: int) -> float:
    """How much of the best rate of each size a concurrency reaches, on average."""
    shares: list[float] = []
    for each in puts:
        if each.concurrency == level:
            best = max(other.per_second for other in puts if other.size == each.size)
            shares.append(each.per_second / best)
    return statistics.fmean(shares)


def _is_throttled(measurements: Sequence[Measurement], level: int) -> bool:
    at = [each for each in measurements if each.concurrency == level]
    return sum(each.throttled for each in at) > THROTTLED_SHARE * sum(each.count for each in at)


def _part_size(measurements: Sequence[Measurement], concurrency: int) -> Recommendation:
    parts = [each for each in measurements if each.operation == MULTIPART]
    levels = sorted({each.concurrency for each in parts if each.concurrency <= concurrency})
    if not levels:
        reason = "no multipart upload was measured; a higher --max-bytes has room for one"
        return Recommendation(setting="part_size", value="", reason=reason)
    # The concurrency at which most sizes can be compared, the highest of those.
    by_level = {level: [each for each in parts if each.concurrency == level] for level in levels}
    level = max(levels, key=lambda level: (len(by_level[level]), level))
    compared = sorted(by_level[level], key=lambda each: each.size)
    top = max(each.bytes_per_second for each in compared)
    chosen = next(each for each in compared if each.bytes_per_second >= PART_GOOD_ENOUGH * top)
    rate = format_rate(chosen.bytes_per_second, 1)
    reason = f"one large file goes up at {rate}, {plural(level, 'part')} at once"
    if others := [each for each in compared if each.size > chosen.size]:
        best = max(others, key=lambda each: each.bytes_per_second)
        reason += f"; parts of {format_size(best.size)} reach {format_rate(best.bytes_per_second, 1)}"
    elif len(compared) == 1:
        reason += "; no other size was measured there"
    value = f'"{chosen.size // 1024**2} MiB"' if not chosen.size % 1024**2 else str(chosen.size)
    return Recommendation(setting="part_size", value=value, reason=reason)


def _layout(measurements: Sequence[Measurement], concurrency: int) -> Recommendation:
    puts = [each for each in measurements if each.operation == PUT and each.concurrency == concurrency]
    if len({each.size for each in puts}) < 2:
        reason = "objects of one size alone do not tell"
        return Recommendation(setting="layout", value="", reason=reason)
    small = min(puts, key=lambda each: each.size)
    fastest = max(puts, key=lambda each: each.bytes_per_second)
    as_objects = EXAMPLE_FILES / small.per_second
    in_packs = EXAMPLE_FILES * (small.size + MEMBER_BYTES) / fastest.bytes_per_second
    times = as_objects / in_packs
    comparison = (
        f"{EXAMPLE_FILES:,} files of {format_size(small.size)} take about {format_duration(as_objects)} as "
        f"objects, {format_duration(in_packs)} in packs"
    )
    if times >= PACKS_WORTH:
        return Recommendation(
            setting="layout", value='"packed"', reason=f"{comparison}; for large files it makes no difference"
        )
    return Recommendation(
        setting="layout", value='"mirror"', reason=f"{comparison}; that is not worth giving up plain objects"
    )
