"""What was measured, as it stands in ``results.json``."""

from __future__ import annotations

from statistics import median

import msgspec

OWN_SERVER = "The benchmarks' own server, on the same machine"
OTHER_ENDPOINT = "Another endpoint"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One command of one tool, once. ``requests`` and bytes are the server's counts, empty where unknown."""

    tool: str
    tree: str
    work: str
    """``first``, ``unchanged`` or ``restored``."""
    run: int
    wall_seconds: float
    cpu_seconds: float
    peak_mb: float
    requests: dict[str, int] = {}
    received_bytes: int = 0
    sent_bytes: int = 0
    stored_bytes: int = 0
    objects: int = 0
    server_cpu_seconds: float = 0.0
    """What the server took meanwhile: on few cores it is part of what every tool waits for."""

    @property
    def request_count(self) -> int:
        return sum(self.requests.values())


class TreeFacts(msgspec.Struct, frozen=True):
    """How large a tree is."""

    name: str
    files: int
    bytes: int


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All of one latency and concurrency. Only what was restored whole and compared is in ``samples``.

    ``results.json`` is a list of these.
    """

    machine: str
    endpoint: str
    latency_ms: float
    concurrency: int
    runs: int
    warm_up: bool
    versions: dict[str, str]
    trees: list[TreeFacts]
    samples: list[Sample]
    left_out: list[str]
    """What was not measured, or not counted since it did not come back whole, and why."""

    @property
    def title(self) -> str:
        if self.endpoint != OWN_SERVER:
            return f"{self.endpoint}, {self.concurrency} at once"
        latency = f"{self.latency_ms:g} ms a request" if self.latency_ms else "No latency"
        return f"{latency}, {self.concurrency} at once"

    def plot(self, tree: str) -> str:
        """The file name of a tree's plot."""
        return f"{self.latency_ms:g}ms-{self.concurrency}-{tree}.svg"

    def of(self, tool: str, tree: str, work: str) -> list[Sample]:
        return [s for s in self.samples if (s.tool, s.tree, s.work) == (tool, tree, work)]

    def tools(self, tree: str, work: str) -> list[str]:
        """Those that were measured, the fastest first."""
        names = {s.tool for s in self.samples if (s.tree, s.work) == (tree, work)}
        return sorted(names, key=lambda name: median(s.wall_seconds for s in self.of(name, tree, work)))
