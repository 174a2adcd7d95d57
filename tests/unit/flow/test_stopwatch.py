"""How long something was the case."""

from __future__ import annotations

from asyncbackup.flow.stopwatch import Stopwatch


def test_stretches_add_up_and_the_one_under_way_counts() -> None:
    now = 100.0
    watch = Stopwatch(lambda: now)
    assert watch.seconds == 0
    watch.start()
    now = 103.0
    assert watch.seconds == 3
    watch.start()  # It runs already.
    now = 104.0
    watch.stop()
    now = 200.0
    watch.stop()
    assert watch.seconds == 4
    watch.set(True)
    now = 201.0
    watch.set(True)
    now = 202.0
    watch.set(False)
    now = 300.0
    assert watch.seconds == 6
