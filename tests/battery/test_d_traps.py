"""(d) Sound snapshots restored as root into a target full of traps, and one that changes all the while."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.battery.cage import Cage, Outcome, Step, needs_cage
from tests.battery.selection import FULL, selected
from tests.pipeline.kinds import bench_of
from tests.workbench import MIB, Workbench

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.score import Score

pytestmark = needs_cage

KINDS = ("clear-mirror-plain", "clear-packed-zstd", "hidden-packed-plain")
OVERWRITES = ("always", "changed", "never")
PLACES = ("docs", "docs/deep", "docs/report", "docs/deep/big", "empty", "hard", "hard2", "link", "hollow")
Plants = list[tuple[str, str, str]]


def plants(trap: str, world: str) -> Plants:
    """One trap at every place that a restore uses, or at its folders alone."""
    if trap == "folders are symlinks":
        return [("folder", "target", ""), ("symlink", "target/docs", f"{world}/outside/docs")]
    if trap == "symlinks within the target":
        return [("folder", "target/other", ""), ("symlink", "target/docs", "other")]
    if trap == "symlinks upwards":
        return [("symlink", f"target/{name}", "..") for name in ("docs", "hollow", "empty", "hard", "link")]
    files = [("symlink", f"target/{place}", f"{world}/outside/file") for place in PLACES[2:]]
    kinds: dict[str, Plants] = {
        "files are symlinks": files,
        "files are dangling symlinks": [(kind, name, f"{world}/new") for kind, name, _ in files],
        "files are hard links": [("hardlink", name, "outside/file") for _, name, _ in files],
        "files are devices": [("device", name, "") for _, name, _ in files],
        "files are folders": [("folder", f"{name}/x", "") for _, name, _ in files],
        "folders are files": [("file", "target/docs", "x"), ("file", "target/hollow", "x")],
        "folders are devices": [("device", "target/docs", ""), ("device", "target/hollow", "")],
    }
    return kinds[trap]


TRAPS = (
    "folders are symlinks", "symlinks within the target", "symlinks upwards", "files are symlinks",
    "files are dangling symlinks", "files are hard links", "files are devices", "files are folders",
    "folders are files", "folders are devices",
)  # fmt: skip


async def saved(base: Path, kind: str) -> Workbench:
    """A section with one snapshot of a small tree that has something of every kind."""
    bench = await bench_of(kind, base, key_file=True)
    noise = random.Random(1)
    bench.write("docs/report", b"report" * 30_000)
    bench.write("docs/deep/big", noise.randbytes(3 * MIB))
    for number in range(60):
        bench.write(f"docs/deep/many/{number}", noise.randbytes(number * 50))
        (bench.tree / f"docs/deep/many/link{number}").symlink_to("1")
    bench.write("empty", b"")
    os.link(bench.write("hard", b"linked"), bench.tree / "hard2")
    (bench.tree / "link").symlink_to("empty")
    (bench.tree / "hollow").mkdir()
    for folder in ("docs", "hollow"):
        (bench.tree / folder).chmod(0o777)
        os.chown(bench.tree / folder, 4321, 4321)
    assert (await bench.run()).failures == ()
    return bench


class Trapped:
    """Restores of one snapshot, a world of traps each."""

    def __init__(self, base: Path, kind: str) -> None:
        self.cage = Cage(base)
        self.bench = asyncio.run(saved(base, kind))
        encryption = self.bench.section.encryption
        self.config = base / "asyncbackup.toml"
        sealed = f"[sections.home.encryption]\nenabled = true\nkey_file = '{encryption.key_file}'\n"
        self.config.write_text(
            f'state_dir = "{base}/state"\n[sections.home]\npath = "{base}/tree"\n'
            f'destination = "{self.bench.section.destination}"\n' + sealed * encryption.enabled
        )

    def step(self, overwrite: str, **fields: object) -> Step:
        return self.cage.restoring(self.config, "home", "--overwrite", overwrite, **fields)

    def assert_restored(self, outcome: Outcome) -> None:
        """Everything is there, and is what was saved."""
        assert outcome.code == 0, outcome
        wanted = {str(path.relative_to(self.bench.tree)) for path in self.bench.tree.rglob("*")}
        assert wanted <= set(outcome.target), outcome
        assert outcome.target["docs/report"][4].startswith("reportreport")
        assert outcome.target["docs"][1] == 4321
        assert outcome.target["link"][4] == "empty"


@pytest.fixture(scope="module", params=selected(KINDS, 1, name="traps"))
def trapped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trapped:
    return Trapped(tmp_path_factory.mktemp("trapped"), request.param)


@pytest.mark.parametrize("overwrite", OVERWRITES)
def test_traps_that_were_set_beforehand(trapped: Trapped, score: Score, overwrite: str) -> None:
    """Then the same restore once more into what the first one left."""
    chosen = selected(TRAPS, 2, name=overwrite)
    score.archives += len(chosen)
    world = str(trapped.cage.world)
    steps = []
    for trap in chosen:
        steps += [trapped.step(overwrite, plants=plants(trap, world)), trapped.step(overwrite, keep=True)]
    outcomes = trapped.cage.run(steps)
    for trap, first, second in zip(chosen, outcomes[::2], outcomes[1::2], strict=True):
        if overwrite == "never":
            # What stands there is left, and what cannot go beside it is named.
            assert first.code in (0, 4), (trap, first)
        elif trap == "files are folders":
            # Folders with something in them are not the snapshot's to remove.
            assert (first.code, second.code) == (4, 4), (trap, first)
        else:
            trapped.assert_restored(first)
            trapped.assert_restored(second)
        if trap != "files are hard links":
            assert not any("canary" in entry[4] for entry in first.target.values()), (trap, first)


@pytest.mark.parametrize("overwrite", OVERWRITES)
def test_folders_that_somebody_exchanges_for_symlinks_meanwhile(
    trapped: Trapped, score: Score, overwrite: str
) -> None:
    """By a process of its own, as fast as it can, through several restores of the same target."""
    places = ["target/docs", "target/docs/deep", "target/hollow"]
    steps = [
        trapped.step(
            overwrite, plants=[("folder", place, "") for place in places], swaps=places, keep=number > 0
        )
        for number in range(12 if FULL else 2)
    ]
    score.archives += len(steps)
    outcomes = trapped.cage.run([*steps, trapped.step("always", keep=True)])
    assert all(outcome.swaps for outcome in outcomes[:-1])
    assert {outcome.code for outcome in outcomes[:-1]} <= {0, 4}, outcomes
    trapped.assert_restored(outcomes[-1])
