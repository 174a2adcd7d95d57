"""RESTORE.md in the hands of somebody without asyncbackup: its commands, as they stand in the page that a
run's destination has, bring back what real runs saved there, in every layout."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.restore_page import (
    commands_below,
    do,
    needs_aws,
    needs_getfattr,
    needs_root,
    needs_zstd,
    of_one_run,
)
from tests.workbench import MIB, Workbench, age, picture

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

Picture = dict[bytes, tuple[object, ...]]

TEXT = b"what is said three times is true; "
LATEST = "The latest version of everything"
METADATA = "With times, permissions and owners"

pytestmark = [needs_zstd, needs_root]


class Saved(NamedTuple):
    """A section after two runs, and how its tree looked at each."""

    bench: Workbench
    runs: list[str]
    pictures: list[Picture]
    page: str


def plant(bench: Workbench) -> None:
    """Files of all sizes; what the page says that its commands do not bring back is not among them."""
    bench.write("empty", b"")
    bench.write("docs/small text", TEXT * 9, mode=0o640)
    bench.write("docs/larger text", TEXT * 9000, mode=0o604)
    bench.write("docs/large text", TEXT * 300_000)
    bench.write("docs/random", os.urandom(3 * MIB))
    bench.write('docs/ü 100% "quoted" & more\'s', TEXT * 5000)
    # As zstd begins, and not compressed by us: too short to shrink, and below the limit of packs.
    bench.write("docs/foreign", bytes.fromhex("28b52ffd") + os.urandom(40))
    bench.write("docs/foreign and large", bytes.fromhex("28b52ffd") + os.urandom(MIB))
    bench.write("-dash", b"dash")
    (bench.tree / "docs/link").symlink_to("small text")
    os.chown(bench.tree / "docs/larger text", 1234, 4321)
    for path in bench.tree.rglob("*"):
        age(path, seconds=10**6)


def change(bench: Workbench) -> None:
    bench.write("docs/large text", TEXT * 200_000 + b"changed")
    bench.write("docs/small text", b"changed")
    bench.write("new/text", TEXT * 8000)
    (bench.tree / "docs/link").unlink()
    (bench.tree / "docs/link").symlink_to("../new")


def files(looks: Picture) -> dict[bytes, object]:
    """The contents of the regular files of a picture."""
    return {path: look[5] for path, look in looks.items() if stat.S_ISREG(int(str(look[0])))}


def links(looks: Picture) -> dict[bytes, object]:
    """The targets of its symlinks."""
    return {path: look[5] for path, look in looks.items() if stat.S_ISLNK(int(str(look[0])))}


def seconds(look: tuple[object, ...]) -> int:
    """The whole seconds of an entry's time: all that tar keeps without being asked for more."""
    return int(str(look[3])) // 10**9


async def save_twice(bench: Workbench, layout: str) -> tuple[list[str], list[Picture]]:
    """``(runs, pictures)`` of two runs."""
    layout, _, compression = layout.partition("-")
    bench.configure(
        packed=layout == "packed", pack_below_bytes=100_000, zstd_level=3 if compression == "zstd" else 0
    )
    await bench.initialise()
    runs, pictures = [], []
    for make in (plant, change):
        make(bench)
        summary = await bench.run()
        assert not summary.failures
        runs.append(summary.snapshot)
        pictures.append(picture(bench.tree))
    return runs, pictures


@pytest.fixture(params=["mirror-plain", "mirror-zstd", "packed-plain", "packed-zstd"])
async def in_bucket(request: pytest.FixtureRequest, tmp_path: Path, seaweed_s3: S3Endpoint) -> Saved:
    bucket = seaweed_s3.fresh_bucket()
    bench = Workbench(tmp_path, f"s3://{bucket}/some prefix/backups", s3=seaweed_s3.settings())
    runs, pictures = await save_twice(bench, request.param)
    client = seaweed_s3.client()
    try:
        page = client.get_object(Bucket=bucket, Key="some prefix/backups/RESTORE.md")["Body"].read()
    finally:
        client.close()
    return Saved(bench, runs, pictures, page.decode())


