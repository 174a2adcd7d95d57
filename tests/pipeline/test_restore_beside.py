"""Restoring with a process beside that writes small files: the same tree, whatever becomes of it.

The process is a thread here (``tests/side.py``); one that is forked is in ``tests/cli``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import TargetError
from asyncbackup.restore import side_writer, transfer
from asyncbackup.restore.restorer import Restorer
from asyncbackup.restore.side_writer import SLOT_BYTES, SLOTS, serve_writes
from tests.pipeline.test_restore_packs import KINDS, backup_of, fill
from tests.side import dying_side_thread, side_thread
from tests.unit.restore.backup import Backup, read_tree, snapshot_of
from tests.unit.restore.packs import save_packed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.model import RunId

MEMORY_BYTES = SLOTS * SLOT_BYTES
LAYOUTS = ["mirror", "sealed mirror", *KINDS]


def is_sealed(layout: str | tuple[bool, bool]) -> bool:
    return layout == "sealed mirror" if isinstance(layout, str) else layout[1]


async def save(backup: Backup, layout: str | tuple[bool, bool]) -> RunId:
    if isinstance(layout, str):
        return await backup.save_tree()
    return await save_packed(backup, compressed=layout[0])


def damage(stored: Path) -> None:
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)


@pytest.fixture
def process() -> Iterator[SideProcess]:
    with side_thread(serve_writes, memory_bytes=MEMORY_BYTES) as process:
        yield process


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dies", [False, True])
async def test_a_tree_comes_back(
    tmp_path: Path, layout: str | tuple[bool, bool], dies: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backup = await backup_of(tmp_path, encrypted=is_sealed(layout))
    fill(backup.source)
    await save(backup, layout)
    made = (
        dying_side_thread(serve_writes, memory_bytes=MEMORY_BYTES, after=1)
        if dies
        else side_thread(serve_writes, memory_bytes=MEMORY_BYTES)
    )
    caplog.set_level("DEBUG", logger="asyncbackup")
    with made as process:
        summary = await backup.restore(writing=process)
    assert (summary.failures, summary.notes) == ((), ())
    assert (summary.files_restored, summary.hardlinks, summary.symlinks) == (323, 1, 1)
    assert snapshot_of(backup.target) == snapshot_of(backup.source)
    assert (backup.target / "sparse").stat().st_blocks * 512 < 310_000
    assert ("this one does its work itself" in caplog.text) == dies
    assert not any(name.startswith(".asyncbackup") for name in os.listdir(backup.target))
    if not dies:
        assert "has answered 0 times" not in caplog.text


async def test_contents_that_have_no_room_come_in_parts(
    tmp_path: Path, process: SideProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Twelve times the memory of one call, expanded from a few kilobytes in one span."""
    backup = await backup_of(tmp_path)
    for number in range(60):
        (backup.source / f"f{number:02}").write_bytes(b"%02d" % number * 400_000)
    await save_packed(backup, compressed=True)
    caplog.set_level("DEBUG", logger="asyncbackup")
    summary = await backup.restore(writing=process)
    assert summary.failures == ()
    assert snapshot_of(backup.target) == snapshot_of(backup.source)
    for_the_manifest, for_the_files = answers(caplog.text)
    assert for_the_manifest > 0
    assert for_the_files > 5


def answers(log: str) -> list[int]:
    """How often the process answered for the manifest, and for the files."""
    return [int(count) for count in re.findall(r"has answered (\d+) times", log)]


