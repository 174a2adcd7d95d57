"""(f) Credentials that may not delete, and endpoints whose conditional writes mean nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from asyncbackup.format.keys import DESCRIPTOR_KEY
from asyncbackup.pipeline import attributes
from tests.battery.crash_bench import LAYOUTS, DoomedProcess, make_bench
from tests.battery.invariants import check_invariants, check_restores
from tests.battery.machines import Held, Machine, machines
from tests.battery.selection import selected
from tests.prunes import forget_all_but, sibling
from tests.servers.proxy import answering, error_body
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.score import Score
    from tests.servers import S3Endpoint
    from tests.servers.proxy import Exchange

DENIED = answering(403, error_body("AccessDenied"))
UNCONDITIONAL = re.compile(rb"(?i)if-none-match: [^\r]*\r\n")


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="may not delete"))
async def test_backups_need_no_right_to_delete(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str
) -> None:
    """Every command but ``prune`` does without, also after a kill; that one says so and changes nothing."""
    bench, earlier = await make_bench(tmp_path, memory_s3, layout)
    await DoomedProcess(bench, score).at(memory_s3, 5, "after")
    async with machines(memory_s3, score, bench) as (here,):
        here.proxy.plan("DeleteObject", DENIED, times=0)
        for command in ("run", "verify", "run"):
            ended = await here.run(command)
            assert ended.code == 0, ended
        ended = await here.run("forget", "--keep-last", "1")
        assert ended.code == 0, ended
        assert not {"DeleteObject", "DeleteObjects"} & here.proxy.requests.keys()
        (kept,) = await bench.snapshots()
        ended = await here.run("prune")
        assert ended.code == 1, ended
        assert "s3:DeleteObject" in ended.said
        assert here.proxy.requests["DeleteObject"] == 1
        ended = await here.run("run")
        assert ended.code == 0, ended
    await check_invariants(bench, earlier={kept: picture(bench.tree)})
    assert earlier.keys().isdisjoint(await bench.snapshots())


async def test_a_run_beside_a_prune_that_may_not_take_its_mark_back(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score
) -> None:
    """It is sent away, its mark stays, and holds the other machine's prune up until it is old."""
    bench, _ = await make_bench(tmp_path, memory_s3, "mirror")
    async with machines(memory_s3, score, bench, sibling(bench)) as (here, there):
        (snapshot,) = await bench.snapshots()
        ended = await here.run("run")
        assert ended.code == 0, ended
        await forget_all_but(bench, (await bench.snapshots())[-1])
        pruning = await there.held("prune", operation="DeleteObjects")
        here.proxy.plan("DeleteObject", DENIED, times=0)
        ended = await here.run("run")
        assert ended.code == 5, ended
        assert (await pruning.let_go()).code == 0
        assert snapshot not in await bench.snapshots()
        ended = await there.run("prune")
        assert ended.code == 5, ended
        ended = await here.run("run")
        assert ended.code == 0, ended
    await check_invariants(bench)


async def unconditionally(exchange: Exchange) -> None:
    """What endpoints do that have never heard of ``If-None-Match``."""
    exchange.request.head = UNCONDITIONAL.sub(b"", exchange.request.head)
    await exchange.pass_on(await exchange.forward())


@pytest.mark.parametrize("encrypted", selected((False, True), 1, name="created at once"))
async def test_two_that_create_one_repository_where_conditions_are_ignored(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, encrypted: bool
) -> None:
    """A conditional write that succeeds proves nothing, so what lies there is read back: of two that found
    no repository both go on with the one that was written last."""
    benches = make_two(tmp_path, memory_s3, encrypted=encrypted)
    async with machines(memory_s3, score, *benches) as (here, there):
        writing = await held_before_its_descriptor(here)
        there.proxy.plan("PutObject", unconditionally, path=DESCRIPTOR_KEY)
        reading = await there.held("initdb", operation="GetObject", path=DESCRIPTOR_KEY, request=1)
        for each in (writing, reading):
            ended = await each.let_go()
            assert ended.code == 0, ended
        for machine in (here, there):
            ended = await machine.run("run")
            assert ended.code == 0, ended
    for bench in benches:
        await check_restores(bench, "latest", picture(bench.tree))


@pytest.mark.parametrize("encrypted", selected((False, True), 1, name="written over"))
async def test_a_descriptor_that_was_written_over_is_noticed_before_anything_else_is(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, encrypted: bool
) -> None:
    """The other one slept between its look and its write. Whose descriptor is gone writes nothing."""
    benches = make_two(tmp_path, memory_s3, encrypted=encrypted)
    async with machines(memory_s3, score, *benches) as (here, there):
        writing = await held_before_its_descriptor(here)
        for machine in (there, writing):
            ended = await (machine.let_go() if isinstance(machine, Held) else machine.run("initdb"))
            assert ended.code == 0, ended
        puts = there.proxy.requests["PutObject"]
        ended = await there.run("run")
        assert ended.code == 1, ended
        assert "repository" in ended.said
        assert there.proxy.requests["PutObject"] == puts
        ended = await here.run("run")
        assert ended.code == 0, ended
    await check_restores(benches[0], "latest", picture(benches[0].tree))


def make_two(base: Path, endpoint: S3Endpoint, *, encrypted: bool) -> list[Workbench]:
    """Two machines that want to be the first at one destination."""
    destination = f"s3://{endpoint.fresh_bucket()}/prefix"
    benches = []
    for name in ("first", "second"):
        (base / name).mkdir()
        bench = Workbench(base / name, destination, s3=endpoint.settings(), encrypted=encrypted)
        bench.write("who", name.encode())
        bench.configure(name=name)
        benches.append(bench)
    return benches


async def held_before_its_descriptor(machine: Machine) -> Held:
    """An ``initdb`` that found no repository and is about to write one, where conditions are ignored."""
    return await machine.held("initdb", operation="PutObject", path=DESCRIPTOR_KEY, then=unconditionally)
