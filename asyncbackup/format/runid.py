"""Run ids: ``20261122T195000Z-3fa2``, the UTC second a run began and four random hex digits.

Ids sort as text in the order of their seconds. Two runs of one section never
share a second (:func:`new_run_id` moves on past the last one), so that order
is also the order of the runs, whatever the clock does.
"""

from __future__ import annotations

import calendar
import re
import secrets
import time

from asyncbackup.errors import FormatError
from asyncbackup.model import RunId

_NS = 1_000_000_000
_TEXT = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z-[0-9a-f]{4}", re.ASCII)
_LAST_SECOND = calendar.timegm((9999, 12, 31, 23, 59, 59))


def new_run_id(now_ns: int, *, after: RunId | None) -> RunId:
    """An id for a run that begins at ``now_ns`` (nanoseconds since 1970), later than ``after``.

    If the clock does not stand in a later second than ``after``, the second
    that follows ``after`` is taken instead. Raises ``ValueError`` for a time
    before 1970 or after the year 9999.
    """
    second = now_ns // _NS
    if after is not None:
        second = max(second, run_time_ns(after) // _NS + 1)
    if not 0 <= second <= _LAST_SECOND:
        raise ValueError(f"a run cannot begin {second} s after 1970: the year must be 1970 to 9999")
    return RunId(f"{_stamp(second)}-{secrets.token_hex(2)}")


def run_time_ns(run: str) -> int:
    """The second in ``run`` as nanoseconds since 1970. Raises :class:`FormatError`."""
    match = _TEXT.fullmatch(run)
    if match is not None:
        year, month, day, hour, minute, second = map(int, match.groups())
        # timegm rolls an impossible date over (February 30th is March 2nd): such an id is refused.
        seconds = calendar.timegm((year, month, day, hour, minute, second)) if year >= 1970 else -1
        if 1 <= month <= 12 and seconds >= 0 and _stamp(seconds) == run[:16]:
            return seconds * _NS
    raise FormatError(f"{run!r} is not a run id (like 20261122T195000Z-3fa2)")


def is_run_id(text: str) -> bool:
    """Whether ``text`` is a run id of an existing second."""
    try:
        run_time_ns(text)
    except FormatError:
        return False
    return True


def _stamp(seconds: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))
