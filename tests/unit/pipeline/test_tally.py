"""The dry run's figures."""

from __future__ import annotations

from collections.abc import Iterable

from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.model import Action, Change, Failure, Kind, Pending, RunCounters
from asyncbackup.pipeline.results import Buried, Outcome, Revived
from asyncbackup.pipeline.tally import Tally
from tests.unit.pipeline.test_detector import FOLDER, LINK, seen


class Counts:
    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bool]] = []

    async def count_files_below(self, paths: Iterable[tuple[bytes, bool]]) -> int:
        self.asked += (found := list(paths))
        return sum(4 if subtree else 1 for _, subtree in found)


async def test_what_a_run_would_do_is_counted_and_nothing_done() -> None:
    counters, counts = RunCounters(), Counts()
    tally = Tally(counts, counters)
    changes_in: Sender[list[Change]]
    changes_in, changes = open_channel("changes", 10)
    outcomes_in: Sender[Outcome]
    outcomes: Receiver[Outcome]
    outcomes_in, outcomes = open_channel("outcomes", 10)
    with changes_in:
        await changes_in.send(
            [
                Change(entry=seen(b"new", size=10), action=Action.UPLOAD, pending=Pending.NEW),
                Change(entry=seen(b"changed", size=20), action=Action.UPLOAD, pending=Pending.CHANGED),
                Change(entry=seen(b"moved ctime", size=40), action=Action.RECHECK, pending=Pending.CHANGED),
            ]
        )
        await changes_in.send(
            [
                Change(entry=seen(b"chmod", size=80), action=Action.METADATA, pending=Pending.CHANGED),
                Change(entry=seen(b"name", size=160), action=Action.LINK, pending=Pending.NEW),
                Change(entry=seen(b"folder", FOLDER, size=320), action=Action.UPLOAD, pending=Pending.NEW),
                Change(entry=seen(b"link", LINK, size=640), action=Action.UPLOAD, pending=Pending.NEW),
            ]
        )
    failures = [Failure(path=b"f", reason="x"), Failure(path=b"d", reason="y", kind=Kind.FOLDER)]
    await outcomes_in.send_all(
        [*failures, Buried(path=b"a", subtree=True), Buried(path=b"b", subtree=False), Revived(path=b"c")]
    )
    await tally.count_changes(changes, outcomes_in)
    await tally.count_outcomes(outcomes)
    assert (counters.files_new, counters.files_changed, tally.bytes_to_upload) == (2, 3, 70)
    assert (counters.files_failed, counters.files_deleted) == (1, 5)
    assert tally.failures == failures
    assert counts.asked == [(b"a", True), (b"b", False)]
