"""Packed runs whose frames are made by the process that read their members (``tests/side.py``)."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from asyncbackup.pipeline.reading_process import MEMORY_BYTES, serve_reads
from asyncbackup.pipeline.side_work import SideWorker
from tests.side import dying_side_thread, side_thread
from tests.workbench import Workbench

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.pipeline.pack_wire import FramesReply, FramesRequest


@pytest.fixture(params=["plain", "zstd", "sealed"])
async def packed(request: pytest.FixtureRequest, tmp_path: Path, folder_destination: Path) -> Workbench:
    """A packed section, in each way in which packs are stored, with packs of 4 MiB."""
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=request.param == "sealed")
    bench.configure(packed=True, zstd_level=0 if request.param == "plain" else 3)
    await bench.initialise()
    return bench


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[FramesReply]:
    """What the other side answered when it was asked for frames."""
    given: list[FramesReply] = []
    frames = SideWorker.frames

    def noting(self: SideWorker, asked: FramesRequest, view: memoryview) -> FramesReply:
        given.append(frames(self, asked, view))
        return given[-1]

    monkeypatch.setattr(SideWorker, "frames", noting)
    return given


def fill(bench: Workbench) -> None:
    """1,300 files of 16 MB: words, noise, further names, copies that are alike and such that are not."""
    for folder in range(13):
        for number in range(100):
            content = b"%d words of folder %d " % (number, folder) * 300 + os.urandom(50 * number)
            bench.write(f"{folder}/{number}", content)
    tree = bench.tree
    for number in range(30):
        os.link(tree / f"3/{number}", tree / f"9/name of {number}")
        os.link(tree / f"4/{number}", tree / f"4/name of {number}")
        (tree / f"5/copy of {number}").write_bytes((tree / f"5/{number}").read_bytes())
        (tree / f"6/private copy of {number}").write_bytes((tree / f"5/{number}").read_bytes())
        (tree / f"6/private copy of {number}").chmod(0o600)
        (tree / f"7/link to {number}").symlink_to(f"../5/{number}")
    (tree / "empty").touch()


async def same(bench: Workbench) -> None:
    restored = await bench.restored()
    compared = subprocess.run(
        ["rsync", "-aHAXn", "--checksum", "--itemize-changes", "--delete", f"{bench.tree}/", f"{restored}/"],
        check=True,
        capture_output=True,
    )
    assert compared.stdout == b""


async def test_frames_made_beside_restore_to_the_tree(packed: Workbench, replies: list[FramesReply]) -> None:
    fill(packed)
    with side_thread(serve_reads, memory_bytes=MEMORY_BYTES) as process:
        summary = await packed.run(reading=process)
        assert not process.retired
    assert not summary.failures
    assert replies
    assert all(reply.made for reply in replies)
    assert summary.peak_inflight_bytes <= packed.settings.memory_limit_bytes
    await same(packed)
    assert (await packed.run()).files_unchanged == summary.files_new


@pytest.mark.parametrize("answers", [0, 1, 2, 3, 5, 8])
async def test_a_process_that_dies_costs_nothing(packed: Workbench, answers: int) -> None:
    """Whichever batch it reads or makes frames of."""
    fill(packed)
    with dying_side_thread(serve_reads, memory_bytes=MEMORY_BYTES, after=answers) as process:
        summary = await packed.run(reading=process)
        assert process.retired
    assert not summary.failures
    await same(packed)


async def test_few_changes_are_packed_without_it(packed: Workbench, replies: list[FramesReply]) -> None:
    packed.write("one", b"content")
    with side_thread(serve_reads, memory_bytes=MEMORY_BYTES) as process:
        await packed.run(reading=process)
    assert not replies
    await same(packed)
