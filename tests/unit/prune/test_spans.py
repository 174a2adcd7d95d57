"""Spans of time: what is read, and what lies that long ago."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from asyncbackup.prune.spans import Span, parse_span

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("1y5m7d2h", Span(years=1, months=5, days=7, hours=2)),
        ("30d", Span(days=30)),
        ("30 days", Span(days=30)),
        (" 2 Weeks ", Span(days=14)),
        ("1 year 2 months", Span(years=1, months=2)),
        ("3m", Span(months=3)),
        ("36h", Span(hours=36)),
        ("1d 1d", Span(days=2)),
        ("0h", Span()),
    ],
)
def test_what_people_write(text: str, span: Span) -> None:
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "1x", "3 minutes", "1.5d", "latest", "5dd", "٣d"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError, match="no span of time"):
        parse_span(text)


@pytest.mark.parametrize(
    ("span", "moment", "before"),
    [
        (Span(months=1), datetime(2026, 3, 31, 12), datetime(2026, 3, 3, 12)),
        (Span(years=1), datetime(2024, 2, 29), datetime(2023, 3, 1)),
        (Span(years=1, months=5, days=7, hours=2), datetime(2026, 11, 27, 1), datetime(2025, 6, 19, 23)),
        (Span(hours=25), datetime(2026, 1, 1), datetime(2025, 12, 30, 23)),
        (Span(years=5000), datetime(2026, 1, 1), datetime(1, 1, 1)),
    ],
)
def test_by_the_calendar(span: Span, moment: datetime, before: datetime) -> None:
    assert span.before(moment.replace(tzinfo=UTC), UTC) == before.replace(tzinfo=UTC)


def test_a_day_is_one_on_the_wall_and_an_hour_is_an_hour() -> None:
    noon_after = datetime(2026, 3, 29, 12, tzinfo=BERLIN)  # the clock went forward that night
    assert Span(days=1).before(noon_after, BERLIN) == datetime(2026, 3, 28, 12, tzinfo=BERLIN)
    assert Span(hours=24).before(noon_after, BERLIN) == datetime(2026, 3, 28, 11, tzinfo=BERLIN)
