"""The tools alternately, each saving, looking again, restoring; and what did not come back is not counted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.launch import ROOT, LocalServer
from benchmarks.measure import CommandFailedError, Cost, run
from benchmarks.results import Sample
from benchmarks.tools import ACCESS_KEY, REGION, SECRET_KEY, Place, Plan, Tool
from benchmarks.trees import Tree, differences, extent

WARM_UP = 0
"""The number of the run that is not counted: it fills the page cache and compiles what is compiled once."""
FIRST, UNCHANGED, RESTORED = "first", "unchanged", "restored"


class Endpoint(NamedTuple):
    """Where the tools send to; ``server`` is ours, which counts, or ``None`` for any other."""

    url: str
    server: LocalServer | None


class Suite:
    """Runs everything. ``samples`` and ``left_out`` grow as it goes.

    ``endpoint`` is ``None`` where all of ``tools`` save to folders.
    """

    def __init__(
        self, endpoint: Endpoint | None, tools: Sequence[Tool], work: Path, *, concurrency: int
    ) -> None:
        self._endpoint = endpoint
        self._server = endpoint.server if endpoint is not None else None
        self._tools = [tool for tool in tools if tool.program]
        self._work = work
        self._concurrency = concurrency
        self._buckets = 0
        self.samples: list[Sample] = []
        self.left_out = [f"{tool.name}: not installed" for tool in tools if not tool.program]

    def measure(self, tree: Tree, *, runs: int, warm_up: bool) -> Iterator[None]:
        """Each tool once, then each again: A B C A B C. Yields after each."""
        broken: set[str] = set()
        for number in range(WARM_UP if warm_up else 1, runs + 1):
            for tool in self._tools:
                if tree.name not in tool.trees or tool.name in broken:
                    continue
                try:
                    samples = self._once(tool, tree, number)
                except CommandFailedError as error:
                    # It would fail again, and what it did before is still true.
                    broken.add(tool.name)
                    self.left_out.append(f"{tool.name}, {tree.name}, run {number}: {error}")
                    samples = []
                if number != WARM_UP:
                    self.samples += samples
                _say(tool, tree, number, samples)
                yield

    def _once(self, tool: Tool, tree: Tree, number: int) -> list[Sample]:
        """One tool from nothing to the restored tree. Raises ``CommandFailedError``."""
        self._buckets += 1
        bucket = f"bench-{os.getpid()}-{self._buckets}"
        place = Place(
            work=self._work / "tool",
            tree=tree.path,
            endpoint=self._endpoint.url if self._endpoint is not None else "",
            bucket=bucket,
            target=self._work / "restored",
            concurrency=self._concurrency,
        )
        shutil.rmtree(place.work, ignore_errors=True)
        shutil.rmtree(place.target, ignore_errors=True)
        place.work.mkdir(parents=True)
        self._create(bucket)
        try:
            plan = tool.plan(tool, place)
            environment = {**_environment(), **plan.environment}
            log = self._work / "output.log"
            for command in plan.prepare:
                run(command, environment=environment, folder=place.work, log=log)
            samples = []
            for work, command in (
                (FIRST, plan.first),
                (UNCHANGED, plan.unchanged),
                (RESTORED, plan.restored),
            ):
                folder = place.work
                if work == RESTORED and plan.restore_in is not None:
                    folder = plan.restore_in
                    folder.mkdir()
                if self._server is not None:
                    self._server.reset()
                cost = run(command, environment=environment, folder=folder, log=log)
                samples.append(self._sample(tool, tree, work, number, cost, plan, bucket))
            if found := differences(tree, plan.restored_at):
                raise CommandFailedError(f"did not come back whole: {'; '.join(found)}")
            return samples
        finally:
            self._remove(bucket)

    def _sample(
        self, tool: Tool, tree: Tree, work: str, number: int, cost: Cost, plan: Plan, bucket: str
    ) -> Sample:
        sample = Sample(
            tool=tool.name,
            tree=tree.name,
            work=work,
            run=number,
            wall_seconds=round(cost.wall_seconds, 4),
            cpu_seconds=round(cost.cpu_seconds, 4),
            peak_mb=round(cost.peak_mb, 1),
        )
        fields: dict[str, object] = {}
        if plan.folder is not None:
            objects, stored = extent(plan.folder)
            fields = {"stored_bytes": stored, "objects": objects}
        elif self._server is not None:
            traffic = self._server.traffic()
            objects, stored = traffic.stored(bucket)
            fields = {
                "requests": traffic.requests,
                "received_bytes": traffic.received_bytes,
                "sent_bytes": traffic.sent_bytes,
                "stored_bytes": stored,
                "objects": objects,
                "server_cpu_seconds": round(traffic.cpu_seconds, 4),
            }
        return _with(sample, fields)

    def _create(self, bucket: str) -> None:
        if self._server is not None:
            self._server.create(bucket)
        elif self._endpoint is not None:
            _by_hand(self._endpoint, bucket, "create")

    def _remove(self, bucket: str) -> None:
        if self._server is not None:
            self._server.drop(bucket)
        elif self._endpoint is not None:
            _by_hand(self._endpoint, bucket, "remove")


def versions(tools: Sequence[Tool]) -> dict[str, str]:
    """What each tool says of itself, the first line of it."""
    told: dict[str, str] = {}
    for tool in tools:
        if tool.program:
            done = subprocess.run(  # noqa: S603 - our own command line
                [tool.program, *tool.version],
                env={**_environment(), "PYTHONPATH": str(ROOT)},
                check=True,
                capture_output=True,
                text=True,
            )
            told[tool.name] = done.stdout.strip().splitlines()[0]
    return told


def _by_hand(endpoint: Endpoint, bucket: str, work: str) -> None:
    command = [sys.executable, "-m", "benchmarks.naive", endpoint.url, bucket, work]
    subprocess.run(command, env={**_environment(), "PYTHONPATH": str(ROOT)}, check=True)  # noqa: S603


def _with(sample: Sample, fields: Mapping[str, object]) -> Sample:
    return msgspec.structs.replace(sample, **fields)


def _environment() -> dict[str, str]:
    """This process's environment with the benchmark's credentials where it has none, and no configuration.

    Python's own variables are left out too: where bytecode must not be written (``PYTHONDONTWRITEBYTECODE``),
    every run of a tool written in it would begin with compiling it, which no installed one does.
    """
    foreign = ("PYTHON", "RCLONE_", "RESTIC_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        **kept,
    }


def _say(tool: Tool, tree: Tree, number: int, samples: Sequence[Sample]) -> None:
    told = ", ".join(f"{s.work} {s.wall_seconds:.2f} s" for s in samples) or "failed, left out"
    counted = "warm-up" if number == WARM_UP else f"run {number}"
    print(f"{tree.name}, {counted}, {tool.name}: {told}", file=sys.stderr, flush=True)
