"""Which snapshots are kept: examples, and against a model that says it another way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.model import RunId
from asyncbackup.prune.policy import KeepPolicy, decide
from asyncbackup.prune.spans import Span

BERLIN = ZoneInfo("Europe/Berlin")
NS = 1_000_000_000


def snapshots(*moments: datetime) -> list[tuple[RunId, int]]:
    return [(RunId(f"s{number}"), int(moment.timestamp()) * NS) for number, moment in enumerate(moments)]


def kept(policy: KeepPolicy, *moments: datetime, zone: tzinfo = UTC) -> list[int]:
    decisions = decide(snapshots(*moments), policy, zone=zone)
    return [number for number, decision in enumerate(decisions) if decision.kept]


def utc(month: int, day: int, hour: int = 0, minute: int = 0, *, year: int = 2026) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


def test_the_newest_of_each_of_the_last_days_that_have_one() -> None:
    moments = (utc(1, 1), utc(1, 5, 8), utc(1, 5, 9), utc(1, 9, 1), utc(1, 9, 2))
    assert kept(KeepPolicy(daily=2), *moments) == [2, 4]
    assert kept(KeepPolicy(daily=1), *moments) == [4]


def test_the_oldest_stays_while_there_are_fewer_than_asked_for() -> None:
    moments = (utc(1, 1, 8), utc(1, 1, 9), utc(1, 2))
    assert kept(KeepPolicy(daily=3), *moments) == [0, 1, 2]
    assert kept(KeepPolicy(daily=2), *moments) == [1, 2]
    decisions = decide(snapshots(*moments), KeepPolicy(daily=3), zone=UTC)
    assert [decision.rules for decision in decisions] == [("oldest daily",), ("daily",), ("daily",)]


def test_each_rule_that_keeps_is_named() -> None:
    policy = KeepPolicy(last=1, hourly=1, daily=1, weekly=1, monthly=1, yearly=1, within=Span(hours=1))
    assert decide(snapshots(utc(1, 1)), policy, zone=UTC)[0].rules == (
        "last", "hourly", "daily", "weekly", "monthly", "yearly", "within",
    )  # fmt: skip


def test_days_are_those_of_the_zone() -> None:
    moments = (utc(6, 1, 21, 30), utc(6, 1, 22, 30))  # 23:30 and 00:30 in Berlin
    assert kept(KeepPolicy(daily=2), *moments, zone=BERLIN) == [0, 1]
    assert kept(KeepPolicy(daily=1), *moments, zone=UTC) == [1]
    rules = [d.rules for d in decide(snapshots(*moments), KeepPolicy(daily=2), zone=UTC)]
    assert rules == [("oldest daily",), ("daily",)], "one day"


def test_the_hour_that_comes_twice_is_one() -> None:
    moments = (utc(10, 24), utc(10, 25, 0, 30), utc(10, 25, 1, 30))  # 02:30 summer, 02:30 winter time
    assert kept(KeepPolicy(hourly=1), *moments, zone=BERLIN) == [2]
    assert kept(KeepPolicy(hourly=2), *moments, zone=BERLIN) == [0, 2]


def test_weeks_go_over_the_end_of_the_year() -> None:
    moments = (utc(12, 27, year=2026), utc(12, 31, year=2026), utc(1, 1, year=2027))
    assert kept(KeepPolicy(weekly=1), *moments) == [2]
    assert kept(KeepPolicy(weekly=2), *moments) == [0, 2]


def test_within_counts_back_from_the_newest() -> None:
    moments = (utc(1, 1), utc(1, 2), utc(1, 2, 1), utc(1, 3, 1))
    assert kept(KeepPolicy(within=Span(days=1)), *moments) == [3], "what is a day old is not within a day"
    assert kept(KeepPolicy(within=Span(days=1, hours=1)), *moments) == [2, 3]


def test_no_snapshots() -> None:
    assert decide([], KeepPolicy(last=3, within=Span(days=1))) == []


@pytest.mark.parametrize("policy", [KeepPolicy(), KeepPolicy(within=Span())])
def test_a_policy_without_a_rule_is_none(policy: KeepPolicy) -> None:
    assert not policy


MOMENTS = st.lists(
    st.integers(0, 3 * 365 * 24 * 6).map(lambda tens: utc(1, 1) + timedelta(minutes=10 * tens)),
    unique=True,
    max_size=40,
).map(sorted)
COUNTS = st.integers(0, 5)
POLICIES = st.builds(
    KeepPolicy, last=COUNTS, hourly=COUNTS, daily=COUNTS, weekly=COUNTS, monthly=COUNTS, yearly=COUNTS
)
FORMATS = {"hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%G%V", "monthly": "%Y%m", "yearly": "%Y"}


@given(moments=MOMENTS, policy=POLICIES, zone=st.sampled_from([UTC, BERLIN, ZoneInfo("Pacific/Apia")]))
def test_as_the_model_says(moments: list[datetime], policy: KeepPolicy, zone: tzinfo) -> None:
    expected = set(moments[-policy.last :]) if policy.last else set()
    for name, form in FORMATS.items():
        count: int = getattr(policy, name)
        newest: dict[str, datetime] = {}
        for moment in moments:
            newest[moment.astimezone(zone).strftime(form)] = moment
        chosen = sorted(newest.values())[-count:] if count else []
        expected.update(chosen)
        if chosen and len(chosen) < count:
            expected.add(moments[0])
    decisions = decide(snapshots(*moments), policy, zone=zone)
    assert {moments[number] for number, decision in enumerate(decisions) if decision.kept} == expected
