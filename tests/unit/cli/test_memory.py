"""What Python is told about memory."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from asyncbackup.cli.memory import OBJECTS_BETWEEN_SEARCHES, search_cycles_less_often

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_only_the_youngest_objects_are_searched_less_often() -> None:
    before = gc.get_threshold()
    search_cycles_less_often()
    assert gc.get_threshold() == (OBJECTS_BETWEEN_SEARCHES, *before[1:])
    assert gc.get_freeze_count() == 0


def test_what_was_there_before_the_first_search_is_never_searched() -> None:
    gc.disable()
    search_cycles_less_often()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
