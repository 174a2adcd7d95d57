"""Progress: rates, forecasts, and what the lines say."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from asyncbackup.cli.progress import (
    FIRST_LINE_SECONDS,
    LAST_LINE_SECONDS,
    Figures,
    Pace,
    next_line_seconds,
    progress_line,
    render_live,
    restore_figures,
    run_figures,
)
from asyncbackup.model import RunCounters
from asyncbackup.restore.summary import RestoreCounters

MIB = 1024 * 1024


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def figures(
    files: int, size: int, *, files_total: int = 0, bytes_total: int = 0, path: bytes = b""
) -> Figures:
    return Figures(
        verb="saving",
        files_done=files,
        bytes_done=size,
        files_total=files_total,
        bytes_total=bytes_total,
        path=path,
    )


def test_it_is_too_early_to_say_anything() -> None:
    pace = Pace(Clock())
    pace.note(figures(0, 0))
    assert pace.bytes_per_second() is None
    assert pace.seconds_left() is None


def test_a_steady_pace_is_foretold() -> None:
    clock = Clock()
    pace = Pace(clock)
    for second in range(11):
        clock.now = 100.0 + second
        pace.note(figures(second, second * MIB, files_total=40, bytes_total=40 * MIB))
    assert pace.bytes_per_second() == pytest.approx(MIB)
    assert pace.seconds_left() == pytest.approx(30)


def test_only_the_last_seconds_count() -> None:
    clock = Clock()
    pace = Pace(clock)
    for second in range(100):
        clock.now = 100.0 + second
        done = second if second < 50 else 50 + (second - 50) * 3
        pace.note(figures(0, done * MIB))
    assert pace.bytes_per_second() == pytest.approx(3 * MIB)


def test_without_a_total_nothing_is_foretold() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.note(figures(0, 0))
    clock.now += 10
    pace.note(figures(5, 5 * MIB))
    assert pace.seconds_left() is None


def test_many_empty_files_move_the_forecast() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.note(figures(0, 0, files_total=1000))
    clock.now += 10
    pace.note(figures(250, 0, files_total=1000))
    assert pace.seconds_left() == pytest.approx(30)


def test_a_plain_line() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.note(figures(0, 0, files_total=4000, bytes_total=400 * MIB))
    clock.now += 10
    now = Figures(
        verb="saving",
        files_done=1234,
        bytes_done=100 * MIB,
        files_total=4000,
        bytes_total=400 * MIB,
        failed=2,
        retries=1,
    )
    pace.note(now)
    assert progress_line("home", now, pace) == (
        "home: 1,234 of 4,000 files, 100 MiB of 400 MiB, 10.0 MiB/s, 25 s left, 2 failed, "
        "1 request sent again"
    )


def test_a_total_is_never_below_what_is_done() -> None:
    pace = Pace(Clock())
    now = figures(12, 2 * MIB, files_total=10, bytes_total=MIB)
    pace.note(now)
    assert progress_line("home", now, pace) == "home: 12 of 12 files, 2.00 MiB of 2.00 MiB"
    assert now.share == 1.0


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_live_display_keeps_to_two_lines(width: int) -> None:
    pace = Pace(Clock())
    now = figures(1, MIB, files_total=3, bytes_total=3 * MIB, path=b"a/[red]\x1b[31m\xff/" + 300 * b"x")
    pace.note(now)
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(render_live("home", now, pace))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)
    assert "\x1b" not in stream.getvalue()
    if width >= 40:
        assert "saving a/[red]%1B[31m%FF" in lines[1]


def test_plain_lines_become_rare() -> None:
    elapsed, lines = FIRST_LINE_SECONDS, 1
    while elapsed < 24 * 3600:
        wait = next_line_seconds(elapsed)
        assert FIRST_LINE_SECONDS <= wait <= LAST_LINE_SECONDS
        elapsed += wait
        lines += 1
    assert lines < 200


def test_what_counts_as_done() -> None:
    counters = RunCounters()
    counters.files_new, counters.files_changed, counters.files_unchanged, counters.files_failed = 1, 2, 3, 4
    counters.bytes_unchanged, counters.bytes_read = 10, 20
    assert (run_figures(counters).files_done, run_figures(counters).bytes_done) == (10, 30)
    restored = RestoreCounters()
    restored.files_restored, restored.files_resumed, restored.files_skipped, restored.files_failed = (
        1,
        2,
        3,
        4,
    )
    restored.bytes_done = 5
    assert (restore_figures(restored).files_done, restore_figures(restored).bytes_done) == (10, 5)