@pytest.fixture(params=["mirror-plain", "mirror-zstd", "packed-plain", "packed-zstd"])
async def in_folder(request: pytest.FixtureRequest, tmp_path: Path, folder_destination: Path) -> Saved:
    destination = folder_destination / "my disk's 100%25 #1 backups"
    destination.mkdir()
    bench = Workbench(tmp_path, f"file://{destination}")
    runs, pictures = await save_twice(bench, request.param)
    return Saved(bench, runs, pictures, (destination / "RESTORE.md").read_text())


@needs_aws
def test_one_file_with_aws(in_bucket: Saved, seaweed_s3: S3Endpoint, tmp_path: Path) -> None:
    commands = commands_below(in_bucket.page, "One file").replace("RUN", in_bucket.runs[0])
    if not in_bucket.bench.section.packed:
        commands = "\n".join(line for line in commands.splitlines() if "/packs/" not in line)
    elif not in_bucket.bench.section.zstd_level:
        commands = commands.replace(".tar.zst", ".tar").replace("zstd -dc", "cat")
    do(commands.replace("report.pdf", "random"), tmp_path / "one", endpoint=seaweed_s3)
    assert (tmp_path / "one/random").read_bytes() == in_bucket.pictures[0][b"docs/random"][5]


@needs_aws
def test_with_aws_and_tar(in_bucket: Saved, seaweed_s3: S3Endpoint, tmp_path: Path) -> None:
    commands = commands_below(in_bucket.page, LATEST)
    do(commands, tmp_path / "all", endpoint=seaweed_s3)
    restored = picture(tmp_path / "all/restored")
    assert files(restored) | links(restored) == saved_of(in_bucket, 1)
    do(of_one_run(commands, in_bucket.runs[0]), tmp_path / "one", endpoint=seaweed_s3)
    restored = picture(tmp_path / "one/restored")
    assert files(restored) | links(restored) == saved_of(in_bucket, 0)


@needs_aws  # for what is compressed
def test_with_rclone_and_tar(in_bucket: Saved, seaweed_s3: S3Endpoint, tmp_path: Path) -> None:
    setup = commands_below(in_bucket.page, LATEST).partition("for run in ")[0]
    commands = setup + commands_below(in_bucket.page, METADATA)
    do(commands, tmp_path / "all", endpoint=seaweed_s3, strict=False)
    restored = picture(tmp_path / "all/restored")
    assert files(restored) | links(restored) == saved_of(in_bucket, 1)
    for path in files(in_bucket.pictures[1]):
        assert restored[path][:4] == in_bucket.pictures[1][path][:4], "mode, owners and time"


def test_one_file_from_a_folder(in_folder: Saved, tmp_path: Path) -> None:
    commands = commands_below(in_folder.page, "One file").replace("RUN", in_folder.runs[0])
    if not in_folder.bench.section.packed:
        commands = "\n".join(line for line in commands.splitlines() if "/packs/" not in line)
    elif not in_folder.bench.section.zstd_level:
        commands = commands.replace(".tar.zst", ".tar").replace("zstd -dc", "cat")
    do(commands.replace("report.pdf", "random"), tmp_path / "one")
    assert (tmp_path / "one/random").read_bytes() == in_folder.pictures[0][b"docs/random"][5]


@needs_getfattr
def test_with_tar_from_a_folder(in_folder: Saved, tmp_path: Path) -> None:
    commands = commands_below(in_folder.page, LATEST)
    assert do(commands, tmp_path / "all") == ""
    restored = picture(tmp_path / "all/restored")
    assert files(restored) | links(restored) == saved_of(in_folder, 1)
    for path in files(in_folder.pictures[1]):
        assert seconds(restored[path]) == seconds(in_folder.pictures[1][path])
    assert do(of_one_run(commands, in_folder.runs[0]), tmp_path / "one") == ""
    restored = picture(tmp_path / "one/restored")
    assert files(restored) | links(restored) == saved_of(in_folder, 0)


def saved_of(saved: Saved, number: int) -> dict[bytes, object]:
    """What the page promises: contents, and the symlinks of packs; those of a mirror are empty files."""
    looks = saved.pictures[number]
    targets = links(looks)
    return files(looks) | (targets if saved.bench.section.packed else dict.fromkeys(targets, b""))


def test_the_script_from_the_page(in_folder: Saved, tmp_path: Path) -> None:
    commands = commands_below(in_folder.page, "Exactly one snapshot")
    assert do(commands, tmp_path / "by script") == ""
    assert picture(tmp_path / "by script/restored") == in_folder.pictures[1]
