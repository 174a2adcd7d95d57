"""(f) A prune beside a backup, a restore, a verification of other machines.

A proxy holds one request of one of them while the other runs to its end: at every request in turn. What
is kept restores exactly whoever was held, and each ends with its result or says whom it has to wait for.
"""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest

from asyncbackup.pipeline import attributes
from asyncbackup.rebuild.section import rebuild_section
from tests.battery.invariants import check_invariants, check_restores
from tests.battery.machines import end_of, machines
from tests.battery.selection import selected
from tests.prunes import forget_all_but, sibling
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.invariants import Picture
    from tests.battery.machines import Machine
    from tests.battery.score import Score
    from tests.servers import S3Endpoint

LAYOUTS = ("mirror", "packed", "sealed packed")
REQUESTS = {
    "mirror": {"run": 5, "restore": 12, "verify": 15, "prune": 19},
    "packed": {"run": 5, "restore": 6, "verify": 9, "prune": 25},
    "sealed packed": {"run": 6, "restore": 8, "verify": 9, "prune": 25},
}
"""What each command sends where nobody disturbs it; a test below counts it."""


def cases(command: str, count: int) -> list[tuple[str, int]]:
    """Layouts, and the request (from 0) that is held."""
    every = [(each, request) for each in LAYOUTS for request in range(REQUESTS[each][command])]
    return selected(every, count, name=f"{command} beside a prune")


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


async def make_bench(
    base: Path, endpoint: S3Endpoint, layout: str
) -> tuple[Workbench, Workbench, dict[str, Picture]]:
    """A section on two machines that both know its three snapshots; all but the last are forgotten, which
    needs a little of the first one's pack."""
    bench = Workbench(
        base,
        f"s3://{endpoint.fresh_bucket()}/prefix",
        s3=endpoint.settings(),
        encrypted=layout.startswith("sealed"),
    )
    bench.configure(packed=layout.endswith("packed"))
    chosen = random.Random(layout)
    await bench.initialise()
    for number in range(3):
        for name in range(2 if number == 0 else 4, 8):
            bench.write(f"f{name}", chosen.randbytes(3000))
        if number == 0:
            bench.write("f0", chosen.randbytes(3000))
        bench.write(f"of {number}", chosen.randbytes(3000))
        (bench.tree / f"of {number - 1}").unlink(missing_ok=True)
        last = (await bench.run()).snapshot
    there = sibling(bench)
    await rebuild_section(there.settings, there.section)
    await forget_all_but(bench, last)
    return bench, there, {last: picture(bench.tree)}


async def finish(here: Machine, there: Machine, kept: dict[str, Picture]) -> None:
    """Whatever happened: both machines go on, and nothing that was kept is lost."""
    for machine, command in ((there, "prune"), (here, "run")):
        ended = await machine.run(command)
        assert ended.code == 0, ended
    await check_invariants(here.bench, earlier=kept, read_percent=100.0)


@pytest.mark.parametrize(
    ("layout", "command"),
    selected(((a, b) for a in LAYOUTS for b in REQUESTS[a]), 1, name="requests beside a prune"),
)
async def test_the_requests_of_an_undisturbed_command(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str, command: str
) -> None:
    bench, elsewhere, _ = await make_bench(tmp_path, memory_s3, layout)
    bench.write("new", b"for the run")
    options = ("--target", str(tmp_path / "restored")) if command == "restore" else ()
    async with machines(memory_s3, score, bench, elsewhere) as both:
        machine = both[command == "prune"]
        ended = await machine.run(command, *options)
        assert ended.code == 0, ended
        assert machine.proxy.requests.total() == REQUESTS[layout][command]


@pytest.mark.parametrize(("layout", "request_held"), cases("prune", 1))
async def test_a_prune_that_stands_still_while_a_backup_runs(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str, request_held: int
) -> None:
    bench, elsewhere, kept = await make_bench(tmp_path, memory_s3, layout)
    async with machines(memory_s3, score, bench, elsewhere) as (here, there):
        pruning = await there.held("prune", request=request_held)
        bench.write("new", b"since the prune began")
        ran = await here.run("run")
        assert ran.code in (0, 5), ran
        if ran.code == 0:
            kept[(await bench.snapshots())[-1]] = picture(bench.tree)
        pruned = await pruning.let_go()
        assert pruned.code in (0, 5), pruned
        for snapshot, looked in kept.items():
            await check_restores(bench, snapshot, looked)
        await finish(here, there, kept)


@pytest.mark.parametrize(("layout", "request_held"), cases("run", 1))
async def test_a_backup_that_stands_still_while_a_prune_runs(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str, request_held: int
) -> None:
    bench, elsewhere, kept = await make_bench(tmp_path, memory_s3, layout)
    async with machines(memory_s3, score, bench, elsewhere) as (here, there):
        bench.write("new", b"before the prune")
        running = await here.held("run", request=request_held)
        pruned = await there.run("prune")
        assert pruned.code in (0, 5), pruned
        ran = await running.let_go()
        assert ran.code == 0, ran
        kept[(await bench.snapshots())[-1]] = picture(bench.tree)
        for snapshot, looked in kept.items():
            await check_restores(bench, snapshot, looked)
        await finish(here, there, kept)


@pytest.mark.parametrize(("layout", "request_held"), cases("restore", 1))
async def test_a_restore_that_stands_still_while_a_prune_runs(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str, request_held: int
) -> None:
    bench, elsewhere, kept = await make_bench(tmp_path, memory_s3, layout)
    wanted = picture(bench.tree)
    target = tmp_path / "restored"
    async with machines(memory_s3, score, bench, elsewhere) as (here, there):
        restoring = await here.held("restore", "--target", str(target), request=request_held)
        pruned = await there.run("prune")
        assert pruned.code == 0, pruned
        restored = await restoring.let_go()
        assert restored.code == 0, restored
        assert picture(target) == wanted
        shutil.rmtree(target)
        await finish(here, there, kept)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="interrupted before a prune"))
async def test_a_restore_that_was_killed_before_a_prune_goes_on_after_it(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str
) -> None:
    """What it had noted of where the rest lies is not true any more."""
    bench, elsewhere, kept = await make_bench(tmp_path, memory_s3, layout)
    wanted = picture(bench.tree)
    options = ("restore", "--target", str(tmp_path / "restored"))
    async with machines(memory_s3, score, bench, elsewhere) as (here, there):
        restoring = await here.held(*options, operation="GetObject", path="/data/")
        restoring.kill()
        await end_of(restoring.process)
        pruned = await there.run("prune")
        assert pruned.code == 0, pruned
        restored = await here.run(*options)
        assert restored.code == 0, restored
    assert picture(tmp_path / "restored") == wanted
    assert list((bench.settings.state_dir / "restores").iterdir()) == []
    assert await bench.snapshots() == list(kept)


@pytest.mark.parametrize(("layout", "request_held"), cases("verify", 1))
async def test_a_verification_that_stands_still_while_a_prune_runs(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str, request_held: int
) -> None:
    bench, elsewhere, kept = await make_bench(tmp_path, memory_s3, layout)
    async with machines(memory_s3, score, bench, elsewhere) as (here, there):
        verifying = await here.held("verify", request=request_held)
        pruned = await there.run("prune")
        assert pruned.code == 0, pruned
        verified = await verifying.let_go()
        assert verified.code in (0, 5), verified
        assert "damaged" not in verified.said.replace("nothing is known to be damaged", "")
        verified = await here.run("verify")
        assert verified.code == 0, verified
        await finish(here, there, kept)
