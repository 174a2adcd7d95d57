"""(c) Sources that change or fail while they are read: one consistent version, or a named failure."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import SourceGuardError
from tests.battery.disks import mounted_tmpfs
from tests.battery.invariants import check_invariants
from tests.battery.score import Score, ScoredProxy
from tests.battery.selection import selected
from tests.battery.syscalls import injected, needs_strace
from tests.contract.backends import pattern
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from tests.servers import S3Endpoint
    from tests.servers.proxy import Exchange

LAYOUTS = ("mirror", "packed", "sealed")
OLD = pattern(16 * MIB + 5, seed=1)
NEW = pattern(16 * MIB + 5, seed=2)


def grow(path: Path) -> bytes | None:
    with path.open("ab") as file:
        file.write(b"more")
    return OLD + b"more"


def shrink(path: Path) -> bytes | None:
    os.truncate(path, 9 * MIB)
    return OLD[: 9 * MIB]


def replace(path: Path) -> bytes | None:
    beside = path.with_name("beside")
    beside.write_bytes(NEW)
    beside.replace(path)
    return NEW


def vanish(path: Path) -> bytes | None:
    path.unlink()
    return None


def rewrite(path: Path) -> bytes | None:
    status = path.stat()
    with path.open("r+b") as file:
        file.write(NEW)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return NEW


CHANGES: dict[str, Callable[[Path], bytes | None]] = {
    "grows": grow,
    "shrinks": shrink,
    "is replaced": replace,
    "vanishes": vanish,
    "is rewritten, its mtime put back": rewrite,
}


@pytest.mark.parametrize(
    ("change", "often"), selected(((a, b) for a in CHANGES for b in (False, True)), 3, name="changes")
)
async def test_a_large_file_that_changes_while_it_is_read(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, change: str, often: bool
) -> None:
    bench = Workbench(tmp_path, f"s3://{rclone_s3.fresh_bucket()}/prefix", s3=rclone_s3.settings())
    bench.settings = msgspec.structs.replace(bench.settings, concurrency=1, memory_limit_bytes=10 * MIB)
    path = bench.write("large", OLD)
    bench.write("other", b"content")
    await bench.initialise()
    versions: list[bytes | None] = [OLD]

    async def act(exchange: Exchange) -> None:
        # 16 MiB do not fit into memory: not all of it was read when the first part arrives.
        if path.exists():
            versions.append(CHANGES[change](path))
        await exchange.pass_on(await exchange.forward())

    async with ScoredProxy(rclone_s3.url, score) as proxy:
        proxy.plan("UploadPart", act, times=0 if often else 1)
        direct = bench.settings
        s3 = rclone_s3.settings(endpoint_url=proxy.url)
        bench.settings = msgspec.structs.replace(direct, s3=s3)
        summary = await bench.run()
        bench.settings = direct
    named = {failure.path for failure in summary.failures}
    assert named <= {b"large"}
    restored = await bench.restored()
    assert (restored / "other").read_bytes() == b"content"
    if named:
        assert not (restored / "large").exists(), "nothing rather than a mixture"
    elif (restored / "large").exists():
        assert (restored / "large").read_bytes() in versions
    else:
        assert None in versions
    await check_invariants(bench)


@needs_strace
@pytest.mark.parametrize(
    ("layout", "size"), selected(((a, b) for a in LAYOUTS for b in (5000, 11 * MIB)), 2, name="errors")
)
async def test_a_disk_error_while_a_file_is_read(
    tmp_path: Path, folder_destination: Path, layout: str, size: int
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=layout == "sealed")
    bench.configure(packed=layout == "packed")
    await bench.initialise()
    bench.write("good", b"content")
    bad = bench.write("bad", pattern(size))
    arguments = ["-c", str(bench.config_file()), "run"]
    ended = injected(arguments, "read,pread64,preadv,readv", "error=EIO:when=1+", paths=[bad])
    assert ended.returncode == 3, ended.stderr
    assert "bad" in ended.stdout + ended.stderr
    assert "Input/output error" in ended.stdout + ended.stderr
    assert set(await bench.entries()) == {b"", b"good"}, "nothing is filled with zeros"
    await check_invariants(bench)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="unmounted"))
async def test_a_source_that_is_not_mounted_any_more(
    tmp_path: Path, folder_destination: Path, layout: str
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=layout == "sealed")
    bench.configure(packed=layout == "packed")
    await bench.initialise()
    with mounted_tmpfs(bench.tree, size="4m"):
        for number in range(10):
            bench.write(f"f{number}", b"content")
        earlier = {(await bench.run()).snapshot: picture(bench.tree)}
    with pytest.raises(SourceGuardError, match="empty"):
        await bench.run()
    assert await bench.snapshots() == list(earlier)
    bench.configure(allow_empty_source=True)
    await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="special"))
async def test_special_files_and_links_that_lead_in_circles(
    tmp_path: Path, folder_destination: Path, score: Score, layout: str
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=layout == "sealed")
    bench.configure(packed=layout == "packed")
    await bench.initialise()
    bench.write("d/file", b"content")
    (bench.tree / "d/here").symlink_to(".")
    (bench.tree / "d/up").symlink_to("..")
    (bench.tree / "one").symlink_to("other")
    (bench.tree / "other").symlink_to("one")
    (bench.tree / "device").symlink_to("/dev/zero")
    wanted = picture(bench.tree)
    os.mkfifo(bench.tree / "d/fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        folder = os.open(bench.tree, os.O_RDONLY)
        try:
            listening.bind(f"/proc/self/fd/{folder}/socket")
        finally:
            os.close(folder)
    ignored = 2
    if os.geteuid() == 0:
        os.mknod(bench.tree / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(bench.tree / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
        ignored = 4
    summary = await bench.run()
    assert (summary.files_ignored, summary.failures) == (ignored, ())
    assert summary.symlinks == 5
    score.names += 5 + ignored
    for name in ("d/fifo", "socket", "zero", "disk"):
        (bench.tree / name).unlink(missing_ok=True)
    restored = picture(await bench.restored())
    for folder_name in (b".", b"d"):
        # Taking the special files away has moved the times of their folders.
        assert restored.pop(folder_name)[0] == wanted.pop(folder_name)[0]
    assert restored == wanted
    shutil.rmtree(tmp_path / "restored")
    await check_invariants(bench)
