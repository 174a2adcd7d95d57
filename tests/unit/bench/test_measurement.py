"""Figures out of rounds."""

from __future__ import annotations

from collections import Counter

import pytest

from asyncbackup.bench.measurement import PUT, Round, percentile, summarise


def done(count: int, seconds: float, *, size: int = 1000, errors: dict[str, int] | None = None) -> Round:
    return Round(
        seconds=seconds,
        bytes=count * size,
        latencies=[seconds / count] * count,
        errors=Counter(errors or {}),
        retries=2,
        throttled=1,
    )


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([1], 50, 1), ([1, 2], 50, 1), (range(1, 101), 50, 50), (range(1, 101), 99, 99), (range(1, 11), 99, 10)],
)
def test_a_percentile_is_one_that_was_measured(values: list[int], percent: int, expected: int) -> None:
    assert percentile(list(values), percent) == expected


def test_rates_are_the_median_of_the_repeats() -> None:
    found = summarise(PUT, 1000, 8, [done(10, 1.0), done(10, 2.0, errors={"SlowDown": 3}), done(10, 10.0)])
    assert (found.count, found.bytes, found.seconds) == (30, 30_000, 13.0)
    assert (found.slowest_per_second, found.per_second, found.fastest_per_second) == (1.0, 5.0, 10.0)
    assert found.bytes_per_second == 5000
    assert found.errors == {"SlowDown": 3}
    assert (found.retries, found.throttled) == (6, 3)
    assert (found.p50, found.p99) == (0.2, 1.0)
