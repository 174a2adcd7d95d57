"""Two commits beside each other: ``python -m benchmarks compare OLD NEW``."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.launch import ROOT
from benchmarks.suite import FIRST, RESTORED, UNCHANGED
from benchmarks.targets import paired
from benchmarks.tools import Tool, asyncbackup

if TYPE_CHECKING:
    from benchmarks.results import Results

OLD, NEW = "old", "new"
LAYOUTS = {"mirror": False, "packed": True}
"""Whether each is packed, and so encrypted."""


@contextmanager
def checked_out(old: str, new: str, work: Path) -> Iterator[list[Tool]]:
    """Both commits in work trees of their own, each layout of each as a tool; removed with the block."""
    places = {OLD: (old, work / "old-commit"), NEW: (new, work / "new-commit")}
    try:
        for commit, place in places.values():
            _git("worktree", "add", "--force", "--detach", str(place), commit)
        yield [
            asyncbackup(f"{side} {layout}", place, packed=packed, encrypted=packed)
            for layout, packed in LAYOUTS.items()
            for side, (_, place) in places.items()
        ]
    finally:
        for _, place in places.values():
            if place.exists():
                _git("worktree", "remove", "--force", str(place))


def comparison(results: Results) -> str:
    """A table of new over old, run by run: below 1 the new commit is the cheaper one."""
    lines = [
        "| new / old | wall: median (min to max) | CPU | peak memory | requests |",
        "|---|---|---|---|---|",
    ]
    for tree in results.trees:
        for layout in LAYOUTS:
            for work in (FIRST, UNCHANGED, RESTORED):
                pairs = paired(
                    results.of(f"{NEW} {layout}", tree.name, work),
                    results.of(f"{OLD} {layout}", tree.name, work),
                )
                if not pairs:
                    continue
                walls = [new.wall_seconds / old.wall_seconds for new, old in pairs]
                cpu = median(new.cpu_seconds / max(old.cpu_seconds, 1e-3) for new, old in pairs)
                peak = median(new.peak_mb / old.peak_mb for new, old in pairs)
                asked = median(new.request_count / max(old.request_count, 1) for new, old in pairs)
                lines.append(
                    f"| {tree.name}, {layout}, {work} | {median(walls):.2f} ({min(walls):.2f} to "
                    f"{max(walls):.2f}) | {cpu:.2f} | {peak:.2f} | {asked:.2f} |"
                )
    return "\n".join(lines) + "\n"


def _git(*words: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *words], check=True, stdout=subprocess.DEVNULL)  # noqa: S603, S607
