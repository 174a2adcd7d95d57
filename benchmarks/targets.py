"""What asyncbackup is to reach beside its peers, and what it reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from benchmarks.results import Results, Sample

MIRROR = "asyncbackup mirror"
ENCRYPTED = "asyncbackup mirror, encrypted"
PACKED = "asyncbackup packed"
"""Compressed and encrypted, as restic always is."""
BEST_OF_ALL = "the best of all"
"""Of the peers that were measured: the fastest for the wall time, the cheapest for CPU."""
CONTENDERS = ("s5cmd", "rclone", "restic", "borg (folder)")
"""Whom ``BEST_OF_ALL`` makes a run measure. aws, s3cmd and the naive loop take several times as long as
rclone to look again, and minutes for the first run that this needs; ``--only`` measures them as well."""
LIMIT = "the arithmetic limit"
"""No tool: files * latency / concurrency, what a request a file takes if nothing else takes any time."""
PEAK_MB = 160
"""Of every command of asyncbackup, whatever the tree."""


class Target(NamedTuple):
    """``tool`` shall take at most ``most`` times the wall time, and ``most`` times the CPU, of ``peer``."""

    tree: str
    work: str
    tool: str
    peer: str
    most: float
    latency_ms: float = 0.0
    concurrency: int = 32


TARGETS = (
    Target("small", "first", MIRROR, "s5cmd", 0.5),
    Target("small", "first", PACKED, "restic", 0.35),
    Target("real", "first", MIRROR, "s5cmd", 0.5),
    Target("real", "first", PACKED, "restic", 0.5),
    Target("small", "unchanged", MIRROR, BEST_OF_ALL, 0.5),
    Target("small", "unchanged", PACKED, BEST_OF_ALL, 0.5),
    Target("small", "restored", MIRROR, "s5cmd", 0.5),
    Target("small", "restored", PACKED, "restic", 0.5),
    Target("large", "first", MIRROR, "s5cmd", 0.7),
    Target("large", "first", ENCRYPTED, "restic", 0.2),
    Target("large", "restored", MIRROR, "s5cmd", 0.8),
    Target("small", "first", MIRROR, LIMIT, 1.1, latency_ms=30, concurrency=32),
    Target("small", "first", PACKED, "restic", 0.4, latency_ms=30, concurrency=32),
    Target("small", "restored", PACKED, "restic", 0.4, latency_ms=30, concurrency=32),
    Target("small", "first", MIRROR, "s5cmd", 0.5, latency_ms=30, concurrency=256),
    Target("small", "restored", MIRROR, "s5cmd", 0.5, latency_ms=30, concurrency=256),
)


class Spread(NamedTuple):
    """Ratios to ``peer``, run by run: the least, their median, the most."""

    peer: str
    least: float
    middle: float
    most: float


class Ratio(NamedTuple):
    """What was reached of a target. Wall and CPU may be compared with different peers."""

    target: Target
    wall: Spread
    cpu: Spread

    @property
    def wall_reached(self) -> bool:
        return self.wall.middle <= self.target.most

    @property
    def cpu_reached(self) -> bool:
        return self.cpu.middle <= self.target.most


def ratios(results: Results) -> list[Ratio]:
    """Every target of this latency and concurrency whose both sides were measured in a common run."""
    found: list[Ratio] = []
    for target in TARGETS:
        if (target.latency_ms, target.concurrency) != (results.latency_ms, results.concurrency):
            continue
        wall = _spread(results, target, _wall_seconds)
        cpu = _spread(results, target, _cpu_seconds)
        if wall is not None and cpu is not None:
            found.append(Ratio(target, wall, cpu))
    return found


def paired(ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Samples of the same run, side by side."""
    by_run = {sample.run: sample for sample in theirs}
    return [(sample, by_run[sample.run]) for sample in ours if sample.run in by_run]


def peaks(measured: Sequence[Results]) -> dict[str, float]:
    """The highest peak of memory of each of asyncbackup's tools, in MB."""
    found: dict[str, float] = {}
    for results in measured:
        for sample in results.samples:
            if is_ours(sample.tool):
                found[sample.tool] = max(found.get(sample.tool, 0.0), sample.peak_mb)
    return found


def is_ours(tool: str) -> bool:
    return tool.startswith("asyncbackup")


def _spread(results: Results, target: Target, seconds: Callable[[Sample], float]) -> Spread | None:
    """``None`` where one side was not measured."""
    ours = results.of(target.tool, target.tree, target.work)
    peer = target.peer
    if peer == LIMIT:
        limit = _limit_seconds(results, target.tree)
        found = [seconds(sample) / limit for sample in ours]
    else:
        if peer == BEST_OF_ALL:
            peer = _best(results, target, seconds)
        pairs = paired(ours, results.of(peer, target.tree, target.work))
        found = [seconds(our) / seconds(their) for our, their in pairs]
    return Spread(peer, min(found), median(found), max(found)) if found else None


def _best(results: Results, target: Target, seconds: Callable[[Sample], float]) -> str:
    """The peer with the lowest median; empty if there is none."""
    peers = {s.tool for s in results.samples if (s.tree, s.work) == (target.tree, target.work)}
    return min(
        sorted(peer for peer in peers if not is_ours(peer)),
        key=lambda peer: median(map(seconds, results.of(peer, target.tree, target.work))),
        default="",
    )


def _limit_seconds(results: Results, tree: str) -> float:
    files = next(facts.files for facts in results.trees if facts.name == tree)
    return files * results.latency_ms / 1000 / results.concurrency


def _wall_seconds(sample: Sample) -> float:
    return sample.wall_seconds


def _cpu_seconds(sample: Sample) -> float:
    return max(sample.cpu_seconds, 1e-3)
