"""(a) Restores and prunes killed anywhere: a path holds what it held or what it shall hold."""

from __future__ import annotations

import os
import random
import shutil
import stat
from itertools import count
from typing import TYPE_CHECKING

import pytest

from asyncbackup.pipeline import attributes
from tests.battery.crash_bench import MOMENTS, DoomedProcess
from tests.battery.invariants import check_invariants, check_restores
from tests.battery.selection import FULL, selected
from tests.battery.syscalls import killed_at, needs_strace
from tests.prunes import forget, prune
from tests.workbench import MIB, Workbench, age, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.invariants import Picture
    from tests.battery.score import Score
    from tests.servers import S3Endpoint

LAYOUTS = ("mirror", "packed")
RESTORE_REQUESTS = {"mirror": 35, "packed": 7}
PRUNE_REQUESTS = {"mirror": 23, "packed": 33}
"""A kill that does not come because there are fewer fails its test."""
SYSCALLS = {
    "mkdirat,mkdir": "folders",
    "pwrite64,write": "contents",
    "fchown,lchown,fchownat": "owners",
    "fchmod,fchmodat": "modes",
    "fsetxattr,lsetxattr,setxattr": "attributes",
    "utimensat": "times",
    "rename,renameat,renameat2": "names",
    "linkat,symlinkat": "links",
    "unlink,unlinkat,rmdir": "removals",
}


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


async def fill(bench: Workbench, *, with_large: bool) -> None:
    chosen = random.Random(7)
    for number in range(30):
        path = bench.write(f"d{number % 4}/f{number:02}", chosen.randbytes(number * 300 + 1))
        os.setxattr(path, "user.number", b"%d" % number)
        age(path, seconds=number + 10**6)
    os.link(bench.tree / "d0/f04", bench.tree / "d1/linked")
    (bench.tree / "d2/link").symlink_to("f02")
    if with_large:
        bench.write("large", chosen.randbytes(5 * MIB + 1234))
    await bench.initialise()
    await bench.run()


def old_target(bench: Workbench) -> Path:
    """A target where every other file stands in an older version, and one that is not in the snapshot."""
    target = bench.base / "target"
    for number in range(0, 30, 2):
        path = target / f"d{number % 4}/f{number:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old" * (number + 1))
        os.utime(path, (10**9, 10**9))
    (target / "mine").write_bytes(b"not in the snapshot")
    os.utime(target / "mine", (10**9, 10**9))
    return target


def check_target(target: Path, old: Picture, wanted: Picture) -> None:
    """Each path is absent, as it was or complete."""
    for name, found in (picture(target) if target.exists() else {}).items():
        mode = found[0]
        assert isinstance(mode, int)
        if stat.S_ISDIR(mode) or os.path.basename(name).startswith(b".asyncbackup-restore-"):
            continue
        # How many names an inode has depends on how far the links came.
        unlinked = [entry[:4] + entry[5:] for entry in (old.get(name), wanted.get(name)) if entry]
        assert found[:4] + found[5:] in unlinked, name


async def finish(bench: Workbench, target: Path, old: Picture, wanted: Picture) -> None:
    """The same restore once more makes up for everything."""
    summary = await bench.restore(target)
    assert summary.failures == ()
    restored = picture(target)
    assert restored.pop(b"mine") == old[b"mine"]
    assert restored == wanted
    await check_invariants(bench)


@pytest.mark.parametrize(
    ("layout", "moment", "request_number"),
    selected(
        ((a, b, c) for a in LAYOUTS for c in range(RESTORE_REQUESTS[a]) for b in MOMENTS),
        2,
        name="restores",
    ),
)
async def test_a_restore_killed_at_a_request(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, layout: str, moment: str, request_number: int
) -> None:
    bench = Workbench(tmp_path, f"s3://{rclone_s3.fresh_bucket()}/prefix", s3=rclone_s3.settings())
    bench.configure(packed=layout == "packed")
    await fill(bench, with_large=True)
    target, wanted = old_target(bench), picture(bench.tree)
    old = picture(target)
    doomed = DoomedProcess(bench, score, "restore", "home", "--target", str(target))
    await doomed.at(rclone_s3, request_number, moment)
    check_target(target, old, wanted)
    await finish(bench, target, old, wanted)


@needs_strace
@pytest.mark.parametrize(
    ("layout", "calls"), selected(((a, b) for a in LAYOUTS for b in SYSCALLS), 4, name="calls")
)
async def test_a_restore_killed_at_a_system_call(
    tmp_path: Path, folder_destination: Path, score: Score, layout: str, calls: str
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    bench.configure(packed=layout == "packed")
    await fill(bench, with_large=False)
    target, wanted = old_target(bench), picture(bench.tree)
    old = picture(target)
    arguments = ["-c", str(bench.config_file()), "--quiet", "restore", "home", "--target", str(target)]
    for number in count(1) if FULL else (1,):
        killed = killed_at(arguments, calls, number, score)
        check_target(target, old, wanted)
        if not killed:
            break
        if number % 3 == 0:  # Others go on where the last one was killed.
            shutil.rmtree(target)
            assert old_target(bench) == target
    assert score.kills, f"nothing was killed at {SYSCALLS[calls]}"
    await finish(bench, target, old, wanted)


@pytest.mark.parametrize(
    ("layout", "moment", "request_number"),
    selected(
        ((a, b, c) for a in LAYOUTS for c in range(PRUNE_REQUESTS[a]) for b in MOMENTS), 2, name="prunes"
    ),
)
async def test_a_prune_killed_at_a_request(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, layout: str, moment: str, request_number: int
) -> None:
    bench = Workbench(tmp_path, f"s3://{rclone_s3.fresh_bucket()}/prefix", s3=rclone_s3.settings())
    bench.configure(packed=layout == "packed")
    await fill(bench, with_large=True)
    chosen = random.Random(8)
    kept: dict[str, Picture] = {}
    for generation in range(4):
        for number in range(0, 30, 1 + generation):
            bench.write(f"d{number % 4}/f{number:02}", chosen.randbytes(2000))
        snapshot = (await bench.run()).snapshot
        if generation % 2:
            kept[snapshot] = picture(bench.tree)
    await forget(bench, *(run for run in await bench.snapshots() if run not in kept))
    await DoomedProcess(bench, score, "prune", "home").at(rclone_s3, request_number, moment)
    for snapshot, looked in kept.items():
        await check_restores(bench, snapshot, looked)
    await prune(bench)
    assert sorted(await bench.snapshots()) == sorted(kept)
    await check_invariants(bench, earlier=kept)
