"""asyncbackup beside its peers: ``python -m benchmarks``, or two commits: ``python -m benchmarks compare``.

Makes trees, starts the benchmarks' own S3 server (or takes ``--endpoint``),
lets the tools save, look again and restore alternately, and compares every
restored tree with its source. Results go to ``bench-work/results.json`` and
standard output; with ``--publish`` also into ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.install import install
from benchmarks.launch import ROOT, local_server
from benchmarks.report import markdown, put_between_marks
from benchmarks.results import Results, TreeFacts
from benchmarks.suite import Endpoint, Suite, versions
from benchmarks.tools import PEERS_VENV, Tool, all_tools
from benchmarks.trees import Tree, large_tree, real_tree, small_tree
from benchmarks.versions import checked_out, comparison

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TREES = ("small", "large", "real")
DOCS = ROOT / "docs"
OURS = "The benchmarks' own server, on the same machine"
_SERVER_SECONDS = 4 * 3600


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="asyncbackup and its peers.")
    add = parser.add_argument
    add("what", nargs="*", default=["peers"], help="peers (the default), or: compare OLD NEW")
    add("--only", action="append", metavar="NAME", help="only these tools; may be given several times")
    add("--trees", default=",".join(TREES), help="which of small, large, real; with commas")
    add("--runs", type=int, default=3, help="counted runs of each tool")
    add("--no-warm-up", action="store_true", help="count the first run too")
    add("--files", type=int, default=20_000, help="of the small tree")
    add("--large-files", type=int, default=4)
    add("--large-mib", type=int, default=256, help="of each file of the large tree")
    add("--real", type=Path, default=Path("/usr/share"), help="what the real tree is a copy of")
    add("--real-files", type=int, default=20_000, help="how many of its files")
    add("--concurrency", type=int, default=32, help="requests at once, of every tool that can be told")
    add("--latency-ms", type=float, default=0.0, help="the server waits so long with each answer")
    add("--jitter-ms", type=float, default=0.0)
    add("--bandwidth-mbit", type=float, default=0.0, help="of each connection")
    add("--endpoint", help="another endpoint; its requests are not counted, its buckets are removed again")
    add("--work", type=Path, default=ROOT / "bench-work", help="trees, results, scratch space")
    add("--install", action="store_true", help="install the peers that are missing first")
    add("--publish", action="store_true", help="write tables and plots into docs/benchmarks.md")
    arguments = parser.parse_args(words)
    if arguments.what[0] not in ("peers", "compare") or (len(arguments.what) == 3) != (
        arguments.what[0] == "compare"
    ):
        parser.error("say nothing, or peers, or: compare OLD NEW")
    arguments.trees = arguments.trees.split(",")
    if unknown := set(arguments.trees) - set(TREES):
        parser.error(f"no such tree: {', '.join(sorted(unknown))}; there are {', '.join(TREES)}")
    return arguments


def _trees(arguments: argparse.Namespace) -> Iterator[Tree]:
    for name in arguments.trees:
        place = arguments.work / "trees" / name
        if name == "small":
            yield small_tree(place, files=arguments.files)
        elif name == "large":
            yield large_tree(place, files=arguments.large_files, mib=arguments.large_mib)
        else:
            yield real_tree(place, source=arguments.real, files=arguments.real_files)


@contextmanager
def _endpoint(arguments: argparse.Namespace) -> Iterator[Endpoint]:
    if arguments.endpoint:
        yield Endpoint(arguments.endpoint, None)
        return
    options = ["--max-seconds", str(_SERVER_SECONDS)]
    for name in ("latency_ms", "jitter_ms", "bandwidth_mbit"):
        options += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    with local_server(options) as server:
        yield Endpoint(server.url, server)


def _measure(arguments: argparse.Namespace, tools: Sequence[Tool], left_out: Sequence[str]) -> Results:
    """Everything, tree by tree; what there is so far is on disk after each tool, should it be interrupted."""
    told, trees = versions(tools), list(_trees(arguments))
    facts = [TreeFacts(tree.name, tree.files, tree.bytes) for tree in trees]
    with _endpoint(arguments) as endpoint:
        suite = Suite(endpoint, tools, arguments.work, concurrency=arguments.concurrency)

        def results() -> Results:
            return Results(
                machine=f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, "
                f"CPython {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end",
                endpoint=OURS if endpoint.server else "Another endpoint",
                latency_ms=arguments.latency_ms,
                concurrency=arguments.concurrency,
                runs=arguments.runs,
                warm_up=not arguments.no_warm_up,
                versions=told,
                trees=facts,
                samples=suite.samples,
                left_out=[*left_out, *suite.left_out],
            )

        for tree in trees:
            for _ in suite.measure(tree, runs=arguments.runs, warm_up=not arguments.no_warm_up):
                encoded = msgspec.json.format(msgspec.json.encode(results()), indent=1)
                (arguments.work / "results.json").write_bytes(encoded)
        return results()


def _publish(work: Path, results: Results) -> None:
    folder = DOCS / "benchmarks"
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_bytes((work / "results.json").read_bytes())
    plots: list[str] = []
    python = PEERS_VENV / "bin" / "python"
    if python.exists():
        command = [
            str(python),
            str(ROOT / "benchmarks" / "plots.py"),
            str(work / "results.json"),
            str(folder),
        ]
        subprocess.run(command, check=True)  # noqa: S603 - our own command line
        plots = [f"benchmarks/{tree.name}.svg" for tree in results.trees]
    put_between_marks(DOCS / "benchmarks.md", markdown(results, plots=plots))


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    arguments.work = arguments.work.absolute()
    arguments.work.mkdir(parents=True, exist_ok=True)
    left_out = install() if arguments.install else []
    if arguments.what[0] == "compare":
        with checked_out(arguments.what[1], arguments.what[2], arguments.work) as tools:
            results = _measure(arguments, tools, left_out)
        print(comparison(results))
        return 1 if results.left_out else 0
    tools = all_tools()
    if arguments.only:
        if unknown := set(arguments.only) - {tool.name for tool in tools}:
            print(f"no such tool: {', '.join(sorted(unknown))}", file=sys.stderr)
            return 2
        tools = [tool for tool in tools if tool.name in arguments.only]
    results = _measure(arguments, tools, left_out)
    print(markdown(results))
    if arguments.publish:
        _publish(arguments.work, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
