"""Points in time as people name them: ``2026-11-01``, ``2026-11-01T12:00``, ``yesterday``, ``3 days ago``."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import tzinfo

_NS = 1_000_000_000

_DATE = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?P<time>\d{2}(?::\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?)?)(?P<zone>Z|[+-]\d{2}:?\d{2})?)?",
    re.IGNORECASE | re.ASCII,
)
_AGO = re.compile(
    r"(?P<count>an?|\d{1,6})\s*(?P<unit>second|minute|hour|day|week|month|year)s?\s+ago",
    re.IGNORECASE | re.ASCII,
)
_DAY = re.compile(
    r"(?P<day>today|yesterday)(?:\s+(?P<time>\d{2}:\d{2}(?::\d{2})?))?", re.IGNORECASE | re.ASCII
)

_SPANS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}


def parse_time(text: str, *, now_ns: int, zone: tzinfo | None = None) -> int | None:
    """The last nanosecond (since 1970) that ``text`` covers, or ``None`` where it names no time.

    A time covers the period of its precision: ``2026-11-01`` ends with that
    day and ``2026-11-01T12:00`` with that minute, so that what a list shows
    without its seconds finds the snapshot again. Times without a zone are in
    ``zone``, the machine's unless given. Also understood: ``now``, ``today``,
    ``yesterday``, ``yesterday 18:00``, ``3 days ago``, ``an hour ago``, with
    seconds, minutes, hours, days, weeks, months and years.

    Raises ``ValueError`` for something that looks like a time and is none,
    like ``2026-02-30``; the message is a sentence for the user.
    """
    text = text.strip()
    if match := _AGO.fullmatch(text):
        return _ago(match, now_ns=now_ns, zone=zone)
    if text.lower() == "now":
        return now_ns
    if match := _DAY.fullmatch(text):
        today = _moment(now_ns, zone).date()
        day = today if match["day"].lower() == "today" else today - timedelta(days=1)
        date = f"{day.isoformat()}T{match['time']}" if match["time"] else day.isoformat()
    else:
        date = text
    if match := _DATE.fullmatch(date):
        return _end_of_period(match, text, zone=zone)
    return None


def _ago(match: re.Match[str], *, now_ns: int, zone: tzinfo | None) -> int:
    count = int(match["count"]) if match["count"].isdigit() else 1
    unit = match["unit"].lower()
    if unit in _SPANS:
        return now_ns - count * (_SPANS[unit] // timedelta(microseconds=1)) * 1000
    # Months and years go by the calendar; the last day of a shorter month stands in for its 31st.
    now = _moment(now_ns, zone)
    months = now.year * 12 + now.month - 1 - count * (12 if unit == "year" else 1)
    year, month = divmod(months, 12)
    if year < 1:
        raise ValueError(f"{match[0]!r} lies before the year 1")
    day = min(now.day, calendar.monthrange(year, month + 1)[1])
    then = now.replace(year=year, month=month + 1, day=day)
    if zone is None:
        then = then.replace(tzinfo=None).astimezone()  # the machine's offset on that day, not today's
    return _ns(then) + now_ns % _NS


def _moment(now_ns: int, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(now_ns // _NS, tz=UTC).astimezone(zone)


def _end_of_period(match: re.Match[str], text: str, *, zone: tzinfo | None) -> int:
    date, time, offset = match["date"], match["time"], match["zone"]
    try:
        day = datetime.strptime(date, "%Y-%m-%d")
        if time is None:
            return _ns(_in_zone(day + timedelta(days=1), None, zone)) - 1
        whole, _, fraction = time.replace(",", ".").partition(".")
        fields = whole.split(":")
        formats = ("%H", "%H:%M", "%H:%M:%S")
        clock = datetime.strptime(whole, formats[len(fields) - 1])
        begin = day.replace(hour=clock.hour, minute=clock.minute, second=clock.second)
        start = _ns(_in_zone(begin, offset, zone))
        if fraction:
            return start + int(fraction.ljust(9, "9"))
        return start + (3600, 60, 1)[len(fields) - 1] * _NS - 1
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no date or time of the calendar") from None


def _in_zone(moment: datetime, offset: str | None, zone: tzinfo | None) -> datetime:
    if offset is not None:
        return datetime.fromisoformat(moment.isoformat() + ("+00:00" if offset in "Zz" else offset))
    return moment.replace(tzinfo=zone) if zone is not None else moment.astimezone()


def _ns(moment: datetime) -> int:
    seconds: int = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return seconds * _NS
