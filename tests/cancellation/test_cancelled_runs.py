"""Runs cancelled at any moment: nothing keeps running, and the next run makes up for everything.

A moment is a hop to a thread or a transaction of the catalog, counted from the beginning of the run. The
hop that is cancelled goes on in its thread, as in real life.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asyncbackup.catalog.database import WriteLock
from asyncbackup.config import EncryptionSettings
from asyncbackup.engine import run_section
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.repository.open import open_repository
from asyncbackup.store.local_keys import is_own
from asyncbackup.verify.section import verify_section
from tests.workbench import MIB, Workbench, age, picture

if TYPE_CHECKING:
    import aiosqlite

POINTS = 12
"""Moments that are tried of each kind of run, spread over its length."""


class Moments:
    """Counts moments, and calls ``then`` at those that are planned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.planned: Callable[[int], bool] = lambda _: False
        self.then: Callable[[], object] = lambda: None
        run, transaction = ThreadGate.run, WriteLock.transaction

        async def counted_run(gate: ThreadGate, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self.pass_one()
            return await run(gate, call, *args, **kwargs)

        def counted_transaction(lock: WriteLock) -> AbstractAsyncContextManager[aiosqlite.Connection]:
            self.pass_one()
            return transaction(lock)

        monkeypatch.setattr(ThreadGate, "run", counted_run)
        monkeypatch.setattr(WriteLock, "transaction", counted_transaction)

    def pass_one(self) -> None:
        self.count += 1
        if self.planned(self.count):
            self.then()

    def plan(self, task: asyncio.Task[object], planned: Callable[[int], bool]) -> None:
        """Cancel ``task`` at the planned moments, counted from now."""
        self.count, self.planned, self.then = 0, planned, task.cancel

    def rest(self) -> None:
        self.planned = lambda _: False


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moments]:
    moments = Moments(monkeypatch)
    yield moments
    moments.rest()


async def make_bench(base: Path, *, encrypted: bool) -> Workbench:
    (base / "destination").mkdir(parents=True)
    bench = Workbench(base, f"file://{base}/destination")
    if encrypted:
        key_file = base / "key"
        key_file.touch(mode=0o600)
        key_file.write_bytes(os.urandom(32))
        bench.configure(encryption=EncryptionSettings(enabled=True, key_file=key_file))
    await bench.initialise()
    for number in range(20):
        age(bench.write(f"d{number % 4}/f{number}", os.urandom(number * 100)))
    age(bench.write("large", os.urandom(11 * MIB)))
    linked = bench.write("linked", b"one content")
    os.link(linked, bench.tree / "d1/linked too")
    age(linked)
    (bench.tree / "to large").symlink_to("large")
    (bench.tree / "hollow").mkdir()
    return bench


async def cancelled_run(bench: Workbench, moments: Moments, planned: Callable[[int], bool]) -> bool:
    """Whether the run was cancelled; ``False`` if it was over before."""
    task = asyncio.create_task(run_section(bench.settings, bench.section))
    moments.plan(task, planned)
    await asyncio.wait({task})
    moments.rest()
    if not task.cancelled():
        task.result()
        return False
    return True


async def check_the_next_run(bench: Workbench) -> None:
    summary = await bench.run()
    assert summary.failures == ()
    assert summary.files_scanned == 23
    third = await bench.run()
    assert third.files_unchanged == 23
    assert third.bytes_uploaded == 0
    assert temporaries(bench) == []
    async with open_repository(bench.settings, bench.section) as repository:
        assert [page async for page in repository.store.list_uploads("")] == []
    verified = await verify_section(bench.settings, bench.section, read_percent=100)
    assert verified.damaged_objects == 0, verified.damaged
    assert picture(await bench.restored()) == picture(bench.tree)


def temporaries(bench: Workbench) -> list[Path]:
    root = bench.base / "destination"
    return [p for p in root.rglob("*") if is_own(os.fsencode(p.relative_to(root)))]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "encrypted"])
def encrypted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def length(encrypted: bool, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many moments such a run has."""
    base = tmp_path_factory.mktemp("length")

    async def count() -> int:
        with pytest.MonkeyPatch.context() as patch:
            bench = await make_bench(base, encrypted=encrypted)
            moments = Moments(patch)
            await bench.run()
            return moments.count

    return asyncio.run(count())


@pytest.mark.parametrize("point", range(POINTS))
async def test_cancelled_once(
    tmp_path: Path, moments: Moments, encrypted: bool, length: int, point: int
) -> None:
    bench = await make_bench(tmp_path / "bench", encrypted=encrypted)
    before = descriptors()
    moment = 1 + point * length // POINTS
    cancelled = await cancelled_run(bench, moments, lambda count: count == moment)
    assert cancelled or moments.count < moment
    assert descriptors() <= before + 1, "besides the threads' own"
    await check_the_next_run(bench)


@pytest.mark.parametrize("point", range(0, POINTS, 3))
async def test_cancelled_again_and_again(
    tmp_path: Path, moments: Moments, encrypted: bool, length: int, point: int
) -> None:
    """The impatient: every further moment is another cancellation, also those of cleaning up."""
    bench = await make_bench(tmp_path / "bench", encrypted=encrypted)
    moment = 1 + point * length // POINTS
    await cancelled_run(bench, moments, lambda count: count >= moment)
    await check_the_next_run(bench)


async def test_run_after_run_cancelled_each_comes_further(
    tmp_path: Path, moments: Moments, encrypted: bool
) -> None:
    """Nothing that was recorded is sent again, so runs that are always cancelled come to an end."""
    bench = await make_bench(tmp_path / "bench", encrypted=encrypted)
    for moment in range(30, 400, 7):
        if not await cancelled_run(bench, moments, moment.__eq__):
            break
    else:
        pytest.fail("no run came to its end")
    await check_the_next_run(bench)


async def test_a_cancelled_dry_run_leaves_nothing(tmp_path: Path, moments: Moments) -> None:
    bench = await make_bench(tmp_path / "bench", encrypted=False)
    for moment in range(1, 40, 3):
        task = asyncio.create_task(run_section(bench.settings, bench.section, dry_run=True))
        moments.plan(task, moment.__eq__)
        await asyncio.wait({task})
        moments.rest()
    assert await bench.snapshots() == []
    await check_the_next_run(bench)
