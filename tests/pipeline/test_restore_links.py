"""Hard links of which some names cannot be restored, or not be linked."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.restore.backup import Backup, snapshot_of

NAMES = ("a/first", "b/second", "b/third", "c/fourth", "c/fifth")


@pytest.fixture
async def backup(tmp_path: Path) -> Backup:
    """Two files with five names each, one of them large."""
    made = Backup(tmp_path)
    await made.create()
    for number, content in enumerate((b"linked", os.urandom(1_500_000))):
        for name in NAMES:
            path = made.source / f"{name}{number}"
            path.parent.mkdir(exist_ok=True)
            if name == NAMES[0]:
                path.write_bytes(content)
            else:
                os.link(made.source / f"{NAMES[0]}{number}", path)
    await made.save_tree()
    return made


async def test_the_next_name_inherits_where_the_first_is_blocked(backup: Backup) -> None:
    (backup.target / "a/first0/inside").mkdir(parents=True)
    (backup.target / "a/first1/inside").mkdir(parents=True)
    summary = await backup.restore()
    assert [failure.path for failure in summary.failures] == [b"a/first0", b"a/first1"]
    assert (summary.files_restored, summary.hardlinks) == (8, 6)
    for number in range(2):
        second = backup.target / f"b/second{number}"
        assert second.stat().st_nlink == 4
        assert second.read_bytes() == (backup.source / f"b/second{number}").read_bytes()
        for name in NAMES[2:]:
            assert (backup.target / f"{name}{number}").samefile(second)
    # Where something failed the manifest is read once more: it may lie elsewhere by now.
    assert summary.requests["GetObject"] == 2 + 2 * 2 + 1


async def test_once_the_way_is_free_the_first_is_restored_too(backup: Backup) -> None:
    (backup.target / "a/first0/inside").mkdir(parents=True)
    await backup.restore()
    shutil.rmtree(backup.target / "a/first0")
    summary = await backup.restore()
    assert summary.failures == ()
    contents = {path: (*entry[:6], entry[7]) for path, entry in snapshot_of(backup.target).items()}
    assert contents == {path: (*entry[:6], entry[7]) for path, entry in snapshot_of(backup.source).items()}


async def test_a_lost_content_is_a_failure_of_every_name(backup: Backup) -> None:
    run = backup.last_run
    assert run is not None
    backup.object_path(run, "a/first0").unlink()
    summary = await backup.restore()
    assert {failure.path for failure in summary.failures} == {f"{name}0".encode() for name in NAMES}
    assert all("files/a/first0" in failure.reason for failure in summary.failures)
    assert (summary.files_restored, summary.files_failed) == (5, 5)
    assert (backup.target / "c/fifth1").stat().st_nlink == 5


async def test_a_link_that_is_there_already_is_left(backup: Backup) -> None:
    await backup.restore()
    before = (backup.target / "c/fifth0").stat()
    summary = await backup.restore(overwrite="changed")
    assert (summary.files_skipped, summary.files_restored) == (10, 0)
    assert (backup.target / "c/fifth0").stat().st_ctime_ns == before.st_ctime_ns


async def test_copies_in_the_place_of_links_become_links(backup: Backup) -> None:
    shutil.copytree(backup.source, backup.target)
    assert (backup.target / "c/fifth0").stat().st_nlink == 1
    assert (await backup.restore()).failures == ()
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


async def test_a_restored_link_does_not_follow_a_symlink_put_in_its_leaders_place(backup: Backup) -> None:
    """Under ``never`` the leader stays what it is; its further names are another file."""
    canary = backup.base / "canary"
    canary.write_text("canary")
    (backup.target / "a").mkdir(parents=True)
    (backup.target / "a/first0").symlink_to(canary)
    summary = await backup.restore(overwrite="never")
    assert summary.failures == ()
    assert (canary.read_text(), canary.stat().st_nlink) == ("canary", 1)
    assert (backup.target / "b/second0").read_text() == "linked"
    assert (backup.target / "b/second0").stat().st_nlink == 4


@pytest.fixture
def other_disk(backup: Backup) -> Iterator[Path]:
    """A file system of its own in the middle of the target."""
    folder = backup.target / "c"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_names_that_cannot_be_linked_become_files_of_their_own(
    backup: Backup, other_disk: Path
) -> None:
    summary = await backup.restore()
    assert summary.failures == ()
    assert summary.notes == (
        "4 hard links became files of their own: the target's file system cannot link them",
    )
    for number in range(2):
        wanted = (backup.source / f"a/first{number}").read_bytes()
        assert (backup.target / f"b/third{number}").stat().st_nlink == 3
        for name in ("fourth", "fifth"):
            assert (other_disk / f"{name}{number}").read_bytes() == wanted
