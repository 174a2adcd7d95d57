"""(c) Strange names, times, holes, links and attributes: in every layout they come back as they were."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from asyncbackup.restore import restore_section
from asyncbackup.verify.section import verify_section
from tests.battery.disks import mounted_tmpfs
from tests.battery.invariants import check_invariants
from tests.battery.selection import FULL, selected
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.score import Score

LAYOUTS = ("mirror", "packed", "compressed", "sealed", "hidden")
NAMES = [
    b"n" * 255,
    "ü".encode() * 127,
    b"\xff",
    b"\xff" * 255,
    b"\xed\xa0\x80 surrogate",
    b"new\nline",
    b"carriage\rreturn",
    b"\x1b[31mred\x1b[0m",
    b"\x01\x7f\xc2\x85",
    "\u202egnp.exe".encode(),
    "caf\u00e9".encode(),
    "cafe\u0301".encode(),
    b"\xfe\xcc\x81",
    b"Case",
    b"case",
    b"CASE",
    b"trailing.",
    b"trailing ",
    b" leading",
    b"%2F",
    b"%",
    b"%%41",
    b"100%",
    b"50%ab",
    b"..foo",
    b"...",
    b".asyncbackup-references",
    b".asyncbackup-tmp-1-deadbeef",
    b"asyncbackup.json",
    b"a\\b",
    b"a//b".replace(b"/", b":"),
    b"-rf",
    b"~",
    b"$HOME `id` ;|&'\"",
    b"*?[x]",
    "\U0001f4be".encode(),
    "\ufffe\uffff".encode(),
    b"nul",
    b"aux.txt",
]
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, who)
    for tag, rights, who in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 7, 12345),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)
"""``user:12345:rwx`` beside the usual three, as the kernel keeps it."""
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""``cap_net_bind_service=ep``."""


def make_bench(base: Path, destination: Path, layout: str) -> Workbench:
    bench = Workbench(base, f"file://{destination}", encrypted=layout in ("sealed", "hidden"))
    bench.configure(packed=layout in ("packed", "hidden"), zstd_level=1 if layout == "compressed" else 0)
    if layout == "hidden":
        encryption = bench.section.encryption
        bench.configure(encryption=type(encryption)(
            enabled=True, passphrase_file=encryption.passphrase_file, hide_names=True
        ))  # fmt: skip
    return bench


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_every_name_comes_back(
    tmp_path: Path, folder_destination: Path, score: Score, layout: str
) -> None:
    bench = make_bench(tmp_path, folder_destination, layout)
    for number, name in enumerate(NAMES):
        bench.write(name, b"%d" % number)
        bench.write(b"folders/" + name + b"/" + name, b"in a folder %d" % number)
        link = os.path.join(os.fsencode(bench.tree), b"links", name)
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(name, link)
        score.names += 3
    long = b"/".join([b"d" * 200] * 7)
    bench.write(long + b"/key over 1024 bytes", b"long")
    await bench.initialise()
    await check_invariants(bench)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_path_longer_than_the_system_takes(
    tmp_path: Path, folder_destination: Path, layout: str
) -> None:
    bench = make_bench(tmp_path, folder_destination, layout)
    segment, depth = "s" * 200, 25

    def at_the_bottom(root: Path, *, make: bool) -> list[tuple[str, bytes]]:
        descriptor = os.open(root, os.O_RDONLY)
        try:
            for _ in range(depth):
                if make:
                    os.mkdir(segment, dir_fd=descriptor)
                deeper = os.open(segment, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = deeper
            if make:
                file = os.open("file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=descriptor)
                os.write(file, b"at the bottom")
                os.close(file)
            found = []
            for name in os.listdir(descriptor):
                file = os.open(name, os.O_RDONLY, dir_fd=descriptor)
                found.append((name, os.read(file, 100)))
                os.close(file)
            return found
        finally:
            os.close(descriptor)

    at_the_bottom(bench.tree, make=True)
    await bench.initialise()
    assert (await bench.run()).failures == ()
    assert (await verify_section(bench.settings, bench.section, read_percent=100)).damaged == ()
    target = await bench.restored()
    assert at_the_bottom(target, make=False) == [("file", b"at the bottom")]
    again = await bench.run()
    assert again.files_unchanged == again.files_scanned == 1
    for folder in (bench.tree, target):
        # pytest's own tidying up takes whole paths.
        subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 2, name="sparse"))
