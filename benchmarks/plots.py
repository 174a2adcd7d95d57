"""Bars: ``python benchmarks/plots.py results.json FOLDER`` writes one SVG for each setting and tree.

A program of its own, in the peers' environment: the library that draws is
large, and what measures must be small (its memory counts in what it starts).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "asyncbackup"
mpl.rcParams["svg.fonttype"] = "none"
from matplotlib import pyplot as plt  # noqa: E402 - after the choice of what to draw with

OURS, THEIRS = "#1f6feb", "#9aa4b2"
WORKS = ("first", "unchanged", "restored")


def main() -> int:
    measured, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for results in measured:
        for tree in results["trees"]:
            setting = f"{results['latency_ms']:g}ms-{results['concurrency']}"
            draw(tree["name"], results["samples"], folder / f"{setting}-{tree['name']}.svg")
    return 0


def draw(tree: str, samples: list[dict[str, Any]], place: Path) -> None:
    """The wall seconds of each work, the slowest tool first."""
    figure, axes = plt.subplots(1, len(WORKS), figsize=(13, 3.2), constrained_layout=True)
    for axis, work in zip(axes, WORKS, strict=True):
        walls: dict[str, list[float]] = {}
        for sample in samples:
            if (sample["tree"], sample["work"]) == (tree, work):
                walls.setdefault(sample["tool"], []).append(sample["wall_seconds"])
        names = sorted(walls, key=lambda name: -median(walls[name]))
        middles = [median(walls[name]) for name in names]
        spread = [
            [middle - min(walls[name]) for name, middle in zip(names, middles, strict=True)],
            [max(walls[name]) - middle for name, middle in zip(names, middles, strict=True)],
        ]
        colors = [OURS if name.startswith("asyncbackup") else THEIRS for name in names]
        axis.barh(names, middles, xerr=spread, color=colors, ecolor="#444444", capsize=2)
        axis.bar_label(axis.containers[-1], fmt="%.2f", padding=4, fontsize=8)
        axis.set_title(f"{tree}, {work}: wall seconds", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.15)
    figure.savefig(place, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
