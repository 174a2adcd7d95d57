"""Restoring what runs in the packed layout wrote."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from asyncbackup.restore import restore_section
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

KINDS = pytest.mark.parametrize(
    ("zstd_level", "encrypted"),
    [
        pytest.param(0, False, id="plain"),
        pytest.param(3, False, id="zstd"),
        pytest.param(0, True, id="sealed"),
        pytest.param(3, True, id="zstd-sealed"),
    ],
)


def fill(bench: Workbench, *, seed: int) -> None:
    """Small files of all sorts, copies, links, and large files that shrink and that do not."""
    random = Random(seed)
    for folder in ("a", "a/deep", "b"):
        for number in range(80):
            bench.write(f"{folder}/f{number:03}", random.randbytes(number * 100) + b"text " * number * 50)
    for number in range(10):
        bench.write(f"b/copy{number}", (bench.tree / "a/deep/f050").read_bytes())
    os.link(bench.tree / "a/f010", bench.tree / "b/hard")
    (bench.tree / "a/link").symlink_to("f001")
    bench.write("empty", b"")
    bench.write("noise", random.randbytes(6 * MIB))
    bench.write("text", b"".join(b"%d %d\n" % (number, number * seed) for number in range(400_000)))


async def prepared(bench: Workbench, zstd_level: int) -> Workbench:
    bench.configure(packed=True, zstd_level=zstd_level)
    await bench.initialise()
    fill(bench, seed=1)
    return bench


@KINDS
async def test_a_run_comes_back_with_few_requests(
    tmp_path: Path, rclone_s3: S3Endpoint, zstd_level: int, encrypted: bool
) -> None:
    bench = Workbench(
        tmp_path, f"s3://{rclone_s3.fresh_bucket()}/p", s3=rclone_s3.settings(), encrypted=encrypted
    )
    await prepared(bench, zstd_level)
    await bench.run()
    target = tmp_path / "restored"
    summary = await bench.restore(target)
    assert (summary.failures, summary.notes) == ((), ())
    assert picture(target) == picture(bench.tree)
    assert summary.files_restored == 240 + 10 + 1 + 1 + 2
    # Two packs were open at a time; the large files are objects of their own.
    assert summary.requests["GetObject"] <= 2 + 2 * 3 + 2


@KINDS
async def test_each_snapshot_comes_back_whatever_later_runs_did(
    tmp_path: Path, folder_destination: Path, zstd_level: int, encrypted: bool
) -> None:
    bench = await prepared(
        Workbench(tmp_path, f"file://{folder_destination}", encrypted=encrypted), zstd_level
    )
    first = (await bench.run()).snapshot
    before = picture(bench.tree)
    # Another layout and compression for what is new: extents say how each content is stored.
    bench.configure(packed=False, zstd_level=3 - zstd_level)
    for number in range(0, 80, 3):
        bench.write(f"a/f{number:03}", b"new" * number)
    (bench.tree / "b/f001").unlink()
    (bench.tree / "b/f002").rename(bench.tree / "b/moved")
    bench.write("text", b"other " * 500_000)
    second = (await bench.run()).snapshot
    after = picture(bench.tree)
    assert picture(await bench.restored(snapshot=second, name="second")) == after
    assert picture(await bench.restored(snapshot=first, name="first")) == before


async def test_a_few_files_of_a_large_pack_cost_a_few_frames(tmp_path: Path, rclone_s3: S3Endpoint) -> None:
    bench = Workbench(tmp_path, f"s3://{rclone_s3.fresh_bucket()}/p", s3=rclone_s3.settings())
    bench.configure(packed=True, zstd_level=3)
    await bench.initialise()
    random = Random(5)
    for number in range(400):
        bench.write(f"f{number:03}", random.randbytes(20_000))
    run = await bench.run()
    assert run.bytes_uploaded > 8_000_000
    summary = await restore_section(
        bench.settings, bench.section, paths=[b"f005", b"f200", b"f201"], target=tmp_path / "restored"
    )
    assert (summary.failures, summary.files_restored) == ((), 3)
    # Manifest and descriptor, and at most a frame of 512 KiB (and a member over) for each place.
    assert summary.requests["GetObject"] <= 2 + 3
    assert summary.bytes_downloaded < 3 * 600_000
