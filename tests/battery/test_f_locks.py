"""(f) Who holds a section: two runs at once, dead holders, reused process ids, reboots, sleeping machines."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from asyncbackup.pipeline import attributes
from asyncbackup.rebuild.section import rebuild_section
from tests.battery.crash_bench import LAYOUTS
from tests.battery.invariants import check_invariants, check_restores
from tests.battery.machines import PROGRAM, end_of, first_to_end, machines
from tests.battery.selection import selected
from tests.prunes import forget_all_but, sibling
from tests.servers.proxy import Gate
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.invariants import Picture
    from tests.battery.score import Score
    from tests.servers import S3Endpoint

OWN_PIDS = ("unshare", "--pid", "--fork", "--kill-child", *PROGRAM)
"""The command line as process 1 of a namespace of its own, so that all of them have the same id."""
AFTER_AN_HOUR = (
    sys.executable,
    "-c",
    "import sys, asyncbackup.repository.marks as marks; marks.LOOK_AGAIN_NS = 0; "
    "from asyncbackup.cli.app import main; sys.exit(main(sys.argv[1:]))",
)
"""The command line for which an hour has passed since it began, whatever the clock says."""


def may_have_own_pids() -> bool:
    """Whether this user may make a namespace of process ids."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run([*OWN_PIDS[:4], "true"], capture_output=True, check=False)
    return tried.returncode == 0


needs_own_pids = pytest.mark.skipif(not may_have_own_pids(), reason="no namespaces of process ids here")


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


async def make_bench(
    base: Path, endpoint: S3Endpoint, layout: str = "mirror"
) -> tuple[Workbench, dict[str, Picture]]:
    """A section with one snapshot, and a tree that has changed since."""
    bench = Workbench(
        base,
        f"s3://{endpoint.fresh_bucket()}/prefix",
        s3=endpoint.settings(),
        encrypted=layout.startswith("sealed"),
    )
    bench.configure(packed=layout.endswith("packed"))
    chosen = random.Random(layout)
    for number in range(10):
        bench.write(f"d{number % 3}/f{number}", chosen.randbytes(1000))
    await bench.initialise()
    earlier = {(await bench.run()).snapshot: picture(bench.tree)}
    for number in range(5, 15):
        bench.write(f"d{number % 3}/f{number}", chosen.randbytes(1001))
    return bench, earlier


@pytest.mark.parametrize(
    "commands",
    selected(
        [("run", "run"), ("run", "prune"), ("prune", "prune"), ("run", "syncdb_remote")], 1, name="at once"
    ),
    ids=" ".join,
)
async def test_of_two_that_begin_at_once_one_goes_on(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, commands: tuple[str, str]
) -> None:
    """Neither can end while its requests are held, so the one that ends first was sent away."""
    bench, earlier = await make_bench(tmp_path, memory_s3)
    async with machines(memory_s3, score, bench) as (here,):
        gate = Gate()
        here.proxy.plan("*", gate.hold, times=0)
        processes = [await here.start(command) for command in commands]
        refused, running = await first_to_end(processes)
        assert (await end_of(refused)).code == 5
        gate.open()
        went_on = await end_of(running)
        assert went_on.code == 0, went_on
        committed = commands[processes.index(running)] == "run"
        assert len(await bench.snapshots()) == len(earlier) + committed
        await check_invariants(bench, earlier=earlier)


@needs_own_pids
@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="process ids"))
async def test_a_lock_is_no_process_id(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str
) -> None:
    """All of these processes are number 1: while the first lives another is sent away, once it is dead
    its number is nobody's."""
    bench, earlier = await make_bench(tmp_path, memory_s3, layout)
    async with machines(memory_s3, score, bench) as (here,):
        first = await here.held("run", operation="PutObject", request=2, program=OWN_PIDS)
        for command in ("run", "prune"):
            assert (await here.run(command, program=OWN_PIDS)).code == 5
        first.kill()
        assert (await end_of(first.process)).code == -signal.SIGKILL
        ended = await here.run("run", program=OWN_PIDS)
        assert ended.code == 0, ended
        await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize(
    ("layout", "share"),
    selected(((a, b) for a in LAYOUTS for b in (0, 25, 50, 75, 99, 100)), 1, name="reboot"),
)
async def test_across_a_reboot(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str, share: int
) -> None:
    """A power cut takes the process, and what of the database's journal had not reached the disk: it ends
    anywhere, perhaps in noise. No lock survives."""
    bench, earlier = await make_bench(tmp_path, memory_s3, layout)
    async with machines(memory_s3, score, bench) as (here,):
        running = await here.held("run", operation="PutObject", path="/snapshots/")
        running.kill()
        await end_of(running.process)
        database = bench.settings.database_path("home")
        journal = database.with_name(database.name + "-wal")
        written = journal.read_bytes()
        kept = len(written) * share // 100
        journal.write_bytes(written[:kept] + random.Random(share).randbytes(4096 if share < 100 else 0))
        ended = await here.run("run")
        assert ended.code == 0, ended
        await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="stopped"))
async def test_a_machine_that_sleeps_keeps_its_section(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str
) -> None:
    """While the sleeper may wake nobody deletes anything, neither on its machine nor on another."""
    bench, earlier = await make_bench(tmp_path, memory_s3, layout)
    elsewhere = sibling(bench)
    await rebuild_section(elsewhere.settings, elsewhere.section)
    async with machines(memory_s3, score, bench, elsewhere) as (here, there):
        running = await here.held("run", operation="PutObject", request=1)
        await forget_all_but(bench)
        os.killpg(running.process.pid, signal.SIGSTOP)
        for machine in (here, there):
            assert (await machine.run("prune")).code == 5
        assert (await here.run("run")).code == 5
        os.killpg(running.process.pid, signal.SIGCONT)
        ended = await running.let_go()
        assert ended.code == 0, ended
        kept = {(await bench.snapshots())[-1]: picture(bench.tree)}
        await check_invariants(bench, earlier=kept)
        assert earlier.keys().isdisjoint(kept)


@pytest.mark.parametrize(
    ("layout", "place"),
    selected(((a, b) for a in LAYOUTS for b in ("data", "snapshots")), 1, name="slept too long"),
)
async def test_a_machine_that_slept_for_so_long_that_it_was_taken_for_dead(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str, place: str
) -> None:
    """A prune has deleted what it had uploaded. It wakes in the middle of its uploads, or right when it
    was about to commit: what it commits is whole all the same."""
    bench, earlier = await make_bench(tmp_path, memory_s3, layout)
    elsewhere = sibling(bench)
    await rebuild_section(elsewhere.settings, elsewhere.section)
    async with machines(memory_s3, score, bench, elsewhere) as (here, there):
        skip = 1 if place == "data" and layout == "mirror" else 0
        running = await here.held(
            "run", operation="PutObject", path=f"/{place}/", request=skip, program=AFTER_AN_HOUR
        )
        os.killpg(running.process.pid, signal.SIGSTOP)
        (before,) = await bench.snapshots()
        pruned = await there.run("prune", "--min-age", "0h")
        assert pruned.code == 0, pruned
        os.killpg(running.process.pid, signal.SIGCONT)
        ended = await running.let_go()
        assert ended.code == 0, ended
        for snapshot in await bench.snapshots():
            await check_restores(bench, snapshot, earlier.get(snapshot, picture(bench.tree)))
        assert before in earlier
        await check_invariants(bench, earlier=earlier, read_percent=100.0)
