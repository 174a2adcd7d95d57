"""Verification and repair of what a packed section really writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from asyncbackup.verify.section import verify_section
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.verify.summary import VerifySummary


@pytest.fixture(params=["plain", "zstd", "sealed", "zstd-sealed"])
async def packed(request: pytest.FixtureRequest, tmp_path: Path, folder_destination: Path) -> Workbench:
    """A packed section with two snapshots of small and large files, in each way in which packs are stored."""
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted="sealed" in request.param)
    bench.configure(packed=True, zstd_level=3 if "zstd" in request.param else 0, pack_below_bytes=100_000)
    await bench.initialise()
    for number in range(40):
        bench.write(f"many/{number}", b"%d" % number * 500)
    bench.write("random", os.urandom(70_000))
    bench.write("copy", (bench.tree / "random").read_bytes())
    bench.write("medium", b"text that shrinks\n" * 20_000)
    bench.write("large", os.urandom(6 * MIB))
    bench.write("empty", b"")
    (bench.tree / "link").symlink_to("many/1")
    os.link(bench.tree / "many/2", bench.tree / "second name")
    await bench.run()
    bench.write("many/3", b"changed")
    bench.write("new", os.urandom(3000))
    await bench.run()
    return bench


def pack_of(run: str, folder: Path) -> Path:
    """The first pack of a run; what is linked stands in a later one."""
    return sorted((folder / "home/data" / run / "packs").iterdir())[0]


async def look(bench: Workbench, *snapshots: str) -> VerifySummary:
    return await verify_section(bench.settings, bench.section, snapshots=snapshots, read_percent=100)


async def test_what_a_packed_section_writes_is_sound(packed: Workbench) -> None:
    summary = await look(packed)
    assert summary.damaged == ()
    assert summary.objects_read == summary.objects
    assert summary.bytes_read == summary.bytes


async def test_a_difference_costs_its_own_lines_alone(packed: Workbench) -> None:
    """Of the second snapshot, one content of the first pack is not needed any more."""
    _, second = await packed.snapshots()
    whole = await verify_section(packed.settings, packed.section)
    chosen = await verify_section(packed.settings, packed.section, snapshots=[second])
    assert whole.objects == chosen.objects
    # The descriptor, both manifests, and the objects.
    assert whole.requests["GetObject"] == 1 + 2 + whole.objects
    assert chosen.damaged == ()


@pytest.mark.parametrize("action", ["flip", "delete"])
async def test_a_repair_leaves_a_whole_snapshot(
    packed: Workbench, folder_destination: Path, action: str
) -> None:
    run_of_first, _ = await packed.snapshots()
    first = pack_of(run_of_first, folder_destination)
    if action == "delete":
        first.unlink()
    else:
        body = bytearray(first.read_bytes())
        body[len(body) // 3] ^= 1
        with first.open("r+b") as file:
            file.write(body)
    runs = []

    async def save_again(found: VerifySummary) -> None:
        runs.append((found, await packed.run()))

    summary = await verify_section(packed.settings, packed.section, read_percent=100, save_again=save_again)
    assert [damage.key for damage in summary.damaged] == [str(first.relative_to(folder_destination))]
    lost = set(summary.damaged[0].paths)
    if action == "delete":
        assert {b"many/0", b"random", b"copy"} <= lost
        assert b"empty" not in lost
        assert b"new" not in lost
    ((_, run),) = runs
    assert run.files_failed == 0
    snapshots = await packed.snapshots()
    assert len(snapshots) == 3
    assert (await look(packed, snapshots[2])).damaged == ()
    refers = {
        (entry.extent.run, entry.extent.key)
        for entry in (await packed.entries()).values()
        if entry.extent is not None
    }
    assert (run_of_first, f"packs/{first.name}") not in refers
    assert picture(await packed.restored(snapshot=snapshots[2])) == picture(packed.tree)
    # What was replaced in the second snapshot cannot come back.
    if b"many/3" in lost:
        assert (b"many/3",) in [damage.paths for damage in summary.lost]
    else:
        assert summary.lost == ()
    again = await packed.run()
    assert (again.bytes_read, again.files_changed) == (0, 0)


@pytest.mark.parametrize("place", [0.02, 0.2, 0.4, 0.6, 0.8, 0.99])
async def test_what_verify_accuses_is_what_restore_cannot_restore(
    packed: Workbench, folder_destination: Path, place: float
) -> None:
    first, second = await packed.snapshots()
    pack = pack_of(first, folder_destination)
    body = bytearray(pack.read_bytes())
    body[int((len(body) - 1) * place)] ^= 4
    with pack.open("r+b") as file:
        file.write(body)
    (damage,) = (await look(packed, second)).damaged
    restored = await packed.restore(packed.base / "restored", snapshot=second)
    assert {failure.path for failure in restored.failures} == set(damage.paths)


async def test_contents_of_a_damaged_mirror_are_not_taken_over_into_packs(
    tmp_path: Path, folder_destination: Path
) -> None:
    """A section that becomes a packed one notes what it holds, but nothing that is damaged."""
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    await bench.initialise()
    bench.write("file", b"content" * 100)
    await bench.run()
    next(folder_destination.rglob("files/file")).unlink()

    async def save_packed(_: VerifySummary) -> None:
        bench.configure(packed=True)
        await bench.run()

    await verify_section(bench.settings, bench.section, save_again=save_packed)
    assert (await look(bench, "latest")).damaged == ()
