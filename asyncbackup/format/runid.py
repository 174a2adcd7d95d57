"""Run ids: ``20261122T195000Z-3fa2``, the UTC second a run began and four random hex digits.

Ids sort as text in the order of their seconds. Two runs of one section never
share a second (:func:`new_run_id` moves on past the last one), so that order
is also the order of the runs, whatever the clock does.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta

from asyncbackup.errors import FormatError
from asyncbackup.model import RunId

_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
_TEXT = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z-[0-9a-f]{4}", re.ASCII)


def new_run_id(now_ns: int, *, after: RunId | None) -> RunId:
    """An id for a run that begins at ``now_ns`` (nanoseconds since 1970), later than ``after``.

    If the clock does not stand in a later second than ``after``, the second
    that follows ``after`` is taken instead. Raises ``ValueError`` for a time
    before 1970 or after the year 9999, and :class:`FormatError` for an
    ``after`` that nothing can follow.
    """
    second = now_ns // _NS
    if after is not None:
        second = max(second, run_time_ns(after) // _NS + 1)
        if second > _LAST_SECOND >= now_ns // _NS:
            raise FormatError(
                f"no run can be later than {after}, which stands at the destination: no clock says so, and "
                "what has that name is to be removed"
            )
    if not 0 <= second <= _LAST_SECOND:
        raise ValueError(f"a run cannot begin {second} s after 1970: the year must be 1970 to 9999")
    moment = _EPOCH + timedelta(seconds=second)
    return RunId(f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}")


def run_time_ns(run: str) -> int:
    """The second in ``run`` as nanoseconds since 1970. Raises :class:`FormatError`."""
    if match := _TEXT.fullmatch(run):
        year, month, day, hour, minute, second = map(int, match.groups())
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            pass  # the thirteenth month, February 30th
        else:
            if moment >= _EPOCH:
                return (moment - _EPOCH) // timedelta(seconds=1) * _NS
    raise FormatError(f"{run!r} is not a run id (like 20261122T195000Z-3fa2)")


def is_run_id(text: str) -> bool:
    """Whether ``text`` is a run id of an existing second."""
    try:
        run_time_ns(text)
    except FormatError:
        return False
    return True
