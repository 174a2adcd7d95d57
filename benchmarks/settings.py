"""What a run measures: latencies and concurrencies in turn, each with the trees and tools of its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.targets import CONTENDERS, ENCRYPTED, MIRROR, PACKED

TREES = ("small", "real", "large")
CONCURRENCY = 32
"""Requests at once, where nothing else is said."""


class Setting(NamedTuple):
    """The server's latency, requests at once, and by tree the names of the tools."""

    latency_ms: float
    concurrency: int
    tools: Mapping[str, frozenset[str]]


SETTINGS = (
    Setting(
        0.0,
        32,
        {
            "small": frozenset({MIRROR, PACKED, *CONTENDERS}),
            "real": frozenset({MIRROR, PACKED, "s5cmd", "restic"}),
            "large": frozenset({MIRROR, ENCRYPTED, "s5cmd", "restic"}),
        },
    ),
    Setting(30.0, 32, {"small": frozenset({MIRROR, PACKED, "s5cmd", "restic"})}),
    Setting(30.0, 256, {"small": frozenset({MIRROR, "s5cmd"})}),
)
"""Those that the targets are for, with what these need and little else: so all of it takes minutes."""


def fitting(latency_ms: float | None, concurrency: int | None) -> list[Setting]:
    """Those with this latency and so many requests at once; ``None`` fits all."""
    return [
        setting
        for setting in SETTINGS
        if latency_ms in (None, setting.latency_ms) and concurrency in (None, setting.concurrency)
    ]


def with_all(tools: Sequence[str], latency_ms: float | None, concurrency: int | None) -> Setting:
    """All trees with all of these tools."""
    return Setting(latency_ms or 0.0, concurrency or CONCURRENCY, dict.fromkeys(TREES, frozenset(tools)))


def narrowed(setting: Setting, trees: Sequence[str] | None, only: Sequence[str] | None) -> Setting:
    """With these trees and tools alone. What is named is measured, also where no target needs it."""
    mentioned = frozenset[str]().union(*setting.tools.values())
    return setting._replace(
        tools={
            tree: frozenset(only) if only else setting.tools.get(tree, mentioned)
            for tree in (trees or setting.tools)
        }
    )
