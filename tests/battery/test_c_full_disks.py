"""(c) No space left for the database, for what is noted on disk, at the destination: and then there is."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import AsyncBackupError, CatalogError, StoreError, TargetError
from tests.battery.disks import mounted_ext4, mounted_tmpfs, resize
from tests.battery.invariants import check_invariants
from tests.battery.selection import selected
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from tests.battery.score import Score

LAYOUTS = ("mirror", "packed")


def fill(bench: Workbench, *, files: int, size: int) -> None:
    chosen = random.Random(3)
    for number in range(files):
        bench.write(
            f"d{number % 9}/a name that takes some room in a database {number:05}", chosen.randbytes(size)
        )


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="database"))
async def test_no_space_for_the_database(
    tmp_path: Path, folder_destination: Path, score: Score, layout: str
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    bench.configure(packed=layout == "packed")
    bench.write("first", b"content")
    with mounted_tmpfs(tmp_path / "state", size="400k") as state:
        await bench.initialise()
        earlier = {(await bench.run()).snapshot: picture(bench.tree)}
        fill(bench, files=1500, size=10)
        with pytest.raises(CatalogError, match=r"no space left|disk"):
            await bench.run()
        assert await bench.snapshots() == list(earlier)
        resize(state, "64m")
        score.faults_planned += 1
        score.faults_fired += 1
        await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="destination"))
async def test_no_space_at_the_destination(tmp_path: Path, score: Score, layout: str) -> None:
    with mounted_tmpfs(tmp_path / "destination", size="1m") as destination:
        bench = Workbench(tmp_path, f"file://{destination}")
        bench.configure(packed=layout == "packed")
        bench.write("first", b"content")
        await bench.initialise()
        earlier = {(await bench.run()).snapshot: picture(bench.tree)}
        fill(bench, files=60, size=30_000)
        with pytest.raises(StoreError, match=r"space|full"):
            await bench.run()
        assert await bench.snapshots() == list(earlier)
        resize(destination, "64m")
        score.faults_planned += 1
        score.faults_fired += 1
        await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="restore"))
async def test_no_space_for_a_restore(
    tmp_path: Path, folder_destination: Path, score: Score, layout: str
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    bench.configure(packed=layout == "packed")
    fill(bench, files=100, size=30_000)
    await bench.initialise()
    await bench.run()
    with mounted_ext4(tmp_path / "image", tmp_path / "disk", megabytes=8) as disk:
        shutil.rmtree(disk / "lost+found")
        taken = disk / "taken"
        taken.write_bytes(bytes(5 * MIB))
        target = disk / "target"
        with pytest.raises(TargetError, match="no space left; free some and restore again"):
            await bench.restore(target)
        assert not list(target.rglob(".asyncbackup-*"))
        wanted = picture(bench.tree)
        for name, found in picture(target).items():
            if found[5] is not None:
                assert found == wanted[name]
        score.faults_planned += 1
        score.faults_fired += 1
        taken.unlink()
        assert (await bench.restore(target)).failures == ()
        assert picture(target) == wanted
    await check_invariants(bench)


async def test_no_space_for_what_a_restore_notes(
    tmp_path: Path, folder_destination: Path, score: Score
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    fill(bench, files=1500, size=10)
    await bench.initialise()
    await bench.run()
    settings = bench.settings
    with mounted_tmpfs(tmp_path / "small", size="300k") as small:
        bench.settings = msgspec.structs.replace(settings, state_dir=small)
        with pytest.raises(AsyncBackupError, match=r"space|disk"):
            await bench.restore(tmp_path / "target")
        resize(small, "64m")
        score.faults_planned += 1
        score.faults_fired += 1
        assert (await bench.restore(tmp_path / "target")).failures == ()
        assert picture(tmp_path / "target") == picture(bench.tree)
    bench.settings = settings
    await check_invariants(bench)
