"""Whole runs on a ``file://`` destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncbackup.pipeline import attributes
from tests.workbench import Workbench

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests read what they have just written; as far as they are concerned the clock is fine-grained."""
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


@pytest.fixture
async def bench(tmp_path: Path, folder_destination: Path) -> Workbench:
    """An initialised section in the clear."""
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    await bench.initialise()
    return bench


@pytest.fixture
async def sealed_bench(tmp_path: Path, folder_destination: Path) -> Workbench:
    """An initialised encrypted section."""
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=True)
    await bench.initialise()
    return bench
