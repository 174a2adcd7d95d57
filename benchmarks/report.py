"""Results as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.targets import PEAK_MB, peaks, ratios

if TYPE_CHECKING:
    from benchmarks.results import Results, Sample

BEGIN = "<!-- peers: begin (written by python -m benchmarks --publish) -->"
END = "<!-- peers: end -->"
_WORKS = {"first": "First run", "unchanged": "Unchanged", "restored": "Restored"}


def markdown(results: Results, *, plots: Sequence[str] = ()) -> str:
    """The whole report: the machine, the targets, a table for each tree and work."""
    return "\n".join(_lines(results, plots)) + "\n"


def put_between_marks(page: Path, text: str) -> None:
    """Replace what stands between the marks; they are added at the end of a page that has none."""
    whole = page.read_text()
    if BEGIN not in whole:
        whole = f"{whole.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = whole.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def _lines(results: Results, plots: Sequence[str]) -> Iterator[str]:
    latency = f", {results.latency_ms:g} ms an answer" if results.latency_ms else ""
    warm_up = ", one warm-up not counted" if results.warm_up else ""
    yield (
        f"{results.machine}. {results.endpoint}{latency}; {results.concurrency} requests at once; "
        f"median of {results.runs} runs, the tools alternating{warm_up}. "
        "Every tree was restored and compared byte for byte; what did not come back whole is not here."
    )
    yield ""
    yield "; ".join(f"{name}: {version}" for name, version in results.versions.items()) + "."
    yield ""
    yield from _targets(results)
    for tree in results.trees:
        yield f"### {tree.name}: {tree.files:,} files, {tree.bytes / 1e6:,.1f} MB"
        yield ""
        yield from (f"![{tree.name}]({plot})\n" for plot in plots if f"{tree.name}.svg" in plot)
        for work, title in _WORKS.items():
            yield from _table(results, tree.name, work, title)
    if results.left_out:
        yield "Left out:"
        yield ""
        yield from (f"- {' '.join(reason.split())[:300]}" for reason in results.left_out)
        yield ""


def _targets(results: Results) -> Iterator[str]:
    found = ratios(results)
    if not found:
        return
    yield "| asyncbackup / a peer | wall: median (min to max) | CPU | target | reached |"
    yield "|---|---|---|---|---|"
    for ratio in found:
        target = ratio.target
        yield (
            f"| {target.tree}, {target.work}: {target.tool} / {ratio.peer} | **{ratio.middle:.2f}** "
            f"({ratio.least:.2f} to {ratio.most:.2f}) | {ratio.cpu:.2f} | ≤ {target.most:g} "
            f"| {_truth(ratio.reached)} |"
        )
    for tool, peak in peaks(results).items():
        yield f"| peak memory of {tool} | {peak:.0f} MB | | ≤ {PEAK_MB} MB | {_truth(peak <= PEAK_MB)} |"
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


def _truth(reached: bool) -> str:
    return "yes" if reached else "no"
