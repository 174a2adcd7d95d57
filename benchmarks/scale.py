"""Whether the cost of a file stays the same however many there are: ``python -m benchmarks.scale``.

Makes (or takes again) trees of 10,000, 100,000 and 1,000,000 tiny files, and
has asyncbackup save each, look again and restore it, in both layouts, to the
benchmarks' own S3 server or to a folder. Every restored tree is compared with
its source, byte for byte. What an empty tree costs is measured as well: that is
start-up, and is told beside everything else, taken off and not.

Results go to ``scale.json`` in the work folder and to standard output; with
``--publish`` also into ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.launch import ROOT, local_server
from benchmarks.machine import described
from benchmarks.page import SCALE, put_between
from benchmarks.scale_report import EMPTY, Scale, Size, markdown
from benchmarks.settings import CONCURRENCY
from benchmarks.suite import Endpoint, Suite
from benchmarks.targets import MIRROR, PACKED
from benchmarks.tools import Tool, asyncbackup
from benchmarks.trees import Tree, folders, tiny_tree

DOCS = ROOT / "docs"
DESTINATIONS = {"server": "the benchmarks' own server, on the same machine", "folder": "a folder"}
_FILES_IN_ALL = 300_000
"""Of all counted runs of one size: small ones cost little beside start-up, and large ones take long."""
_SERVER_SECONDS = 12 * 3600


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="The growth of cost.")
    add = parser.add_argument
    add("--files", default="10000,100000,1000000", help="sizes of the trees, with commas")
    add("--runs", type=int, default=5, help="the most counted runs of each size; large ones take fewer")
    add("--destination", choices=DESTINATIONS, default="server")
    add("--concurrency", type=int, default=CONCURRENCY, help="requests at once")
    add("--work", type=Path, default=ROOT / "bench-work", help="trees, results, scratch space")
    add("--publish", action="store_true", help="write the tables into docs/benchmarks.md")
    arguments = parser.parse_args(words)
    try:
        arguments.files = sorted({int(number) for number in arguments.files.split(",")})
    except ValueError:
        parser.error("--files: numbers with commas")
    if arguments.files[0] < 1:
        parser.error("--files: every tree needs a file")
    return arguments


def counted_runs(files: int, most: int) -> int:
    """How often a tree of so many files is measured."""
    return max(1, min(most, _FILES_IN_ALL // files))


@contextmanager
def _endpoint(destination: str) -> Iterator[Endpoint | None]:
    if destination == "folder":
        yield None
        return
    with local_server([f"--max-seconds={_SERVER_SECONDS}"]) as server:
        yield Endpoint(server.url, server)


def _tools(destination: str, trees: frozenset[str]) -> list[Tool]:
    to_folder = destination == "folder"
    both = (
        asyncbackup(MIRROR, ROOT, to_folder=to_folder),
        asyncbackup(PACKED, ROOT, packed=True, encrypted=True, to_folder=to_folder),
    )
    return [tool._replace(trees=trees) for tool in both]


def _empty_tree(work: Path) -> Tree:
    place = work / "trees" / "empty"
    place.mkdir(parents=True, exist_ok=True)
    return Tree(EMPTY, place, 0, 0)


def measure(arguments: argparse.Namespace) -> Scale:
    """All sizes, the smallest first; what there is so far is on disk after each run."""
    trees = [
        _empty_tree(arguments.work),
        *(tiny_tree(arguments.work / "trees" / f"tiny-{files}", files=files) for files in arguments.files),
    ]
    sizes = [Size(tree.name, tree.files, folders(tree.path), tree.bytes) for tree in trees]
    with _endpoint(arguments.destination) as endpoint:
        tools = _tools(arguments.destination, frozenset(tree.name for tree in trees))
        suite = Suite(endpoint, tools, arguments.work, concurrency=arguments.concurrency)

        def scale() -> Scale:
            return Scale(
                machine=described(),
                destination=DESTINATIONS[arguments.destination],
                concurrency=arguments.concurrency,
                sizes=sizes,
                samples=suite.samples,
                left_out=suite.left_out,
            )

        for tree in trees:
            runs = counted_runs(tree.files, arguments.runs) if tree.files else arguments.runs
            for _ in suite.measure(tree, runs=runs, warm_up=not tree.files):
                encoded = msgspec.json.format(msgspec.json.encode(scale()), indent=1)
                (arguments.work / "scale.json").write_bytes(encoded)
        return scale()


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    arguments.work = arguments.work.absolute()
    arguments.work.mkdir(parents=True, exist_ok=True)
    scale = measure(arguments)
    report = markdown(scale)
    print(report)
    if arguments.publish:
        (DOCS / "benchmarks").mkdir(exist_ok=True)
        (DOCS / "benchmarks" / "scale.json").write_bytes((arguments.work / "scale.json").read_bytes())
        put_between(SCALE, DOCS / "benchmarks.md", report)
    return 1 if scale.left_out else 0


if __name__ == "__main__":
    raise SystemExit(main())
