"""Points in time as people name them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from asyncbackup.repository.times import parse_time

PLUS_TWO = timezone(timedelta(hours=2))
NOW = datetime(2026, 3, 31, 12, 30, 15, tzinfo=UTC)
SECOND = 1_000_000_000


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * SECOND


def parse(text: str, *, zone: timezone = UTC) -> int | None:
    return parse_time(text, now_ns=ns(NOW), zone=zone)


@pytest.mark.parametrize(
    ("text", "next_moment"),
    [
        ("2026-11-01", datetime(2026, 11, 2, tzinfo=UTC)),
        ("2026-12-31", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2026-11-01T12", datetime(2026, 11, 1, 13, tzinfo=UTC)),
        ("2026-11-01T12:00", datetime(2026, 11, 1, 12, 1, tzinfo=UTC)),
        ("2026-11-01 12:00", datetime(2026, 11, 1, 12, 1, tzinfo=UTC)),
        ("2026-11-01T23:59:59", datetime(2026, 11, 2, tzinfo=UTC)),
        ("2026-11-01T12:00Z", datetime(2026, 11, 1, 12, 1, tzinfo=UTC)),
        ("2026-11-01T12:00+02:00", datetime(2026, 11, 1, 10, 1, tzinfo=UTC)),
        ("2026-11-01T12:00:07-0330", datetime(2026, 11, 1, 15, 30, 8, tzinfo=UTC)),
        (" 1969-12-31 ", datetime(1970, 1, 1, tzinfo=UTC)),
        ("today", datetime(2026, 4, 1, tzinfo=UTC)),
        ("yesterday", datetime(2026, 3, 31, tzinfo=UTC)),
        ("Yesterday 18:00", datetime(2026, 3, 30, 18, 1, tzinfo=UTC)),
        ("today 06:30:07", datetime(2026, 3, 31, 6, 30, 8, tzinfo=UTC)),
    ],
)
def test_a_time_covers_the_period_of_its_precision(text: str, next_moment: datetime) -> None:
    assert parse(text) == ns(next_moment) - 1


def test_a_fraction_covers_its_last_digit() -> None:
    start = ns(datetime(2026, 11, 1, 12, tzinfo=UTC))
    assert parse("2026-11-01T12:00:00.5") == start + 600_000_000 - 1
    assert parse("2026-11-01T12:00:00.000000001") == start + 1


def test_a_time_without_a_zone_is_in_the_given_one() -> None:
    assert parse("2026-11-01", zone=PLUS_TWO) == ns(datetime(2026, 11, 2, tzinfo=PLUS_TWO)) - 1
    assert parse("2026-11-01T12:00", zone=PLUS_TWO) == ns(datetime(2026, 11, 1, 12, 1, tzinfo=PLUS_TWO)) - 1
    assert parse("2026-11-01T12:00Z", zone=PLUS_TWO) == ns(datetime(2026, 11, 1, 12, 1, tzinfo=UTC)) - 1


def test_days_are_those_of_the_zone() -> None:
    late = ns(datetime(2026, 3, 31, 23, 30, tzinfo=UTC))
    for zone, day in ((UTC, 30), (PLUS_TWO, 31)):
        end = datetime(2026, 3, day, tzinfo=zone) + timedelta(days=1)
        assert parse_time("yesterday", now_ns=late, zone=zone) == ns(end) - 1


def test_without_any_zone_it_is_the_machines() -> None:
    local = datetime(2026, 7, 2).astimezone()
    assert parse_time("2026-07-01", now_ns=ns(NOW)) == ns(local) - 1


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1 second ago", NOW - timedelta(seconds=1)),
        ("90 minutes ago", NOW - timedelta(minutes=90)),
        ("3 days ago", NOW - timedelta(days=3)),
        ("2 weeks ago", NOW - timedelta(weeks=2)),
        ("12 Hours  ago", NOW - timedelta(hours=12)),
        ("an hour ago", NOW - timedelta(hours=1)),
        ("a week ago", NOW - timedelta(weeks=1)),
        ("a month ago", datetime(2026, 2, 28, 12, 30, 15, tzinfo=UTC)),
        ("now", NOW),
        ("1 month ago", datetime(2026, 2, 28, 12, 30, 15, tzinfo=UTC)),
        ("13 months ago", datetime(2025, 2, 28, 12, 30, 15, tzinfo=UTC)),
        ("2 years ago", datetime(2024, 3, 31, 12, 30, 15, tzinfo=UTC)),
    ],
)
def test_time_before_now(text: str, moment: datetime) -> None:
    assert parse(text) == ns(moment)


@pytest.mark.parametrize(
    "text", ["2026-02-30", "2026-13-01", "2026-11-01T25:00", "3000 years ago", "yesterday 25:00"]
)
def test_impossible_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text.split()[0]):
        parse(text)


@pytest.mark.parametrize(
    "text", ["", "latest", "20261101", "2026-11", "3 days", "tomorrow", "yesterday 6", "2026-11-01T"]
)
def test_other_texts_are_no_times(text: str) -> None:
    assert parse(text) is None
