"""Which snapshot a user means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from asyncbackup.errors import ConfigError
from asyncbackup.format.keys import snapshot_key
from asyncbackup.format.runid import run_time_ns
from asyncbackup.model import RunId
from asyncbackup.repository.snapshots import SnapshotInfo, choose_snapshot

OCTOBER = RunId("20261031T220000Z-aaaa")
MORNING = RunId("20261101T080000Z-bbbb")
NIGHT = RunId("20261101T220030Z-cccc")
NOW_NS = int(datetime(2026, 11, 3, 9, tzinfo=UTC).timestamp()) * 1_000_000_000


def info(run: RunId) -> SnapshotInfo:
    return SnapshotInfo(id=run, key=snapshot_key("home", run), size=1, started_ns=run_time_ns(run))


ALL = [info(OCTOBER), info(MORNING), info(NIGHT)]


def choose(text: str) -> str:
    return choose_snapshot(ALL, text, section="home", now_ns=NOW_NS, zone=UTC)


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("latest", NIGHT),
        ("Latest", NIGHT),
        (MORNING, MORNING),
        ("202610", OCTOBER),
        ("20261101T08", MORNING),
        ("2026-10-31", OCTOBER),
        ("2026-11-01", NIGHT),
        ("2026-11-01T22:00", NIGHT),
        ("2026-11-01T21:59", MORNING),
        ("2026-11-01T08:00:00Z", MORNING),
        ("2026-11-01T07:59:59", OCTOBER),
        ("2030-01-01", NIGHT),
        ("1 day ago", NIGHT),
        ("2 days ago", MORNING),
        ("50 hours ago", OCTOBER),
    ],
)
def test_what_a_text_stands_for(text: str, run: RunId) -> None:
    assert choose(text) == run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("20261101", f"fits 2 snapshots: {MORNING}, {NIGHT}"),
        ("2026-10-30", f"no snapshot as old as '2026-10-30'; there are {OCTOBER}, {MORNING}, {NIGHT}"),
        ("nonsense", f"no snapshot 'nonsense'.*{OCTOBER}, {MORNING}, {NIGHT}"),
        ("", "no snapshot ''"),
        ("2026-02-30", f"no date or time.*{OCTOBER}"),
        (MORNING + "0", "no snapshot"),
    ],
)
def test_what_fits_none_or_several_is_refused_with_what_exists(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose(text)


def test_without_snapshots_the_error_says_how_to_make_one() -> None:
    with pytest.raises(ConfigError, match="asyncbackup run home"):
        choose_snapshot([], "latest", section="home")


def test_a_long_list_is_shortened_to_the_newest() -> None:
    many = [info(RunId(f"20260101T0000{number:02d}Z-aaaa")) for number in range(30)]
    with pytest.raises(ConfigError, match="20260101T000029Z-aaaa and 20 older ones") as caught:
        choose_snapshot(many, "x", section="home", now_ns=NOW_NS, zone=UTC)
    assert many[19].id not in str(caught.value)
