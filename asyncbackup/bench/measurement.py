"""What was measured of one operation at one size and concurrency."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

PUT, GET, HEAD, LIST, MULTIPART = "PUT", "GET", "HEAD", "LIST", "MULTIPART"
OPERATIONS = (PUT, GET, HEAD, LIST, MULTIPART)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One repeat: what was done in ``seconds``, and how long each operation took."""

    seconds: float
    bytes: int
    latencies: list[float]
    errors: Counter[str]
    retries: int = 0
    throttled: int = 0


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """All repeats of one operation. ``size`` is an object's, of ``MULTIPART`` a part's, of ``HEAD`` and
    ``LIST`` 0. Times are in seconds; rates are the median of the repeats'. ``errors`` counts by the
    endpoint's code what failed for good; ``retries`` are requests sent again, ``throttled`` those of
    them that the endpoint had asked to slow down."""

    operation: str
    size: int
    concurrency: int
    repeats: int
    count: int
    bytes: int
    seconds: float
    per_second: float
    bytes_per_second: float
    slowest_per_second: float
    fastest_per_second: float
    p50: float
    p90: float
    p99: float
    errors: dict[str, int]
    retries: int
    throttled: int


def summarise(operation: str, size: int, concurrency: int, rounds: Sequence[Round]) -> Measurement:
    """The figures of all repeats together. At least one operation has to have succeeded."""
    latencies = sorted(latency for each in rounds for latency in each.latencies)
    rates = [len(each.latencies) / each.seconds for each in rounds if each.seconds > 0]
    errors: Counter[str] = Counter()
    for each in rounds:
        errors.update(each.errors)
    return Measurement(
        operation=operation,
        size=size,
        concurrency=concurrency,
        repeats=len(rounds),
        count=len(latencies),
        bytes=sum(each.bytes for each in rounds),
        seconds=sum(each.seconds for each in rounds),
        per_second=statistics.median(rates),
        bytes_per_second=statistics.median(each.bytes / each.seconds for each in rounds if each.seconds > 0),
        slowest_per_second=min(rates),
        fastest_per_second=max(rates),
        p50=percentile(latencies, 50),
        p90=percentile(latencies, 90),
        p99=percentile(latencies, 99),
        errors=dict(errors),
        retries=sum(each.retries for each in rounds),
        throttled=sum(each.throttled for each in rounds),
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile of ascending values: one that was measured, never one in between."""
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[rank - 1]
