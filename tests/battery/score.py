"""What the battery did, by group: counted in each test, shown once at the end of the run.

A test's figures travel in its report, so they also arrive from the processes of pytest-xdist.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from tests.battery.selection import FULL, SEED
from tests.servers.proxy import FaultProxy

if TYPE_CHECKING:
    from types import TracebackType

    import pytest

GROUPS = {
    "a": "crash",
    "b": "endpoint",
    "c": "local",
    "d": "hostile bucket",
    "e": "crypto",
    "f": "concurrency",
    "g": "scale",
    "h": "leakage",
    "i": "supply chain",
    "s": "failure stories of others",
}
ELSEWHERE = {
    "tests/cancellation/test_cancelled_runs.py": "a",
    "tests/crash/test_kill.py": "a",
    "tests/crash/test_killed_prune.py": "a",
    "tests/pipeline/test_restore_resume.py": "a",
    "tests/contract/test_faults_reading.py": "b",
    "tests/contract/test_faults_writing.py": "b",
    "tests/contract/test_refusals.py": "b",
    "tests/pipeline/test_restore_servers.py": "b",
    "tests/pipeline/test_failures.py": "c",
    "tests/unit/pipeline/test_small_reader.py": "c",
    "tests/pipeline/test_restore_hostile.py": "d",
    "tests/unit/format/test_envelope.py": "e",
    "tests/unit/format/test_vectors.py": "e",
    "tests/property/test_key_slots.py": "e",
    "tests/pipeline/test_hidden_names.py": "e",
    "tests/pipeline/test_marks.py": "f",
    "tests/cli/test_secrets.py": "h",
    "tests/contract/test_tls.py": "h",
}
"""Tests that stand beside what they test and belong to a group all the same."""
PROPERTY = "battery"
_OWN = re.compile(r"tests/battery/test_([a-is])_")


class Score(msgspec.Struct):
    """What one test did: planned faults that came true, processes killed, hostile archives and names met."""

    faults_planned: int = 0
    faults_fired: int = 0
    kills: int = 0
    archives: int = 0
    names: int = 0


class ScoredProxy(FaultProxy):
    """A proxy that counts its faults in a test's score."""

    def __init__(self, upstream_url: str, score: Score) -> None:
        super().__init__(upstream_url)
        self.score = score

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for plan in self._plans:
            self.score.faults_planned += plan.times or max(1, plan.fired)
            self.score.faults_fired += plan.fired
        await super().__aexit__(kind, error, trace)


def group_of(nodeid: str) -> str:
    """The letter of the group that a test belongs to, or ``""``."""
    path = nodeid.partition("::")[0]
    own = _OWN.match(path)
    return own[1] if own else ELSEWHERE.get(path, "")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each group of which anything ran; pytest calls it at the end."""
    cases: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    skipped: dict[str, Counter[str]] = {}
    figures: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            when, group = getattr(report, "when", None), group_of(getattr(report, "nodeid", ""))
            if not group or when is None:
                continue
            if report.skipped:
                reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else "skipped"
                skipped.setdefault(group, Counter())[reason.removeprefix("Skipped: ")] += 1
            elif when == "call":
                cases[group] += 1
            if report.failed:
                failed[group] += 1
            if when == "teardown":
                for name, value in report.user_properties:
                    if name == PROPERTY:
                        figures.setdefault(group, Counter()).update(value)
    if not cases and not skipped:
        return
    how = "every case" if FULL else "a selection; BATTERY=full runs all"
    terminalreporter.section(f"battery: {how}; seed {SEED}")
    for group in sorted({*cases, *skipped}):
        told = figures.get(group, Counter())
        line = f"({group}) {GROUPS[group]}: {cases[group]} cases"
        line += f", {failed[group]} FAILED" if failed[group] else ""
        if told["faults_planned"]:
            line += f", {told['faults_fired']} of {told['faults_planned']} planned faults fired"
        for name, text in (("kills", "kills"), ("archives", "hostile archives"), ("names", "hostile names")):
            line += f", {told[name]} {text}" if told[name] else ""
        terminalreporter.line(line)
        for reason, count in sorted(skipped.get(group, Counter()).items()):
            terminalreporter.line(f"    {count} skipped: {reason}")
