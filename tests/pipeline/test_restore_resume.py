"""Restores that are interrupted, killed, or run out of space, and go on where they were."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from asyncbackup.errors import Interrupted, SectionBusyError, TargetError
from asyncbackup.flow.stop import StopRequest
from asyncbackup.restore import restore_section, section
from tests.unit.restore.backup import Backup, snapshot_of

FILES = 60


class StopAfter(StopRequest):
    """A stop that is requested once somebody has looked ``looks`` times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    @property
    def requested(self) -> bool:
        self._looks -= 1
        return self._looks < 0


@pytest.fixture
async def backup(tmp_path: Path) -> Backup:
    made = Backup(tmp_path)
    await made.create()
    fill(made.source)
    await made.save_tree()
    return made


def fill(source: Path) -> None:
    """Folders, files of several sizes, symlinks and hard links."""
    for folder in ("a", "a/deep", "b"):
        (source / folder).mkdir()
        for number in range(FILES // 3):
            (source / folder / f"f{number:03}").write_bytes(os.urandom(1 + 3000 * number))
        (source / folder / "f003").chmod(0o640)
        if os.geteuid() == 0:
            os.chown(source / folder / "f004", 1234, 1234)
        (source / folder / "link").symlink_to("f001")
        os.link(source / folder / "f002", source / folder / "hard")
        os.utime(source / folder, ns=(1, 1_000_000_007))
    (source / "large").write_bytes(os.urandom(3_000_000))
    (source / "empty").touch()


def temporaries(target: Path) -> list[Path]:
    return list(target.rglob(".asyncbackup-*"))


def assert_whole_or_absent(backup: Backup) -> int:
    """Every file under its final name is complete, metadata included; how many there are."""
    wanted = snapshot_of(backup.source)
    count = 0
    for path, entry in snapshot_of(backup.target).items():
        if b".asyncbackup-restore-" in path or entry[0] != "file":
            continue
        assert (entry[:4], entry[7]) == (wanted[path][:4], wanted[path][7])
        count += 1
    return count


@pytest.mark.parametrize("looks", [0, 1, 2, 5, 30, 100])
async def test_a_stop_finishes_what_is_under_way_and_the_next_goes_on(backup: Backup, looks: int) -> None:
    with pytest.raises(Interrupted):
        await backup.restore(stop=StopAfter(looks))
    done = assert_whole_or_absent(backup) if backup.target.exists() else 0
    assert not temporaries(backup.base)
    summary = await backup.restore()
    assert snapshot_of(backup.target) == snapshot_of(backup.source)
    assert summary.files_resumed >= done - 3  # hard links are looked at again
    assert summary.files_restored + summary.files_resumed == FILES + 5
    assert list((backup.settings.state_dir / "restores").iterdir()) == []


async def test_going_on_needs_no_request_for_what_is_there(backup: Backup) -> None:
    with pytest.raises(Interrupted):
        await backup.restore(stop=StopAfter(100))
    done = assert_whole_or_absent(backup)
    assert 5 < done < FILES
    summary = await backup.restore()
    assert summary.requests["GetObject"] <= 1 + (FILES + 1 - done) + 3


async def test_what_was_changed_or_lost_meanwhile_is_restored_again(backup: Backup) -> None:
    with pytest.raises(Interrupted):
        await backup.restore(stop=StopAfter(100))
    present = sorted((backup.target / "a").glob("f0*"))
    present[0].unlink()
    present[1].write_bytes(b"other")
    (backup.target / "a/link").unlink()
    summary = await backup.restore()
    assert summary.failures == ()
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


async def test_after_a_reboot_what_was_done_is_read(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = backup.base / "boot_id"
    boot.write_text("one\n")
    monkeypatch.setattr(section, "_BOOT_ID", boot)
    with pytest.raises(Interrupted):
        await backup.restore(stop=StopAfter(100))
    victim = backup.target / "a/f003"
    status = victim.stat()
    victim.write_bytes(bytes(status.st_size))  # what a crash may leave: the size, not the content
    os.utime(victim, ns=(status.st_mtime_ns, status.st_mtime_ns))
    boot.write_text("two\n")
    summary = await backup.restore()
    assert summary.files_resumed > 0
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


async def test_other_arguments_are_another_restore(backup: Backup) -> None:
    with pytest.raises(Interrupted):
        await backup.restore(stop=StopAfter(100))
    summary = await backup.restore(overwrite="changed")
    assert summary.files_resumed == 0
    assert summary.files_skipped > 0
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


@pytest.mark.parametrize("looks", [3, 40])
async def test_folders_made_before_an_interruption_get_their_metadata_also_under_never(
    backup: Backup, looks: int
) -> None:
    (backup.target / "b").mkdir(parents=True, mode=0o711)
    with pytest.raises(Interrupted):
        await backup.restore(overwrite="never", stop=StopAfter(looks))
    await backup.restore(overwrite="never")
    found, wanted = snapshot_of(backup.target), snapshot_of(backup.source)
    assert found[b"a"] == wanted[b"a"]
    assert found[b"a/deep"] == wanted[b"a/deep"]
    assert (backup.target / "b").stat().st_mode & 0o777 == 0o711


async def test_the_same_restore_twice_at_once(backup: Backup) -> None:
    with pytest.raises(Interrupted):
        await backup.restore(stop=StopAfter(20))
    (stored,) = (backup.settings.state_dir / "restores").glob("*.sqlite3")
    holder = sqlite3.connect(stored, isolation_level=None)
    try:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(SectionBusyError):
            await backup.restore()
    finally:
        holder.close()
    assert (await backup.restore()).failures == ()


async def test_a_cancelled_restore_leaves_no_temporary_file(backup: Backup) -> None:
    backup.settings = msgspec.structs.replace(backup.settings, memory_limit_bytes=256 * 1024)

    class Waiting(StopRequest):
        """Tells when the restore is in the middle of its files."""

        def __init__(self) -> None:
            super().__init__()
            self.looks = 0
            self.midway = asyncio.Event()

        @property
        def requested(self) -> bool:
            self.looks += 1
            if self.looks == 60:
                self.midway.set()
            return False

    stop = Waiting()
    restoring = asyncio.create_task(
        restore_section(backup.settings, backup.section, target=backup.target, stop=stop)
    )
    await stop.midway.wait()
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert temporaries(backup.target) == []
    assert_whole_or_absent(backup)
    assert (await backup.restore()).files_resumed > 0
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


KILLED = """
import asyncio, itertools, os, signal, sys
from pathlib import Path
from asyncbackup.catalog.selection import Selection
from tests.unit.restore.backup import Backup

place, count = sys.argv[2], int(sys.argv[3])
calls = itertools.count(1)

def deadly(call, *, late):
    def counted(*arguments, **options):
        fatal = next(calls) == count
        if fatal and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **options)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return counted

name, _, moment = place.partition("-")
where = Selection if name in ("mark", "add", "seal") else os
backup = Backup(Path(sys.argv[1]))
setattr(where, name, deadly(getattr(where, name), late=moment == "after"))
asyncio.run(backup.restore())
"""


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("add-before", 1),
        ("seal-before", 1),
        ("mkdir-after", 2),
        ("open-after", 30),
        ("pwrite-before", 10),
        ("pwrite-after", 25),
        ("fchown-after", 3),
        ("fchmod-before", 5),
        ("utime-after", 20),
        ("rename-before", 1),
        ("rename-before", 40),
        ("rename-after", 15),
        ("symlink-after", 2),
        ("link-after", 1),
        ("link-before", 3),
        ("mark-before", 1),
        ("mark-before", 2),
    ],
)
async def test_killed_anywhere_and_gone_on(backup: Backup, place: str, count: int) -> None:
    if place.startswith("fchown") and os.geteuid() != 0:
        pytest.skip("only root changes owners")
    kill_a_restore(backup, place, count)
    done = assert_whole_or_absent(backup) if backup.target.exists() else 0
    summary = await backup.restore()
    assert summary.failures == ()
    assert temporaries(backup.target) == []
    assert snapshot_of(backup.target) == snapshot_of(backup.source)
    assert summary.files_resumed <= done
    assert list((backup.settings.state_dir / "restores").iterdir()) == []


