"""Restoring what a hostile bucket says, and into a target full of traps: nothing outside changes."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asyncbackup.errors import FormatError
from asyncbackup.restore.temporary import temporary_name
from tests.unit.restore.backup import Backup, file_entry, folder_entry, symlink_entry

MTIME = 1_234_567_890_000_000_001


class Canary:
    """A tree outside the target, and whether anything about it ever changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "file"
        self.folder = root / "folder"
        self.folder.mkdir(parents=True)
        self.file.write_text("canary")
        self.file.chmod(0o640)
        (self.folder / "f").write_text("canary in a folder")
        (root / "link").symlink_to("file")
        self.before = self.look()

    def look(self) -> dict[str, tuple[object, ...]]:
        """Everything about every entry but its number of links."""
        found: dict[str, tuple[object, ...]] = {}
        for path in (self.root, *sorted(self.root.rglob("*"))):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path)] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_ino,
                tuple(os.listxattr(path, follow_symlinks=False)),
                content,
            )
        return found

    def rest(self) -> None:
        """Take the traps' own marks (a hard link's ctime) into account."""
        self.before = self.look()

    def assert_untouched(self) -> None:
        """Nothing outside the target was touched."""
        assert self.look() == self.before


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "outside")


@pytest.fixture
async def backup(tmp_path: Path) -> Backup:
    made = Backup(tmp_path)
    await made.create()
    return made


def folder_line(path: str, **fields: object) -> dict[str, object]:
    return {
        "type": "folder",
        "path": path,
        "mode": "40755",
        "size": 0,
        "mtime": 1,
        "uid": 0,
        "gid": 0,
    } | fields


def file_line(path: str, **fields: object) -> dict[str, object]:
    line: dict[str, object] = {
        "type": "file",
        "path": path,
        "mode": "100644",
        "size": 0,
        "mtime": 1,
        "uid": 0,
        "gid": 0,
        "sha256": "",
        "extent": {"length": 0},
    }
    return line | fields


def symlink_line(path: str, target: str) -> dict[str, object]:
    return {
        "type": "symlink",
        "path": path,
        "mode": "120777",
        "size": 0,
        "mtime": 1,
        "uid": 0,
        "gid": 0,
        "target": target,
    }


async def test_the_lines_of_this_file_are_accepted_as_they_are(backup: Backup) -> None:
    """Or the refusals below would prove nothing."""
    await backup.save_lines(
        [folder_line(""), folder_line("d"), file_line("f"), symlink_line("l", "f"), file_line("d/f")]
    )
    summary = await backup.restore()
    assert (summary.files_restored, summary.symlinks, summary.failures) == (2, 1, ())


@pytest.mark.parametrize(
    "lines",
    [
        [folder_line(""), file_line("../file")],
        [folder_line(""), folder_line("d"), file_line("d/../../file")],
        [folder_line(""), file_line("/outside/file")],
        [folder_line(""), file_line("..")],
        [folder_line(""), file_line(".")],
        [folder_line(""), file_line("d//f")],
        [folder_line(""), file_line("f/")],
        [folder_line(""), file_line("%2E%2E/file")],
        [folder_line(""), file_line("%2Foutside/file")],
        [folder_line(""), file_line("a%00b")],
        [folder_line(""), file_line("f"), file_line("f")],
        [folder_line(""), file_line("f"), folder_line("f")],
        [folder_line(""), symlink_line("f", "../outside"), folder_line("f")],
        [folder_line(""), file_line("b"), file_line("a")],
        [folder_line(""), file_line("f", size=-1)],
        [folder_line(""), file_line("f", extent={"length": -1})],
        [folder_line(""), file_line("f", extent={"length": 0, "offset": -5})],
        [folder_line(""), file_line("f", extent={"length": 0, "key": "../../../x"})],
        [folder_line(""), file_line("f", extent={"length": 0, "run": "../.."})],
        [folder_line(""), file_line("f", mode="60644")],
        [folder_line(""), file_line("f", mode="20644")],
    ],
    ids=lambda lines: repr(lines[-1]["path"] + " " + repr(lines[-1].get("extent", "")))[:60],
)
async def test_manifests_that_no_backup_writes_are_refused_whole(
    backup: Backup, canary: Canary, lines: list[dict[str, object]]
) -> None:
    await backup.save_lines(lines)
    with pytest.raises(FormatError):
        await backup.restore()
    canary.assert_untouched()
    assert not backup.target.exists()


async def test_writing_through_a_symlink_of_the_snapshot(backup: Backup, canary: Canary) -> None:
    await backup.save(
        [
            folder_entry(""),
            symlink_entry("d", str(canary.folder)),
            file_entry("d/f"),
            file_entry("d/new"),
            folder_entry("d/folder", mode=0o40777),
            symlink_entry("d/l", "x"),
            symlink_entry("up", ".."),
            file_entry("up/f"),
        ],
        content=lambda _: b"evil",
    )
    summary = await backup.restore()
    canary.assert_untouched()
    assert {failure.path for failure in summary.failures} == {
        b"d/f",
        b"d/new",
        b"d/folder",
        b"d/l",
        b"up/f",
    }
    assert os.readlink(backup.target / "d") == str(canary.folder)


async def test_a_file_that_is_also_a_folder(backup: Backup, canary: Canary) -> None:
    await backup.save_lines([folder_line(""), file_line("a"), file_line("a/b")])
    summary = await backup.restore()
    assert (summary.files_restored, summary.files_failed) == (1, 1)
    canary.assert_untouched()


