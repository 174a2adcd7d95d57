"""(f) Two machines at one destination: under two section names, and under one, which nobody should do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.engine import run_section
from asyncbackup.errors import SectionBusyError
from asyncbackup.format.runid import run_time_ns
from asyncbackup.pipeline import attributes
from tests.battery.invariants import check_invariants, check_restores
from tests.battery.machines import machines
from tests.battery.selection import selected
from tests.prunes import objects
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.invariants import Picture
    from tests.battery.score import Score
    from tests.servers import S3Endpoint

RUN_REQUESTS = 5
"""What a run with one new file sends."""


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


async def two_hosts(base: Path, endpoint: S3Endpoint, *, second_section: str) -> tuple[Workbench, Workbench]:
    """Two machines with a tree and a state folder each, and one destination. The second one's section has
    that name."""
    destination = f"s3://{endpoint.fresh_bucket()}/prefix"
    benches = []
    for name in ("first", "second"):
        folder = base / name
        folder.mkdir()
        bench = Workbench(folder, destination, s3=endpoint.settings())
        bench.write("who", f"the {name} machine".encode())
        bench.write(name, b"content")
        benches.append(bench)
    first, second = benches
    second.configure(name=second_section)
    second.settings = msgspec.structs.replace(second.settings, sections={second_section: second.section})
    for bench in benches:
        await bench.initialise()
    return first, second


@pytest.mark.parametrize("request_held", selected(range(RUN_REQUESTS), 1, name="two sections"))
async def test_two_sections_do_not_know_of_each_other(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, request_held: int
) -> None:
    first, second = await two_hosts(tmp_path, memory_s3, second_section="office")
    async with machines(memory_s3, score, first, second) as (here, there):
        running = await here.held("run", request=request_held)
        for command in ("run", "prune", "verify", "run"):
            ended = await there.run(command)
            assert ended.code == 0, ended
        ended = await running.let_go()
        assert ended.code == 0, ended
    for bench, count in ((first, 1), (second, 2)):
        assert len(await bench.snapshots()) == count
        await check_restores(bench, "latest", picture(bench.tree))
    await check_invariants(first)


@pytest.mark.parametrize("request_held", selected(range(RUN_REQUESTS), 1, name="one section"))
async def test_one_section_on_two_machines_mixes_their_snapshots_and_loses_none(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, request_held: int
) -> None:
    first, second = await two_hosts(tmp_path, memory_s3, second_section="home")
    kept: dict[str, Picture] = {}

    async def note(bench: Workbench) -> None:
        (new,) = {*await bench.snapshots()} - kept.keys()
        kept[new] = picture(bench.tree)

    async with machines(memory_s3, score, first, second) as (here, there):
        for number in range(2):
            first.write("who", b"the first machine, %d" % number)
            second.write("who", b"the second machine, %d" % number)
            running = await here.held("run", request=request_held)
            ended = await there.run("run")
            assert ended.code == 0, ended
            await note(second)
            ended = await running.let_go()
            assert ended.code == 0, ended
            await note(first)
        assert len(kept) == 4
        ended = await there.run("prune")
        assert ended.code == 0, ended
    for snapshot, looked in kept.items():
        await check_restores(first, snapshot, looked)


async def test_two_runs_that_happen_to_have_one_id(
    tmp_path: Path, folder_destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They began in one second and drew the same four digits: nothing is written over."""
    benches = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        bench = Workbench(tmp_path / name, f"file://{folder_destination}")
        bench.write("who", f"the {name} machine".encode())
        await bench.initialise()
        benches.append(bench)
    first, second = benches
    run = "20300101T000000Z-beef"
    monkeypatch.setattr("asyncbackup.format.runid.secrets.token_hex", lambda count: "beef")
    monkeypatch.setattr("asyncbackup.engine.time.time_ns", lambda: run_time_ns(run))
    assert (await first.run()).snapshot == run
    before = objects(first)
    with pytest.raises(SectionBusyError, match=run):
        await run_section(second.settings, second.section)
    assert objects(first) == before
    await check_restores(first, run, picture(first.tree))
    monkeypatch.setattr("asyncbackup.format.runid.secrets.token_hex", lambda count: "cafe")
    again = await second.run()
    assert again.snapshot == run.replace("beef", "cafe")
    await check_restores(second, again.snapshot, picture(second.tree))