async def test_files_with_holes(tmp_path: Path, folder_destination: Path, layout: str) -> None:
    bench = make_bench(tmp_path, folder_destination, layout)
    sizes = {"small": 300_000, "large": (2048 if FULL else 80) * MIB}
    for name, size in sizes.items():
        with bench.write(name, b"begin").open("r+b") as file:
            file.seek(size // 2)
            file.write(b"in the middle")
            file.truncate(size)
    await bench.initialise()
    await check_invariants(bench) if not FULL else await bench.run()
    target = await bench.restored()
    for name, size in sizes.items():
        status = (target / name).stat()
        assert status.st_size == size
        assert status.st_blocks * 512 <= (bench.tree / name).stat().st_blocks * 512 + 8192
        with (target / name).open("rb") as file:
            assert file.read(6) == b"begin\0"
            file.seek(size // 2)
            assert file.read(14) == b"in the middle\0"


@pytest.mark.parametrize("layout", selected(LAYOUTS, 2, name="links"))
async def test_many_names_of_one_inode(tmp_path: Path, folder_destination: Path, layout: str) -> None:
    bench = make_bench(tmp_path, folder_destination, layout)
    count = 10_000 if FULL else 300
    first = bench.write("d0/first", b"one content of many names")
    for number in range(1, count):
        folder = bench.tree / f"d{number % 10}"
        folder.mkdir(exist_ok=True)
        os.link(first, folder / f"n{number:05}")
    await bench.initialise()
    summary = await bench.run()
    assert (summary.files_new, summary.failures) == (count, ())
    target = await bench.restored()
    inodes = {path.stat().st_ino for path in target.rglob("*") if path.is_file()}
    assert len(inodes) == 1
    assert (target / "d0/first").stat().st_nlink == count
    assert (target / "d0/first").read_bytes() == b"one content of many names"
    shutil.rmtree(target)
    await check_invariants(bench)


@pytest.mark.parametrize("layout", selected(LAYOUTS, 2, name="attributes"))
async def test_attributes_lists_capabilities_and_set_user_id(
    tmp_path: Path, folder_destination: Path, layout: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away and sets capabilities")
    bench = make_bench(tmp_path, folder_destination, layout)
    for size in (10, 6 * MIB):
        file = bench.write(f"file{size}", bytes(range(256)) * (size // 256 + 1))
        os.setxattr(file, "user.text", b"text")
        os.setxattr(file, "user.binary", bytes(range(256)))
        os.setxattr(file, "system.posix_acl_access", ACL)
        tool = bench.write(f"tool{size}", b"#!/bin/sh\n" * (size // 10))
        os.chown(tool, 12345, 54321)
        os.setxattr(tool, "security.capability", CAPABILITY)
        setuid = bench.write(f"setuid{size}", b"x" * size)
        os.chown(setuid, 12345, 54321)
        setuid.chmod(0o6755)
    folder = bench.tree / "folder"
    folder.mkdir()
    os.setxattr(folder, "system.posix_acl_default", ACL)
    folder.chmod(0o3777)
    await bench.initialise()
    assert (await bench.run()).failures == ()
    plain = tmp_path / "plain"
    summary = await bench.restore(plain)
    assert summary.failures == ()
    assert sum(note.startswith("2 ") and "--privileged" in note for note in summary.notes) == 2
    target = tmp_path / "privileged"
    summary = await restore_section(bench.settings, bench.section, target=target, privileged=True)
    assert summary.failures == ()
    assert picture(target) == picture(bench.tree)
    for size in (10, 6 * MIB):
        found = (target / f"setuid{size}").stat()
        assert found.st_mode & stat.S_ISUID, "with its owner; set after it, or it would be gone"
        found = (plain / f"setuid{size}").stat()
        assert stat.S_IMODE(found.st_mode) == 0o755, "only when asked for"
        assert (found.st_uid, found.st_gid) == (12345, 54321)
        assert "security.capability" not in os.listxattr(plain / f"tool{size}")
        assert os.getxattr(plain / f"file{size}", "system.posix_acl_access") == ACL
    again = await bench.run()
    assert (again.files_unchanged, again.bytes_uploaded) == (again.files_scanned, 0)
    assert (await verify_section(bench.settings, bench.section)).damaged == ()


@pytest.mark.parametrize("layout", selected(LAYOUTS, 2, name="times"))
async def test_times_of_any_century(tmp_path: Path, layout: str) -> None:
    with mounted_tmpfs(tmp_path / "disk", size="64m") as disk:
        (disk / "destination").mkdir()
        bench = make_bench(disk, disk / "destination", layout)
        for number, seconds in enumerate((-(2**33), -62_135_596_800, -1, 0, 15_032_385_536, 253_402_300_800)):
            for nanoseconds in (0, 1, 999_999_999):
                path = bench.write(f"f{number}-{nanoseconds}", b"content")
                when = seconds * 10**9 + nanoseconds
                os.utime(path, ns=(when, when))
                if path.stat().st_mtime_ns != when:
                    pytest.skip("this kernel's tmpfs does not keep such times")
        await bench.initialise()
        await check_invariants(bench)
