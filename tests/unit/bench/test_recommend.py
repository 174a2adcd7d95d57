"""Settings out of figures."""

from __future__ import annotations

from asyncbackup.bench.measurement import MULTIPART, PUT, Measurement
from asyncbackup.bench.recommend import Recommendation, recommend

KIB, MIB = 1024, 1024**2


def measured(
    operation: str, size: int, concurrency: int, per_second: float, *, throttled: int = 0
) -> Measurement:
    return Measurement(
        operation=operation,
        size=size,
        concurrency=concurrency,
        repeats=1,
        count=100,
        bytes=100 * size,
        seconds=100 / per_second,
        per_second=per_second,
        bytes_per_second=per_second * size,
        slowest_per_second=per_second,
        fastest_per_second=per_second,
        p50=0.01,
        p90=0.02,
        p99=0.03,
        errors={},
        retries=throttled,
        throttled=throttled,
    )


def advice(*measurements: Measurement) -> dict[str, Recommendation]:
    return {each.setting: each for each in recommend(measurements)}


def test_the_lowest_concurrency_that_is_nearly_as_fast() -> None:
    rates = {1: 10, 8: 80, 32: 290, 64: 300, 128: 305}
    found = advice(*(measured(PUT, KIB, level, rate) for level, rate in rates.items()))["concurrency"]
    assert found.value == "32"
    assert found.reason == "95% of the best rate that was measured; up to 128 it is only 5% faster"


def test_a_rate_that_still_grows_asks_for_more() -> None:
    found = advice(*(measured(PUT, KIB, level, 10.0 * level) for level in (1, 8, 64)))["concurrency"]
    assert found.value == "64"
    assert "--concurrency 64,128,256" in found.reason


def test_a_throttled_concurrency_is_not_recommended() -> None:
    found = advice(
        measured(PUT, KIB, 8, 80), measured(PUT, KIB, 32, 200), measured(PUT, KIB, 64, 400, throttled=10)
    )["concurrency"]
    assert found.value == "32"
    assert "with 64 the endpoint asks to slow down" in found.reason


def test_the_smallest_part_that_is_nearly_as_fast() -> None:
    rates = ((5, 8.0), (8, 9.8), (16, 10.0))  # MiB of a part, MiB/s
    parts = (measured(MULTIPART, size * MIB, 8, rate / size) for size, rate in rates)
    found = advice(measured(PUT, KIB, 8, 1), *parts)["part_size"]
    assert found.value == '"8 MiB"'
    assert found.reason.startswith("one large file goes up at 9.80 MiB/s, 8 parts at once; parts of 16.0 MiB")


def test_packs_where_small_objects_are_slow() -> None:
    found = advice(measured(PUT, 4 * KIB, 32, 100), measured(PUT, MIB, 32, 50))["layout"]
    assert found.value == '"packed"'
    assert found.reason.startswith(
        "100,000 files of 4.00 KiB take about 16 min 40 s as objects, 11 s in packs"
    )


def test_plain_objects_where_packs_gain_little() -> None:
    found = advice(measured(PUT, MIB, 32, 40), measured(PUT, 8 * MIB, 32, 6))["layout"]
    assert found.value == '"mirror"'


def test_what_was_not_measured_is_not_recommended() -> None:
    found = advice(measured(PUT, KIB, 8, 1))
    assert (found["part_size"].value, found["layout"].value) == ("", "")
    assert "--max-bytes" in found["part_size"].reason
    assert advice()["concurrency"].value == ""
