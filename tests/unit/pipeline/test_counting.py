"""The count beside a run, for the display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from asyncbackup import counting
from asyncbackup.counting import count_ahead
from asyncbackup.model import RunCounters
from tests.unit.pipeline.walks import settings

if TYPE_CHECKING:
    import pytest


async def test_files_and_bytes_of_the_whole_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "FOLDERS_PER_HOP", 2)
    for number in range(10):
        folder = tmp_path / f"d{number}" / "deeper"
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(number))
        (folder / "left out.tmp").write_bytes(bytes(1000))
        (folder / "link").symlink_to("file")
    counters = RunCounters()
    await count_ahead(settings(tmp_path, exclude=("*.tmp",)), counters)
    assert (counters.files_total, counters.bytes_total) == (10, 45)
    assert counters.files_scanned == 0
