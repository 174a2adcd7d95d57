"""What is summed up, and that memory stays bounded however much fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from asyncbackup.catalog.selection import Candidate, Role, Selection, State
from asyncbackup.restore import RestoreCounters, tally
from asyncbackup.restore.outcome import Outcome, failed
from asyncbackup.restore.tally import Tally
from tests.unit.restore.backup import file_entry

if TYPE_CHECKING:
    import pytest


async def test_failures_are_named_up_to_a_bound_and_all_are_counted_and_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "FAILURES_NAMED", 3)
    monkeypatch.setattr(tally, "MARKS_AT_ONCE", 2)
    async with Selection.open(tmp_path / "s", {}, boot="b") as selection:
        await selection.add(Candidate(entry=file_entry(str(number)), selected=True) for number in range(5))
        await selection.seal(filtered=False)
        counters = RestoreCounters()
        sums = Tally(selection, counters)
        async for page in selection.pages((Role.FILE,)):
            for row in page:
                await sums.add([failed(row, "reason")])
        await sums.flush()
        assert [failure.path for failure in sums.failures] == [b"0", b"1", b"2"]
        assert (sums.failures_total, counters.files_failed) == (5, 5)
        assert sums.sentences() == (
            "2 further failures are not named here; restore again to see what is left",
        )
        rows = [row async for page in selection.pages((Role.FILE,)) for row in page]
        assert {row.state for row in rows} == {State.FAILED}


async def test_outcomes_that_change_nothing_are_not_written(tmp_path: Path) -> None:
    async with Selection.open(tmp_path / "s", {}, boot="b") as selection:
        await selection.add([Candidate(entry=file_entry("f", size=9), selected=True)])
        await selection.seal(filtered=False)
        await selection.mark([(1, State.DONE)])
        counters = RestoreCounters()
        sums = Tally(selection, counters)
        row = (await selection.rows([1]))[1]
        await sums.add([Outcome(row=row, state=State.DONE, resumed=True)])
        assert (counters.files_resumed, counters.files_restored, counters.bytes_done) == (1, 0, 9)
        assert sums.sentences() == ()
