"""Results as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.page import reached
from benchmarks.targets import PEAK_MB, Ratio, Spread, peaks, ratios

if TYPE_CHECKING:
    from benchmarks.results import Results, Sample

_WORKS = {"first": "First run", "unchanged": "Unchanged", "restored": "Restored"}


def markdown(measured: Sequence[Results], *, plots: str = "") -> str:
    """The whole report: the targets, then for each setting the machine and a table for each tree and work.

    ``plots`` is the folder of the plots as the page names it; empty where there are none.
    """
    return "\n".join(_lines(measured, plots)) + "\n"


def _lines(measured: Sequence[Results], plots: str) -> Iterator[str]:
    versions = {name: version for results in measured for name, version in results.versions.items()}
    yield "; ".join(f"{name}: {version}" for name, version in versions.items()) + "."
    yield ""
    yield from _targets(measured)
    for results in measured:
        yield from _setting(results, plots)


def _targets(measured: Sequence[Results]) -> Iterator[str]:
    found = [(results.title, ratio) for results in measured for ratio in ratios(results)]
    if not found:
        return
    yield "Seconds of asyncbackup over those of a peer in the same run: median (least to most)."
    yield ""
    yield "| work | asyncbackup / peer | at most | wall | | CPU | |"
    yield "|---|---|---|---|---|---|---|"
    for title, ratio in found:
        target = ratio.target
        yield (
            f"| {title}: {target.tree}, {target.work} | {_sides(ratio)} | {target.most:g} "
            f"| {_ratio(ratio.wall)} | {reached(ratio.wall_reached)} "
            f"| {_ratio(ratio.cpu)} | {reached(ratio.cpu_reached)} |"
        )
    yield ""
    yield "| peak memory, of all that is below | at most | MB | |"
    yield "|---|---|---|---|"
    for tool, peak in peaks(measured).items():
        yield f"| {tool} | {PEAK_MB} | {peak:.0f} | {reached(peak <= PEAK_MB)} |"
    yield ""


def _sides(ratio: Ratio) -> str:
    """Both tools; two peers where another one took the least CPU than was the fastest."""
    wall, cpu = ratio.wall.peer, ratio.cpu.peer
    peer = wall if wall == cpu else f"{wall} (CPU: {cpu})"
    return f"{ratio.target.tool.removeprefix('asyncbackup ')} / {peer}"


def _ratio(spread: Spread) -> str:
    return f"**{spread.middle:.2f}** ({spread.least:.2f} to {spread.most:.2f})"


def _setting(results: Results, plots: str) -> Iterator[str]:
    yield f"### {results.title}"
    yield ""
    warm_up = ", one warm-up not counted" if results.warm_up else ""
    yield (
        f"{results.machine}. {results.endpoint}; "
        f"median of {results.runs} runs, the tools alternating{warm_up}. "
        "Every tree was restored and compared byte for byte; what did not come back whole is not here."
    )
    yield ""
    for tree in results.trees:
        yield f"#### {tree.name}: {tree.files:,} files, {tree.bytes / 1e6:,.1f} MB"
        yield ""
        if plots:
            yield f"![{results.title}: {tree.name}]({plots}/{results.plot(tree.name)})"
            yield ""
        for work, title in _WORKS.items():
            yield from _table(results, tree.name, work, title)
    if results.left_out:
        yield "Left out:"
        yield ""
        yield from (f"- {' '.join(reason.split())[:300]}" for reason in results.left_out)
        yield ""


def _table(results: Results, tree: str, work: str, title: str) -> Iterator[str]:
    tools = results.tools(tree, work)
    if not tools:
        return
    yield (
        f"| {title} | wall s (min to max) | CPU s | peak MB "
        "| server CPU s | requests | MB sent | MB received | MB stored |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for tool in tools:
        samples = results.of(tool, tree, work)
        walls = [sample.wall_seconds for sample in samples]
        requests = _middle(samples, lambda sample: sample.request_count)
        # Sent and received by the client: the other way round for the server, which counted.
        up = _middle(samples, lambda sample: sample.received_bytes)
        down = _middle(samples, lambda sample: sample.sent_bytes)
        stored = _middle(samples, lambda sample: sample.stored_bytes)
        cpu = _middle(samples, lambda sample: sample.cpu_seconds)
        peak = _middle(samples, lambda sample: sample.peak_mb)
        server = _middle(samples, lambda sample: sample.server_cpu_seconds)
        counted = (
            f"{server:.2f} | {requests:,.0f} | {up / 1e6:,.1f} | {down / 1e6:,.1f}"
            if requests
            else "- | - | - | -"
        )
        kept = f"{stored / 1e6:,.1f}" if stored else "-"
        yield (
            f"| {tool} | {median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f}) | {cpu:.2f} "
            f"| {peak:.0f} | {counted} | {kept} |"
        )
    yield ""


def _middle(samples: Sequence[Sample], figure: Callable[[Sample], float]) -> float:
    return median(figure(sample) for sample in samples)
