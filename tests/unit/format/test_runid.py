from __future__ import annotations

import pytest

from asyncbackup.errors import FormatError
from asyncbackup.format.runid import is_run_id, new_run_id, run_time_ns
from asyncbackup.model import RunId

SECOND = 1_000_000_000
NOON = 1_795_348_800 * SECOND  # 2026-11-22T12:00:00Z


def test_id_names_the_second_in_utc() -> None:
    run = new_run_id(NOON + 999_999_999, after=None)
    assert run.startswith("20261122T120000Z-")
    assert is_run_id(run)
    assert run_time_ns(run) == NOON


def test_ids_differ_within_a_second() -> None:
    assert len({new_run_id(NOON, after=None) for _ in range(50)}) > 1


@pytest.mark.parametrize("clock", [NOON, NOON + SECOND - 1, NOON - 3600 * SECOND, 0])
def test_id_is_later_than_the_last_run_whatever_the_clock_says(clock: int) -> None:
    last = RunId("20261122T120000Z-ffff")
    following = new_run_id(clock, after=last)
    assert following > last
    assert run_time_ns(following) == NOON + SECOND


def test_clock_after_the_last_run_is_taken() -> None:
    run = new_run_id(NOON + 5 * SECOND, after=RunId("20261122T120000Z-0000"))
    assert run_time_ns(run) == NOON + 5 * SECOND


def test_what_nothing_can_follow_is_named() -> None:
    with pytest.raises(FormatError, match="no run can be later than 99991231T235959Z-ffff"):
        new_run_id(NOON, after=RunId("99991231T235959Z-ffff"))
    assert new_run_id(NOON, after=RunId("99991231T235958Z-ffff")).startswith("99991231T235959Z-")


@pytest.mark.parametrize("clock", [-1, 253_402_300_800 * SECOND])
def test_times_without_four_digit_year_are_refused(clock: int) -> None:
    with pytest.raises(ValueError, match="1970 to 9999"):
        new_run_id(clock, after=None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20261122T120000Z",
        "20261122T120000Z-3FA2",
        "20261122T120000Z-3fa",
        "20261122T120000Z-3fa2\n",
        "20261122T120000Z-3fa2x",
        "20260230T120000Z-3fa2",
        "20261322T120000Z-3fa2",
        "20261122T246000Z-3fa2",
        "20261122T235960Z-3fa2",
        "19691231T235959Z-3fa2",
        "00000000T000000Z-3fa2",
        "２0261122T120000Z-3fa2",
        "../../etc/passwd",
    ],
)
def test_everything_else_is_no_id(text: str) -> None:
    assert not is_run_id(text)
    with pytest.raises(FormatError, match="is not a run id"):
        run_time_ns(text)


@pytest.mark.parametrize("text", ["19700101T000000Z-0000", "20240229T235959Z-abcd", "99991231T235959Z-ffff"])
def test_outermost_ids(text: str) -> None:
    assert is_run_id(text)
