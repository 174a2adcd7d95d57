"""Spans of calendar time as people write them: ``1y5m7d2h``, ``30 days``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

import msgspec

SPAN_EXAMPLES = "1y5m7d2h (m are months), '30 days' or '2 weeks'"

_TERM = re.compile(
    r"\s*(\d{1,6})\s*(y|years?|m|months?|w|weeks?|d|days?|h|hours?)(?![a-z])", re.ASCII | re.IGNORECASE
)
_GLUED = re.compile(r"\s*(\d{1,6})\s*([ymwdh])", re.ASCII | re.IGNORECASE)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Years and months go by the calendar, days by the clock on the wall, hours by the second."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def __bool__(self) -> bool:
        return bool(self.years or self.months or self.days or self.hours)

    def before(self, moment: datetime, zone: tzinfo | None) -> datetime:
        """The moment that lies the span before ``moment``, in UTC.

        As restic counts: 31 March less a month is "31 February", so 2 or 3 March.
        ``zone`` is whose days and months they are, the machine's unless given.
        Before the year 1 it is the beginning of that year.
        """
        wall = moment.astimezone(zone).replace(tzinfo=None)
        months = (wall.year - self.years) * 12 + wall.month - 1 - self.months
        year, month = divmod(months, 12)
        try:
            first = wall.replace(year=year, month=month + 1, day=1)
            wall = first + timedelta(days=wall.day - 1 - self.days)
            # A naive moment is taken for one of the machine's zone.
            local = wall.replace(tzinfo=zone) if zone is not None else wall
            return local.astimezone(UTC) - timedelta(hours=self.hours)
        except (ValueError, OverflowError):
            return datetime(1, 1, 1, tzinfo=UTC)


def parse_span(text: str) -> Span:
    """The span that ``text`` names. Raises ``ValueError`` with a message that says what is accepted."""
    fields = {"years": 0, "months": 0, "days": 0, "hours": 0}
    place = 0
    rest = text.rstrip()
    while place < len(rest) or not rest:
        match = _TERM.match(rest, place) or _GLUED.match(rest, place)
        if match is None:
            raise ValueError(f"{text!r} is no span of time; accepted are {SPAN_EXAMPLES}")
        count, unit = int(match[1]), match[2][0].lower()
        if unit == "w":
            fields["days"] += 7 * count
        else:
            fields[{"y": "years", "m": "months", "d": "days", "h": "hours"}[unit]] += count
        place = match.end()
    return Span(**fields)