async def test_killed_again_and_again(backup: Backup) -> None:
    for count in range(1, 14, 3):
        kill_a_restore(backup, "rename-before", count)
        kill_a_restore(backup, "pwrite-after", count)
        assert_whole_or_absent(backup)
    assert temporaries(backup.target)
    summary = await backup.restore()
    assert summary.failures == ()
    assert temporaries(backup.target) == []
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


def kill_a_restore(backup: Backup, place: str, count: int) -> None:
    """Restore in a process that is killed before or after the ``count``-th call of a function."""
    arguments = [sys.executable, "-c", KILLED, str(backup.base), place, str(count)]
    ended = subprocess.run(arguments, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_ends_the_restore_and_more_room_lets_it_go_on(
    backup: Backup, small_disk: Path
) -> None:
    target = small_disk / "target"
    with pytest.raises(TargetError, match="has no space left; free some and restore again"):
        await backup.restore(target=target)
    assert temporaries(target) == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    summary = await backup.restore(target=target)
    assert summary.files_resumed > 0
    assert summary.failures == ()
    assert snapshot_of(target) == snapshot_of(backup.source)


async def test_a_read_only_target_ends_the_restore(backup: Backup, small_disk: Path) -> None:
    target = small_disk / "target"
    target.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(TargetError, match="is mounted read-only"):
        await backup.restore(target=target)
