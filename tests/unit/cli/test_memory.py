"""What Python is told about memory."""

from __future__ import annotations

import gc

from asyncbackup.cli.memory import OBJECTS_BETWEEN_SEARCHES, search_cycles_less_often


def test_only_the_youngest_objects_are_searched_less_often() -> None:
    before = gc.get_threshold()
    try:
        search_cycles_less_often()
        assert gc.get_threshold() == (OBJECTS_BETWEEN_SEARCHES, *before[1:])
    finally:
        gc.set_threshold(*before)
