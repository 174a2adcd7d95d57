"""Restores as root in a mount namespace that is thrown away: all but a world of canaries is read-only there.

What escapes from the target either meets a file system that cannot be written, or one of the canaries.
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.battery.caged import OUTCOMES, TARGET, WORLD, Outcome, Step

__all__ = ["Cage", "Outcome", "Step", "needs_cage"]

_ROOT = Path(__file__).parents[2]


@functools.cache
def _can_unshare() -> bool:
    if os.geteuid() or shutil.which("unshare") is None:
        return False
    return not subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode


needs_cage = pytest.mark.skipif(not _can_unshare(), reason="only root gets a mount namespace of its own")


class Cage:
    """A base folder, which alone can be written inside, and steps to be run there."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.world = base / WORLD
        self.target = self.world / TARGET

    def run(self, steps: Sequence[Step]) -> list[Outcome]:
        """The steps one after another, in one namespace. No canary may have changed."""
        subprocess.run(
            ["unshare", "--mount", sys.executable, "-B", "-m", "tests.battery.caged", str(self.base)],
            input=msgspec.json.encode(steps), cwd=_ROOT, check=True,
        )  # fmt: skip
        outcomes = msgspec.json.decode((self.base / OUTCOMES).read_bytes(), type=list[Outcome])
        assert len(outcomes) == len(steps)
        for step, outcome in zip(steps, outcomes, strict=True):
            assert outcome.changed == [], (step, outcome)
            assert "Traceback" not in outcome.stderr, (step, outcome.stderr)
            planted = {f"{TARGET}/{path}" for path in outcome.target} & {name for _, name, _ in step.plants}
            for path, (mode, *_) in outcome.target.items():
                if f"{TARGET}/{path}" in planted or step.keep:
                    continue
                assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode), (step, path, oct(mode))
        return outcomes

    def restoring(self, config: Path, section: str, *arguments: str, **fields: object) -> Step:
        """A restore of a section to the target."""
        command = ["-c", str(config), "--quiet", "restore", section, "--target", str(self.target)]
        return msgspec.convert({"arguments": [*command, *arguments], **fields}, Step)
