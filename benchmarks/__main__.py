"""asyncbackup beside its peers: ``python -m benchmarks``, or two commits: ``python -m benchmarks compare``.

Makes trees, starts the benchmarks' own S3 server (or takes ``--endpoint``),
lets the tools save, look again and restore alternately, and compares every
restored tree with its source: for each setting of ``benchmarks/settings.py`` in
turn, or those that the command line leaves. Results go to
``bench-work/results.json`` and standard output; with ``--publish`` also into
``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.install import install
from benchmarks.launch import ROOT, local_server
from benchmarks.machine import described
from benchmarks.page import PEERS, put_between
from benchmarks.report import markdown
from benchmarks.results import OTHER_ENDPOINT, OWN_SERVER, Results, TreeFacts
from benchmarks.settings import TREES, Setting, fitting, narrowed, with_all
from benchmarks.suite import Endpoint, Suite, versions
from benchmarks.tools import PEERS_VENV, Tool, all_tools
from benchmarks.trees import Tree, large_tree, real_tree, small_tree
from benchmarks.versions import checked_out, comparison

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Set

DOCS = ROOT / "docs"
_SERVER_SECONDS = 4 * 3600


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="asyncbackup and its peers.")
    add = parser.add_argument
    add("what", nargs="*", default=["peers"], help="peers (the default), or: compare OLD NEW")
    add("--only", action="append", metavar="NAME", help="only these tools; may be given several times")
    add("--trees", help="which of small, real, large, with commas; by default those that have targets")
    add("--runs", type=int, default=3, help="counted runs of each tool")
    add("--no-warm-up", action="store_true", help="count the first run too")
    add("--files", type=int, default=30_000, help="of the small tree")
    add("--large-files", type=int, default=4)
    add("--large-mib", type=int, default=256, help="of each file of the large tree")
    add("--real", type=Path, default=Path("/usr/share"), help="what the real tree is a copy of")
    add("--real-files", type=int, default=18_900, help="how many of its files")
    add("--concurrency", type=int, help="requests at once, of every tool that can be told; one setting's")
    add("--latency-ms", type=float, help="the server waits so long with each answer; of some settings")
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
    arguments.trees = arguments.trees.split(",") if arguments.trees else None
    if unknown := set(arguments.trees or ()) - set(TREES):
        parser.error(f"no such tree: {', '.join(sorted(unknown))}; there are {', '.join(TREES)}")
    return arguments


def settings(arguments: argparse.Namespace, tools: Sequence[Tool]) -> list[Setting]:
    """Those of the targets that fit; where none does, or the endpoint or the tools are others, one of all."""
    compares = arguments.what[0] == "compare"
    found = fitting(arguments.latency_ms, arguments.concurrency)
    if not found or arguments.endpoint or compares:
        names = [tool.name for tool in tools]
        found = [with_all(names, arguments.latency_ms, arguments.concurrency)]
    only = None if compares else arguments.only
    return [narrowed(setting, arguments.trees, only) for setting in found]


def _tree(arguments: argparse.Namespace, name: str) -> Tree:
    place = arguments.work / "trees" / name
    if name == "small":
        return small_tree(place, files=arguments.files)
    if name == "large":
        return large_tree(place, files=arguments.large_files, mib=arguments.large_mib)
    return real_tree(place, source=arguments.real, files=arguments.real_files)


@contextmanager
def _endpoint(arguments: argparse.Namespace, setting: Setting) -> Iterator[Endpoint]:
    if arguments.endpoint:
        yield Endpoint(arguments.endpoint, None)
        return
    options = [
        f"--max-seconds={_SERVER_SECONDS}",
        f"--latency-ms={setting.latency_ms}",
        f"--jitter-ms={arguments.jitter_ms}",
        f"--bandwidth-mbit={arguments.bandwidth_mbit}",
    ]
    with local_server(options) as server:
        yield Endpoint(server.url, server)


def _measure(arguments: argparse.Namespace, tools: Sequence[Tool], left_out: Sequence[str]) -> list[Results]:
    """All settings in turn; what there is so far is on disk after each tool, should it be interrupted."""
    done: list[Results] = []
    warmed: set[str] = set()

    def note(results: Results) -> None:
        encoded = msgspec.json.format(msgspec.json.encode([*done, results]), indent=1)
        (arguments.work / "results.json").write_bytes(encoded)

    for setting in settings(arguments, tools):
        # A tree is warmed up once, whatever settings it is measured in.
        cold = set() if arguments.no_warm_up else setting.tools.keys() - warmed
        done.append(_measure_setting(arguments, setting, tools, left_out, cold, note))
        warmed |= cold
    return done


def _measure_setting(
    arguments: argparse.Namespace,
    setting: Setting,
    tools: Sequence[Tool],
    left_out: Sequence[str],
    cold: Set[str],
    note: Callable[[Results], None],
) -> Results:
    """Tree by tree; ``note`` is told what there is after each tool, and warm-ups are for ``cold`` trees."""
    trees = {name: _tree(arguments, name) for name in setting.tools}
    used = [
        tool._replace(trees=tool.trees & {tree for tree in trees if tool.name in setting.tools[tree]})
        for tool in tools
    ]
    used = [tool for tool in used if tool.trees]
    told = versions(used)
    with _endpoint(arguments, setting) as endpoint:
        suite = Suite(endpoint, used, arguments.work, concurrency=setting.concurrency)

        def results() -> Results:
            return Results(
                machine=described(),
                endpoint=OWN_SERVER if endpoint.server else OTHER_ENDPOINT,
                latency_ms=setting.latency_ms,
                concurrency=setting.concurrency,
                runs=arguments.runs,
                warm_up=bool(cold),
                versions=told,
                trees=[TreeFacts(tree.name, tree.files, tree.bytes) for tree in trees.values()],
                samples=suite.samples,
                left_out=[*left_out, *suite.left_out],
            )

        for name, tree in trees.items():
            for _ in suite.measure(tree, runs=arguments.runs, warm_up=name in cold):
                note(results())
        return results()


def _publish(work: Path, measured: Sequence[Results]) -> None:
    folder = DOCS / "benchmarks"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    (folder / "results.json").write_bytes((work / "results.json").read_bytes())
    python = PEERS_VENV / "bin" / "python"
    if python.exists():
        program = str(ROOT / "benchmarks" / "plots.py")
        command = [str(python), program, str(work / "results.json"), str(folder)]
        subprocess.run(command, check=True)  # noqa: S603 - our own command line
    put_between(
        PEERS, DOCS / "benchmarks.md", markdown(measured, plots=folder.name if python.exists() else "")
    )


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    arguments.work = arguments.work.absolute()
    arguments.work.mkdir(parents=True, exist_ok=True)
    left_out = install() if arguments.install else []
    if arguments.what[0] == "compare":
        with checked_out(arguments.what[1], arguments.what[2], arguments.work) as tools:
            (results,) = _measure(arguments, tools, left_out)
        print(comparison(results))
        return 1 if results.left_out else 0
    tools = all_tools()
    if unknown := set(arguments.only or ()) - {tool.name for tool in tools}:
        print(f"no such tool: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    measured = _measure(arguments, tools, left_out)
    print(markdown(measured))
    if arguments.publish:
        _publish(arguments.work, measured)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
