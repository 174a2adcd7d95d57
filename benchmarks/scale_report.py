"""What was measured of the growth of cost, and its tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

import msgspec

from benchmarks.page import reached
from benchmarks.results import Sample
from benchmarks.targets import PEAK_MB

EMPTY = "empty"
"""The name of the tree without files, which costs what starting costs."""
GROWTH = 1.15
"""The dearest size may cost so many times the CPU of the cheapest one, a file, start-up taken off."""
ENTRIES_A_SECOND = 100_000
"""Of an unchanged run over the largest tree."""
_WORKS = {"first": "first run", "unchanged": "unchanged", "restored": "restored"}


class Size(msgspec.Struct, frozen=True):
    """One tree. Its root is no entry of it."""

    name: str
    files: int
    folders: int
    bytes: int

    @property
    def entries(self) -> int:
        return self.files + self.folders


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """All of one run, as it stands in ``scale.json``. ``sizes`` begins with the empty tree."""

    machine: str
    destination: str
    concurrency: int
    sizes: list[Size]
    samples: list[Sample]
    left_out: list[str]


class Row(NamedTuple):
    """One size in one layout and work: medians, but the highest peak.

    ``bare`` is without start-up, that is what the same work costs with an empty tree.
    """

    tool: str
    work: str
    size: Size
    wall_seconds: float
    cpu_seconds: float
    microseconds_a_file: float
    bare_microseconds_a_file: float
    times_the_smallest: float
    bare_times_the_smallest: float
    entries_a_second: float
    peak_mb: float


class Start(NamedTuple):
    """What an empty tree costs."""

    tool: str
    work: str
    wall_seconds: float
    cpu_seconds: float


def starts(scale: Scale) -> list[Start]:
    """The start-up of each tool and work."""
    return [
        Start(tool, work, _median(samples, _wall), _median(samples, _cpu))
        for tool in _tools(scale)
        for work in _WORKS
        if (samples := _of(scale, tool, EMPTY, work))
    ]


def rows(scale: Scale) -> list[Row]:
    """Every size that was measured in each layout and work, the smallest first."""
    starting = {(start.tool, start.work): start.cpu_seconds for start in starts(scale)}
    found: list[Row] = []
    for tool in _tools(scale):
        for work in _WORKS:
            smallest: tuple[float, float] | None = None
            for size in scale.sizes:
                samples = _of(scale, tool, size.name, work)
                if not size.files or not samples or (tool, work) not in starting:
                    continue
                wall, cpu = _median(samples, _wall), _median(samples, _cpu)
                a_file = cpu / size.files * 1e6
                bare = max(cpu - starting[tool, work], 0.0) / size.files * 1e6
                smallest = smallest or (a_file, bare)
                found.append(
                    Row(
                        tool=tool,
                        work=work,
                        size=size,
                        wall_seconds=wall,
                        cpu_seconds=cpu,
                        microseconds_a_file=a_file,
                        bare_microseconds_a_file=bare,
                        times_the_smallest=_over(a_file, smallest[0]),
                        bare_times_the_smallest=_over(bare, smallest[1]),
                        entries_a_second=size.entries / wall,
                        peak_mb=max(sample.peak_mb for sample in samples),
                    )
                )
    return found


def markdown(scale: Scale) -> str:
    """The whole report."""
    return "\n".join(_lines(scale)) + "\n"


def _lines(scale: Scale) -> Iterator[str]:
    yield (
        f"{scale.machine}. To {scale.destination}; {scale.concurrency} requests at once. Every tree was "
        "restored and compared byte for byte."
    )
    yield ""
    found = rows(scale)
    yield from _targets(found)
    yield "| start-up: an empty tree | work | wall s | CPU s |"
    yield "|---|---|---|---|"
    for start in starts(scale):
        yield (
            f"| {start.tool} | {_WORKS[start.work]} | {start.wall_seconds:.2f} | {start.cpu_seconds:.2f} |"
        )
    yield ""
    yield (
        "| layout, work | files | wall s | CPU s | CPU µs a file | over the smallest "
        "| less start-up | over the smallest | entries a second | peak MB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in found:
        entries = f"{row.entries_a_second:,.0f}" if row.work == "unchanged" else ""
        yield (
            f"| {row.tool}, {_WORKS[row.work]} | {row.size.files:,} | {row.wall_seconds:.2f} "
            f"| {row.cpu_seconds:.2f} | {row.microseconds_a_file:.1f} | {_times(row.times_the_smallest)} "
            f"| {row.bare_microseconds_a_file:.1f} | {_times(row.bare_times_the_smallest)} "
            f"| {entries} | {row.peak_mb:.0f} |"
        )
    yield ""
    if scale.left_out:
        yield "Left out:"
        yield ""
        yield from (f"- {' '.join(reason.split())[:300]}" for reason in scale.left_out)
        yield ""


def _targets(found: list[Row]) -> Iterator[str]:
    yield "| target | layout, work | wanted | measured | |"
    yield "|---|---|---|---|---|"
    for tool, work in dict.fromkeys((row.tool, row.work) for row in found):
        costs = [row.bare_microseconds_a_file for row in found if (row.tool, row.work) == (tool, work)]
        growth = _over(max(costs), min(costs))
        yield (
            f"| CPU a file less start-up, dearest / cheapest size | {tool}, {_WORKS[work]} "
            f"| ≤ {GROWTH:g} | {_times(growth)} | {reached(growth <= GROWTH)} |"
        )
    for tool in dict.fromkeys(row.tool for row in found):
        ours = [row for row in found if row.tool == tool]
        unchanged = [row for row in ours if row.work == "unchanged"]
        if unchanged:
            largest = unchanged[-1]
            yield (
                f"| entries a second, {largest.size.files:,} files | {tool}, unchanged "
                f"| ≥ {ENTRIES_A_SECOND:,} | {largest.entries_a_second:,.0f} "
                f"| {reached(largest.entries_a_second >= ENTRIES_A_SECOND)} |"
            )
        peak = max(row.peak_mb for row in ours)
        yield f"| peak memory | {tool} | ≤ {PEAK_MB} MB | {peak:.0f} MB | {reached(peak <= PEAK_MB)} |"
    yield ""


def _tools(scale: Scale) -> list[str]:
    return list(dict.fromkeys(sample.tool for sample in scale.samples))


def _of(scale: Scale, tool: str, tree: str, work: str) -> list[Sample]:
    return [s for s in scale.samples if (s.tool, s.tree, s.work) == (tool, tree, work)]


def _median(samples: list[Sample], figure: Callable[[Sample], float]) -> float:
    return median(map(figure, samples))


def _wall(sample: Sample) -> float:
    return sample.wall_seconds


def _cpu(sample: Sample) -> float:
    return sample.cpu_seconds


def _over(one: float, other: float) -> float:
    """Their ratio; of a cost that is too small to be told from start-up, infinite."""
    return one / other if other else math.inf


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if math.isfinite(ratio) else "start-up hides it"
