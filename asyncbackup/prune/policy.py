"""Which snapshots to keep: restic's rules, as a pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo

import msgspec

from asyncbackup.model import RunId
from asyncbackup.prune.spans import Span


class KeepPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How many snapshots to keep of each kind. A rule that is 0 does not apply."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Span = Span()

    def __bool__(self) -> bool:
        return any((self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly, self.within))


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot and the rules that keep it; it is forgotten where there are none."""

    id: RunId
    started_ns: int
    rules: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        return bool(self.rules)


def decide(
    snapshots: Sequence[tuple[RunId, int]], policy: KeepPolicy, *, zone: tzinfo | None = None
) -> list[Decision]:
    """What becomes of each of ``snapshots`` (id, start in nanoseconds; oldest first), in their order.

    A snapshot is kept if any rule keeps it. ``daily`` and its kin keep the
    newest snapshot of each of the last N days (hours, weeks of ISO 8601,
    months, years) that have one; days and hours are those of ``zone``, the
    machine's unless given. If there are fewer than N, the oldest snapshot is
    kept as well, so that the history becomes as long as it can. ``within``
    keeps all that are younger than the span, counted back from the newest.
    """
    moments = [_moment(started_ns, zone) for _, started_ns in snapshots]
    rules: list[list[str]] = [[] for _ in snapshots]
    horizon = policy.within.before(moments[-1], zone) if policy.within and snapshots else None
    left: list[tuple[str, int, Callable[[datetime], tuple[int, ...]]]] = [
        ("hourly", policy.hourly, lambda at: (at.year, at.month, at.day, at.hour)),
        ("daily", policy.daily, lambda at: (at.year, at.month, at.day)),
        ("weekly", policy.weekly, lambda at: at.isocalendar()[:2]),
        ("monthly", policy.monthly, lambda at: (at.year, at.month)),
        ("yearly", policy.yearly, lambda at: (at.year,)),
    ]
    for place in range(len(snapshots) - 1, -1, -1):
        if len(snapshots) - place <= policy.last:
            rules[place].append("last")
    for name, count, period_of in left:
        previous: tuple[int, ...] | None = None
        for place in range(len(snapshots) - 1, -1, -1):
            if not count:
                break
            period = period_of(moments[place])
            if period != previous:
                rules[place].append(name)
            elif place == 0:
                rules[place].append(f"oldest {name}")
            else:
                continue
            previous = period
            count -= 1
    for place, (_, started_ns) in enumerate(snapshots):
        if horizon is not None and _utc(started_ns) > horizon:
            rules[place].append("within")
    return [
        Decision(id=run, started_ns=started_ns, rules=tuple(found))
        for (run, started_ns), found in zip(snapshots, rules, strict=True)
    ]


def _utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)


def _moment(time_ns: int, zone: tzinfo | None) -> datetime:
    return _utc(time_ns).astimezone(zone)
