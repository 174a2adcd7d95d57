"""The micro-benchmarks run: every stage has its line, and the channels of a run have theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.launch import ROOT


def test_every_stage_and_every_channel_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.micro", "--files", "20", "--work", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    cells = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    names = [row[0].strip() for row in cells]
    for stage in ("walk", "detect", "read", "pack", "seal", "sign and send", "record", "manifest"):
        assert any(name.startswith(stage) for name in names), stage
    for channel in ("listings", "changes", "payloads", "outcomes", "for packs", "sealed"):
        assert channel in names
    assert all(int(row[1].replace(",", "")) >= 20 for row in cells[1 : names.index("channel")])