async def test_a_root_that_is_no_folder(backup: Backup, canary: Canary) -> None:
    await backup.save_lines([file_line("")])
    summary = await backup.restore()
    assert [failure.path for failure in summary.failures] == [b""]
    assert os.listdir(backup.target) == []
    assert backup.target.is_dir()
    canary.assert_untouched()


@pytest.fixture
async def trapped(backup: Backup, canary: Canary) -> Backup:
    """A sound snapshot, and a target in which every place is taken by a trap."""
    source, target = backup.source, backup.target
    (source / "docs/deep").mkdir(parents=True)
    (source / "docs/report").write_text("report" * 50_000)
    (source / "docs/deep/big").write_bytes(os.urandom(2_000_000))
    (source / "empty").touch()
    (source / "hard").write_text("linked")
    os.link(source / "hard", source / "hard2")
    (source / "link").symlink_to("empty")
    (source / "docs").chmod(0o777)
    os.utime(source / "docs", ns=(MTIME, MTIME))
    await backup.save_tree()
    target.mkdir()
    return backup


@pytest.mark.parametrize("overwrite", ["always", "changed", "never"])
async def test_symlinks_planted_beforehand(trapped: Backup, canary: Canary, overwrite: str) -> None:
    target = trapped.target
    (target / "docs").symlink_to(canary.folder)
    for name in ("empty", "hard", "hard2", "link"):
        (target / name).symlink_to(canary.file)
    summary = await trapped.restore(overwrite=overwrite)
    canary.assert_untouched()
    if overwrite == "never":
        assert {failure.path for failure in summary.failures} >= {b"docs", b"docs/report"}
        assert os.readlink(target / "docs") == str(canary.folder)
    else:
        assert summary.failures == ()
        assert not any((target / name).is_symlink() for name in ("docs", "empty", "hard", "hard2"))
        assert os.readlink(target / "link") == "empty"


@pytest.mark.parametrize("overwrite", ["always", "changed", "never"])
async def test_hard_links_to_files_outside(trapped: Backup, canary: Canary, overwrite: str) -> None:
    target = trapped.target
    for name in ("empty", "hard", "hard2", "link"):
        os.link(canary.file, target / name)
    canary.rest()
    await trapped.restore(overwrite=overwrite)
    names = {path: fields[:4] + fields[5:] for path, fields in canary.look().items()}
    assert names == {path: fields[:4] + fields[5:] for path, fields in canary.before.items()}


async def test_a_hard_link_whose_looks_were_forged(trapped: Backup, canary: Canary) -> None:
    """``changed`` leaves a file that looks the same; its metadata is left too, for it may be another's."""
    status = (trapped.source / "hard").stat()
    canary.file.write_bytes(b"x" * status.st_size)
    os.utime(canary.file, ns=(status.st_mtime_ns, status.st_mtime_ns))
    os.link(canary.file, trapped.target / "hard")
    canary.rest()
    await trapped.restore(overwrite="changed")
    assert canary.look()[str(canary.file)][:4] == canary.before[str(canary.file)][:4]
    assert canary.file.read_bytes() == b"x" * status.st_size


async def test_traps_under_the_temporary_names(trapped: Backup, canary: Canary) -> None:
    token = (await _token_of(trapped)).removesuffix(".sqlite3")
    for number in range(1, 12):
        (trapped.target / os.fsdecode(temporary_name(token, number))).symlink_to(canary.file)
    await trapped.restore()
    canary.assert_untouched()
    assert not (trapped.target / "empty").is_symlink()


async def _token_of(backup: Backup) -> str:
    """What the next restore with the same arguments puts into its temporary names."""
    (backup.target / "empty/x").mkdir(parents=True)
    await backup.restore()
    (stored,) = (backup.settings.state_dir / "restores").glob("*.sqlite3")
    stored.unlink()
    shutil.rmtree(backup.target)
    backup.target.mkdir()
    return stored.name.partition("-")[2]


@contextmanager
def swapping(folder: Path, outside: Path) -> Iterator[list[int]]:
    """Somebody who swaps a folder for a symlink and back, as fast as a thread can."""
    ended = threading.Event()
    swaps = [0]
    aside = folder.with_name("aside")

    def swap() -> None:
        while not ended.is_set():
            try:
                os.rename(folder, aside)
                os.symlink(outside, folder)
                swaps[0] += 1
                os.unlink(folder)
                os.rename(aside, folder)
            except OSError:
                # The restore was quicker and put a folder of its own there.
                shutil.rmtree(aside, ignore_errors=True)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield swaps
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("overwrite", ["always", "never"])
async def test_somebody_swaps_folders_for_symlinks_meanwhile(
    backup: Backup, canary: Canary, overwrite: str
) -> None:
    for folder in ("docs/a", "docs/b/c"):
        (backup.source / folder).mkdir(parents=True)
        for number in range(40):
            (backup.source / folder / f"f{number}").write_bytes(os.urandom(number * 100))
            (backup.source / folder / f"l{number}").symlink_to("f1")
        (backup.source / folder / "folder").mkdir(mode=0o777)
    await backup.save_tree()
    (backup.target / "docs").mkdir(parents=True)
    for name in ("a", "b", "f1", "folder"):
        (canary.root / name).mkdir(mode=0o700, exist_ok=True)
    canary.rest()
    with swapping(backup.target / "docs", canary.root) as swaps:
        for _ in range(6):
            summary = await backup.restore(overwrite=overwrite)
            canary.assert_untouched()
    assert swaps[0] > 0
    assert summary.files_restored + summary.files_failed + summary.files_resumed + summary.files_skipped == 80
