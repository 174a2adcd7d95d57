"""Reading what came in pieces."""

from __future__ import annotations

from random import Random

import pytest

from asyncbackup.format.stretch import Stretch

WHOLE = Random(1).randbytes(10_000)


@pytest.mark.parametrize("step", [1, 7, 999, 10_000])
def test_any_range_of_pieces_of_any_size(step: int) -> None:
    stretch = Stretch([WHOLE[start : start + step] for start in range(0, len(WHOLE), step)] + [b""])
    assert len(stretch) == len(WHOLE)
    random = Random(step)
    for begin in [*range(0, len(WHOLE), 1500), *(random.randrange(len(WHOLE)) for _ in range(50)), 0]:
        for size in (0, 1, 300, 4000, 20_000):
            assert stretch.view(begin, begin + size) == WHOLE[begin : begin + size]


def test_what_lies_in_one_piece_is_not_copied() -> None:
    piece = bytearray(b"0123456789")
    view = Stretch([b"before", piece]).view(7, 9)
    piece[1:3] = b"ab"
    assert bytes(view) == b"ab"


def test_nothing_came() -> None:
    stretch = Stretch(())
    assert not len(stretch)
    assert not stretch.view(0, 10)
