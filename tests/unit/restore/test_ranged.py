"""Files in ranges: how many come at once, and that all of them are hashed in their order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncbackup.catalog.selection import Role, SelectedEntry, State
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.restore.content import Content
from asyncbackup.restore.outcome import ContentError
from asyncbackup.restore.ranged import RangedFile, Ranges, Take
from asyncbackup.restore.temporary import TemporaryFile, temporary_name
from asyncbackup.restore.tree import TargetTree
from tests.unit.restore.backup import file_entry

RANGE, PIECE, COUNT = 40_000, 10_000, 20
CONTENT = random.Random(1).randbytes(RANGE * (COUNT - 1) + 12_345)
SHA256 = hashlib.sha256(CONTENT).digest()


class Line:
    """Brings ranges. What comes in turn is waited for as long as ``seconds_a_piece`` says at the time."""

    def __init__(self, seconds_a_piece: float) -> None:
        self.seconds_a_piece = seconds_a_piece
        self.now = 0.0
        self.under_way = 0
        self.at_once: list[int] = []
        """How many were under way when each was asked for."""
        self.in_turn: list[int] = []
        self.spoilt = -1
        """Where a range breaks."""

    def clock(self) -> float:
        return self.now

    async def pour(self, offset: int, length: int, take: Take, *, in_turn: bool) -> None:
        self.under_way += 1
        self.at_once.append(self.under_way)
        if in_turn:
            self.in_turn.append(offset)
        try:
            for at in range(offset, offset + length, PIECE):
                if at == self.spoilt:
                    raise ContentError("spoilt")
                if in_turn:
                    self.now += self.seconds_a_piece
                await take(memoryview(CONTENT)[at : min(at + PIECE, offset + length)])
        finally:
            self.under_way -= 1


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[TemporaryFile]:
    tree = TargetTree.open(tmp_path)
    row = SelectedEntry(7, State.TODO, Role.FILE, False, None, file_entry("f", size=len(CONTENT)))
    file = TemporaryFile(tree, row, "t")
    yield file
    file.abandon()
    tree.close()


@pytest.fixture
def gate() -> Iterator[ThreadGate]:
    gate = ThreadGate("test", 2)
    yield gate
    gate.close()


def ranged(temporary: TemporaryFile, gate: ThreadGate, line: Line, counts: list[int]) -> RangedFile:
    content = Content("key", 0, len(CONTENT), len(CONTENT))
    ranges = Ranges(RANGE, 4)
    return RangedFile(content, temporary, gate, ranges, line.pour, progress=counts.append, clock=line.clock)


@pytest.mark.parametrize("seconds_a_piece", [0.0, 0.001, 1.0])
async def test_all_of_it_is_there(
    temporary: TemporaryFile, gate: ThreadGate, tmp_path: Path, seconds_a_piece: float
) -> None:
    counts: list[int] = []
    line = Line(seconds_a_piece)
    await ranged(temporary, gate, line, counts).fill(SHA256)
    assert (tmp_path / temporary_name("t", 7).decode()).read_bytes() == CONTENT
    assert sum(counts) == len(CONTENT)
    assert len(line.at_once) == COUNT, "each range is asked for once"


async def test_a_line_that_is_never_waited_for_brings_one_after_another(
    temporary: TemporaryFile, gate: ThreadGate
) -> None:
    line = Line(0.0)
    await ranged(temporary, gate, line, []).fill(SHA256)
    assert line.in_turn == list(range(0, len(CONTENT), RANGE)), "nothing is read back"
    assert set(line.at_once) == {1}


async def test_a_line_that_is_waited_for_brings_several_at_once(
    temporary: TemporaryFile, gate: ThreadGate
) -> None:
    line = Line(1.0)
    await ranged(temporary, gate, line, []).fill(SHA256)
    assert max(line.at_once) == 4
    assert len(line.in_turn) < COUNT / 2


async def test_what_is_not_what_was_saved(temporary: TemporaryFile, gate: ThreadGate) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await ranged(temporary, gate, Line(1.0), []).fill(bytes(32))
    (error,) = caught.value.exceptions
    assert isinstance(error, ContentError)
    assert error.damaged


@pytest.mark.parametrize("seconds_a_piece", [0.0, 1.0])
async def test_a_range_that_breaks_ends_the_others(
    temporary: TemporaryFile, gate: ThreadGate, seconds_a_piece: float
) -> None:
    line = Line(seconds_a_piece)
    line.spoilt = 5 * RANGE + PIECE
    with pytest.raises(ExceptionGroup) as caught:
        await ranged(temporary, gate, line, []).fill(SHA256)
    assert [str(error) for error in caught.value.exceptions] == ["spoilt"]
    assert line.under_way == 0
    assert len(line.at_once) < COUNT
