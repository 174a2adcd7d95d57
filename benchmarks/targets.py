"""What asyncbackup is to reach beside its peers, and what it reached."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from benchmarks.results import Results, Sample

MIRROR = "asyncbackup mirror"
PACKED = "asyncbackup packed"
"""Compressed and encrypted, as restic always is."""
ANY_PEER = "the fastest"
PEAK_MB = 160
"""Of every command of asyncbackup, whatever the tree."""


class Target(NamedTuple):
    """``tool`` shall take at most ``most`` times the wall time of ``peer``."""

    tree: str
    work: str
    tool: str
    peer: str
    most: float


TARGETS = (
    Target("small", "first", MIRROR, "s5cmd", 0.5),
    Target("small", "first", PACKED, "restic", 0.35),
    Target("small", "unchanged", MIRROR, ANY_PEER, 0.5),
    Target("small", "unchanged", PACKED, ANY_PEER, 0.5),
    Target("small", "restored", MIRROR, "s5cmd", 0.5),
    Target("small", "restored", PACKED, "restic", 0.5),
    Target("real", "first", MIRROR, "s5cmd", 0.5),
    Target("real", "first", PACKED, "restic", 0.5),
    Target("real", "unchanged", MIRROR, ANY_PEER, 0.5),
    Target("real", "unchanged", PACKED, ANY_PEER, 0.5),
    Target("real", "restored", MIRROR, "s5cmd", 0.5),
    Target("real", "restored", PACKED, "restic", 0.5),
    Target("large", "first", MIRROR, "s5cmd", 0.7),
    Target("large", "first", PACKED, "restic", 0.2),
    Target("large", "restored", MIRROR, "s5cmd", 0.8),
    Target("large", "restored", PACKED, "restic", 0.8),
)
DISTANT_TARGETS = (
    # With 30 ms an answer, an object a file takes files / concurrency answers, whoever sends them:
    # a mirror can only be as fast as a peer with as many requests at once, give or take its CPU.
    Target("small", "first", MIRROR, "s5cmd", 1.0),
    Target("small", "restored", MIRROR, "s5cmd", 1.0),
    Target("real", "first", MIRROR, "s5cmd", 1.0),
    Target("real", "restored", MIRROR, "s5cmd", 1.0),
    # Packs are few requests, so that what counts is CPU, as without latency.
    Target("small", "first", PACKED, "restic", 0.5),
    Target("small", "restored", PACKED, "restic", 0.5),
    Target("real", "first", PACKED, "restic", 0.5),
    Target("real", "restored", PACKED, "restic", 0.5),
    # No request a file, against a listing of all: a handful of answers each, in a row.
    Target("small", "unchanged", MIRROR, ANY_PEER, 1.0),
    Target("small", "unchanged", PACKED, ANY_PEER, 1.0),
    Target("real", "unchanged", MIRROR, ANY_PEER, 1.0),
    Target("real", "unchanged", PACKED, ANY_PEER, 1.0),
    Target("large", "first", MIRROR, "s5cmd", 1.0),
    Target("large", "first", PACKED, "restic", 0.3),
    Target("large", "restored", MIRROR, "s5cmd", 1.0),
    Target("large", "restored", PACKED, "restic", 1.0),
)


class Ratio(NamedTuple):
    """Wall time over wall time, run by run, and CPU over CPU; of ``peer``, by its name."""

    target: Target
    peer: str
    least: float
    middle: float
    most: float
    cpu: float

    @property
    def reached(self) -> bool:
        return self.middle <= self.target.most


def ratios(results: Results) -> list[Ratio]:
    """Every target whose both sides were measured in at least one common run."""
    found: list[Ratio] = []
    for target in DISTANT_TARGETS if results.latency_ms else TARGETS:
        peer = target.peer
        if peer == ANY_PEER:
            names = results.tools(target.tree, target.work)
            peer = next((name for name in names if not name.startswith("asyncbackup")), "")
        pairs = paired(
            results.of(target.tool, target.tree, target.work), results.of(peer, target.tree, target.work)
        )
        if pairs:
            found.append(ratio(target, peer, pairs))
    return found


def ratio(target: Target, peer: str, pairs: list[tuple[Sample, Sample]]) -> Ratio:
    walls = [ours.wall_seconds / theirs.wall_seconds for ours, theirs in pairs]
    cpu = median(ours.cpu_seconds / max(theirs.cpu_seconds, 1e-3) for ours, theirs in pairs)
    return Ratio(target, peer, min(walls), median(walls), max(walls), cpu)


def paired(ours: list[Sample], theirs: list[Sample]) -> list[tuple[Sample, Sample]]:
    """Samples of the same run, side by side."""
    by_run = {sample.run: sample for sample in theirs}
    return [(sample, by_run[sample.run]) for sample in ours if sample.run in by_run]


def peaks(results: Results) -> dict[str, float]:
    """The highest peak of memory of each of asyncbackup's tools, in MB."""
    found: dict[str, float] = {}
    for sample in results.samples:
        if sample.tool.startswith("asyncbackup"):
            found[sample.tool] = max(found.get(sample.tool, 0.0), sample.peak_mb)
    return found
