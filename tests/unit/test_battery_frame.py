"""The battery's frame: every file is in a group, and a selection is the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.battery import selection
from tests.battery.score import ELSEWHERE, GROUPS, group_of

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]


def test_every_file_of_the_battery_is_in_a_group() -> None:
    own = [str(path.relative_to(ROOT)) for path in (ROOT / "tests/battery").glob("test_*.py")]
    assert len(own) >= 8
    for path in (*own, *ELSEWHERE):
        assert (ROOT / path).is_file()
        assert group_of(f"{path}::test_something[1]") in GROUPS
    assert group_of("tests/unit/test_battery_frame.py::test_x") == ""


def test_a_selection_is_drawn_by_seed_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "FULL", False)
    drawn = selection.selected(range(1000), 5, name="a")
    assert drawn == sorted(selection.selected(range(1000), 5, name="a"))
    assert len(set(drawn)) == 5
    assert drawn != selection.selected(range(1000), 5, name="b")
    monkeypatch.setattr(selection, "SEED", 1)
    assert drawn != selection.selected(range(1000), 5, name="a")
    monkeypatch.setattr(selection, "FULL", True)
    assert selection.selected(range(1000), 5, name="a") == list(range(1000))