async def test_what_was_opened_and_cannot_be_written_beside_is_written_here(
    tmp_path: Path, process: SideProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """With a damaged file among the others of the batch that the process dies of."""
    backup = await backup_of(tmp_path, encrypted=True)
    for number in range(10):
        (backup.source / f"f{number}").write_bytes(b"%d" % number * 1000)
    run = await backup.save_tree()
    caplog.set_level("DEBUG", logger="asyncbackup")
    await backup.restore(writing=process)
    parsed, written = answers(caplog.text)
    assert written == 2, "a batch, and the end"
    shutil.rmtree(backup.target)
    damage(backup.object_path(run, "f3"))
    with dying_side_thread(serve_writes, memory_bytes=MEMORY_BYTES, after=parsed) as dying:
        summary = await backup.restore(writing=dying)
    assert answers(caplog.text)[2:] == [parsed, 0]
    assert [failure.path for failure in summary.failures] == [b"f3"]
    assert sorted(path.name for path in backup.target.iterdir()) == [f"f{n}" for n in range(10) if n != 3]
    assert (backup.target / "f9").read_bytes() == b"9" * 1000


async def test_what_has_no_room_when_opened_is_written_here(
    tmp_path: Path,
    process: SideProcess,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "SLOT_BYTES", 9999)
    backup = await backup_of(tmp_path, encrypted=True)
    for number in range(10):
        (backup.source / f"f{number}").write_bytes(b"%d" % number * 1000)
    await backup.save_tree()
    caplog.set_level("DEBUG", logger="asyncbackup")
    summary = await backup.restore(writing=process)
    assert summary.failures == ()
    assert snapshot_of(backup.target) == snapshot_of(backup.source)
    assert answers(caplog.text)[1] == 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dies", [False, True])
async def test_what_is_damaged_is_named_once_and_the_rest_restored(
    tmp_path: Path, layout: str | tuple[bool, bool], dies: bool
) -> None:
    backup = await backup_of(tmp_path, encrypted=is_sealed(layout))
    fill(backup.source)
    run = await save(backup, layout)
    if isinstance(layout, str):
        damage(backup.object_path(run, "a/f077"))
    else:
        damage(sorted(backup.destination.rglob("packs/*"))[0])
    made = (
        dying_side_thread(serve_writes, memory_bytes=MEMORY_BYTES, after=0)
        if dies
        else side_thread(serve_writes, memory_bytes=MEMORY_BYTES)
    )
    with made as process:
        summary = await backup.restore(writing=process)
    assert summary.failures
    assert summary.files_failed == summary.failures_total == len({f.path for f in summary.failures})
    assert summary.files_failed + summary.files_restored == 323
    assert all("damaged" in failure.reason or "authentic" in failure.reason for failure in summary.failures)
    lost = {failure.path for failure in summary.failures}
    there, saved = snapshot_of(backup.target), snapshot_of(backup.source)
    assert not lost & set(there)
    for path in set(saved) - lost:
        if os.path.isfile(os.path.join(os.fsencode(backup.source), path)):
            assert there[path] == saved[path]


@pytest.mark.parametrize("layout", ["mirror", KINDS[0]])
async def test_a_full_disk_ends_the_restore(
    tmp_path: Path, process: SideProcess, layout: str | tuple[bool, bool]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    try:
        backup = await backup_of(tmp_path)
        fill(backup.source)
        await save(backup, layout)
        with pytest.raises(TargetError, match="has no space left; free some and restore again"):
            await backup.restore(target=disk / "target", writing=process)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        summary = await backup.restore(target=disk / "target", writing=process)
        assert summary.failures == ()
        assert snapshot_of(disk / "target") == snapshot_of(backup.source)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("overwrite", ["always", "changed", "never"])
async def test_what_stands_there_is_treated_as_it_was_asked_for(
    tmp_path: Path, process: SideProcess, overwrite: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="asyncbackup")
    backup = await backup_of(tmp_path)
    (backup.source / "kept").write_bytes(b"what was saved")
    (backup.source / "other").write_bytes(b"also saved")
    await backup.save_tree()
    backup.target.mkdir()
    (backup.target / "kept").write_bytes(b"something else")
    summary = await backup.restore(overwrite=overwrite, writing=process)
    assert summary.failures == ()
    expected = b"something else" if overwrite == "never" else b"what was saved"
    assert (backup.target / "kept").read_bytes() == expected
    assert (backup.target / "other").read_bytes() == b"also saved"
    # One batch, and the end.
    assert "has answered 2 times" in caplog.text


async def test_times_beyond_64_bits_are_restored_all_the_same(tmp_path: Path, process: SideProcess) -> None:
    """Where the target cannot keep them it says so; nothing else is lost."""
    backup = await backup_of(tmp_path)
    for name in ("far", "near"):
        (backup.source / name).write_bytes(name.encode())
    entries = [
        msgspec.structs.replace(entry, mtime_ns=2**65) if entry.path == b"far" else entry
        for entry in read_tree(backup.source)
    ]
    await backup.save(entries, content=lambda entry: (backup.source / os.fsdecode(entry.path)).read_bytes())
    await backup.restore(writing=process)
    assert (backup.target / "far").read_bytes() == b"far"
    assert (backup.target / "near").read_bytes() == b"near"
    assert not process.retired


async def test_another_folder_under_the_same_number_is_not_written_to(
    tmp_path: Path, process: SideProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where /proc is another namespace's, and the number of this process somebody else's there."""
    backup = await backup_of(tmp_path)
    (backup.source / "file").write_bytes(b"what was saved")
    await backup.save_tree()
    strange = tmp_path / "strange"
    strange.mkdir()
    monkeypatch.setattr(side_writer, "own_path", lambda descriptor: str(strange))
    summary = await backup.restore(writing=process)
    assert summary.failures == ()
    assert os.listdir(strange) == []
    assert (backup.target / "file").read_bytes() == b"what was saved"
    assert "does not lead to the target" in caplog.text


async def test_the_target_that_is_open_here_is_written_to(
    tmp_path: Path,
    process: SideProcess,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever puts another folder in the target's place while it is restored gets nothing into it."""
    caplog.set_level("DEBUG", logger="asyncbackup")
    backup = await backup_of(tmp_path)
    (backup.source / "file").write_bytes(b"what was saved")
    await backup.save_tree()
    moved = tmp_path / "moved"
    run = Restorer.run

    async def swap(restorer: Restorer) -> None:
        backup.target.rename(moved)
        backup.target.mkdir()
        await run(restorer)

    monkeypatch.setattr(Restorer, "run", swap)
    summary = await backup.restore(writing=process)
    assert summary.failures == ()
    assert (moved / "file").read_bytes() == b"what was saved"
    assert os.listdir(backup.target) == []
    assert "has answered 2 times" in caplog.text
