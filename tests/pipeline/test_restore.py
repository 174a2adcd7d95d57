"""Restoring trees, files and choices of them from a repository made by hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from asyncbackup.errors import ConfigError
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.model import Kind
from asyncbackup.restore import RestoreCounters, section
from asyncbackup.restore.batches import BATCH_FILES
from tests.unit.restore.backup import (
    Backup,
    file_entry,
    folder_entry,
    put_content,
    snapshot_of,
    symlink_entry,
)

ROOT = os.geteuid() == 0
MTIME = 1_234_567_890_123_456_789


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
async def backup(tmp_path: Path, request: pytest.FixtureRequest) -> Backup:
    made = Backup(tmp_path, encrypted=request.param)
    await made.create()
    return made


@pytest.fixture
async def plain(tmp_path: Path) -> Backup:
    made = Backup(tmp_path)
    await made.create()
    return made


def rich_tree(root: Path) -> None:
    """A tree with one of everything that a restore has to bring back."""
    (root / "docs/deep/deeper").mkdir(parents=True)
    (root / "docs/report.txt").write_bytes(b"report\n" * 100)
    (root / "docs/deep/big.bin").write_bytes(os.urandom(3_000_001))
    (root / "empty").touch()
    (root / "empty folder").mkdir()
    (root / "link").symlink_to("docs/report.txt")
    (root / "dangling").symlink_to("/nowhere/at all")
    os.link(root / "docs/report.txt", root / "hard")
    os.link(root / "docs/report.txt", root / "docs/deep/hard too")
    with (root / "sparse").open("wb") as file:
        file.seek(10_000_000)
        file.write(b"end")
        file.truncate(12_000_000)
    for raw in (b"\xff\xfe", b"new\nline", b"100%", b"%2F", "é".encode(), "é".encode(), b"n" * 255, b" . "):
        (root / os.fsdecode(raw)).write_bytes(raw)
    os.setxattr(root / "docs", "user.folder", b"\0\1")
    os.setxattr(root / "empty", "user.empty", b"")
    (root / "docs/report.txt").chmod(0o640)
    (root / "empty folder").chmod(0o1777)
    if ROOT:
        os.chown(root / "docs/deep", 1234, 2345)
        os.chown(root / "link", 3456, 4567, follow_symlinks=False)
        os.chown(root / "empty", 1234, 2345)
        (root / "empty").chmod(0o711)
    for folder, folders, files in os.walk(str(root), topdown=False):
        for name in (*files, *folders):
            path = os.path.join(folder, name)
            os.utime(path, ns=(MTIME, MTIME - len(name)), follow_symlinks=False)
    os.utime(root / "100%", ns=(0, -86_400_000_000_001))
    os.utime(root, ns=(MTIME, MTIME))


async def test_a_tree_comes_back_exactly(backup: Backup) -> None:
    rich_tree(backup.source)
    await backup.save_tree()
    counters = RestoreCounters()
    summary = await backup.restore(counters=counters)
    assert summary.failures == ()
    assert snapshot_of(backup.target) == snapshot_of(backup.source)
    assert (backup.target / "sparse").stat().st_blocks * 512 < 1_000_000
    files = sum(entry[0] is Kind.FILE for entry in snapshot_of(backup.source).values())
    assert (summary.files_restored, summary.hardlinks, summary.symlinks) == (files, 2, 2)
    assert (summary.files_resumed, summary.files_skipped, summary.files_failed) == (0, 0, 0)
    assert summary.folders == 5
    assert (counters.files_total, counters.files_restored) == (files, files)
    assert counters.bytes_done == counters.bytes_total == counters.bytes_restored
    assert summary.complete
    assert summary.notes == ()
    assert list((backup.settings.state_dir / "restores").iterdir()) == []


async def test_one_request_a_file_and_none_for_empty_ones_links_and_folders(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    summary = await plain.restore()
    contents = summary.files_restored - summary.hardlinks - 1  # "empty"
    assert summary.requests["GetObject"] == contents + 2  # the descriptor and the manifest
    assert summary.bytes_downloaded == summary.bytes_restored


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
async def test_rsync_finds_no_difference(backup: Backup) -> None:
    rich_tree(backup.source)
    (backup.source / "empty").chmod(0o6711)
    await backup.save_tree()
    await backup.restore(privileged=True)
    arguments = ["rsync", "-aHAXnc", "--numeric-ids", "--delete", "--itemize-changes"]
    compared = subprocess.run(
        [*arguments, f"{backup.source}/", f"{backup.target}/"], capture_output=True, check=True
    )
    assert compared.stdout.decode(errors="replace") == ""


async def test_very_small_memory_and_one_connection_are_enough(tmp_path: Path) -> None:
    backup = Backup(tmp_path, memory_limit_bytes=64 * 1024)
    await backup.create()
    backup.settings = msgspec.structs.replace(backup.settings, concurrency=1)
    rich_tree(backup.source)
    await backup.save_tree()
    summary = await backup.restore()
    assert summary.peak_inflight_bytes <= 64 * 1024
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


@pytest.mark.parametrize("sparse", [False, True])
async def test_very_large_files_come_in_ranges(plain: Backup, sparse: bool) -> None:
    with (plain.source / "large").open("wb") as file:
        file.write(os.urandom(1_000_000))
        if sparse:
            file.seek(70_000_000)
            file.write(b"x")
            file.truncate(90_000_000)
        else:
            file.write(os.urandom(80_000_000))
    await plain.save_tree()
    counters = RestoreCounters()
    summary = await plain.restore(counters=counters)
    assert snapshot_of(plain.target) == snapshot_of(plain.source)
    assert summary.requests["GetObject"] > 5
    assert counters.bytes_done == counters.bytes_total == counters.bytes_downloaded
    if sparse:
        assert (plain.target / "large").stat().st_blocks * 512 < 2_000_000


async def test_without_a_target_files_go_to_where_they_came_from(backup: Backup) -> None:
    rich_tree(backup.source)
    before = snapshot_of(backup.source)
    await backup.save_tree()
    shutil.rmtree(backup.source / "docs")
    (backup.source / "empty").write_text("changed")
    (backup.source / "added").write_text("stays")
    summary = await backup.restore(target=None)
    assert summary.failures == ()
    assert (backup.source / "added").read_text() == "stays"
    (backup.source / "added").unlink()
    os.utime(backup.source, ns=(MTIME, MTIME))
    assert snapshot_of(backup.source) == before


async def test_the_same_target_twice(backup: Backup) -> None:
    rich_tree(backup.source)
    await backup.save_tree()
    await backup.restore()
    second = await backup.restore()
    assert second.failures == ()
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


# What is chosen


async def test_a_file_and_the_folders_that_lead_there(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    summary = await plain.restore("docs/deep/big.bin")
    found = snapshot_of(plain.target)
    assert found == {
        path: entry
        for path, entry in snapshot_of(plain.source).items()
        if path in (b"", b"docs", b"docs/deep", b"docs/deep/big.bin")
    }
    assert (summary.files_restored, summary.folders) == (1, 3)


async def test_folders_that_only_lead_there_are_left_alone_where_they_exist(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    (plain.target / "docs").mkdir(parents=True, mode=0o711)
    os.utime(plain.target, ns=(1, 1))
    await plain.restore("docs/deep/big.bin")
    assert (plain.target / "docs").stat().st_mode & 0o777 == 0o711
    assert os.listxattr(plain.target / "docs") == []
    assert plain.target.stat().st_mtime_ns == 1
    assert snapshot_of(plain.target)[b"docs/deep"] == snapshot_of(plain.source)[b"docs/deep"]


async def test_include_and_exclude(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    await plain.restore("docs", include=["*hard*", "*.bin"], exclude=["deeper/", "*too"])
    files = [str(path.relative_to(plain.target)) for path in plain.target.rglob("*") if path.is_file()]
    assert files == ["docs/deep/big.bin"]


async def test_an_absolute_path(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    summary = await plain.restore(str(plain.source / "docs/report.txt"))
    assert (summary.files_restored, summary.hardlinks) == (1, 0)
    assert (plain.target / "docs/report.txt").stat().st_nlink == 1


async def test_hard_links_of_which_the_first_is_not_chosen_are_linked_to_each_other(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    summary = await plain.restore("hard", "docs/deep/hard too")
    assert (summary.files_restored, summary.hardlinks, summary.requests["GetObject"]) == (2, 1, 3)
    one, other = (plain.target / "hard").stat(), (plain.target / "docs/deep/hard too").stat()
    assert (one.st_ino, one.st_nlink) == (other.st_ino, 2)


async def test_a_path_that_is_not_in_the_snapshot_is_an_error_and_restores_nothing(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    with pytest.raises(ConfigError, match=r"holds no 'nope'; 'asyncbackup ls home"):
        await plain.restore("docs", "nope")
    assert not plain.target.exists()
    # A corrected command does not stumble over the one before.
    assert (await plain.restore("docs")).failures == ()


async def test_an_older_snapshot(plain: Backup) -> None:
    (plain.source / "f").write_text("one")
    first = await plain.save_tree()
    (plain.source / "f").write_text("two")
    await plain.save_tree()
    await plain.restore(snapshot=first)
    assert (plain.target / "f").read_text() == "one"
    await plain.restore(snapshot="latest")
    assert (plain.target / "f").read_text() == "two"


# What stands in the way


async def test_changed_leaves_what_looks_the_same(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    await plain.restore()
    same = plain.target / "docs/deep/big.bin"
    other = plain.target / "%2F"
    before = same.stat()
    other.write_text("x" * 3)
    summary = await plain.restore(overwrite="changed")
    assert same.stat().st_ctime_ns == before.st_ctime_ns
    assert summary.files_restored == 1
    assert summary.bytes_downloaded == 3
    assert snapshot_of(plain.target) == snapshot_of(plain.source)


async def test_never_adds_only_what_is_missing(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    (plain.target / "docs").mkdir(parents=True, mode=0o700)
    (plain.target / "docs/report.txt").write_text("mine")
    (plain.target / "link").symlink_to("elsewhere")
    os.utime(plain.target, ns=(5, 5))
    summary = await plain.restore(overwrite="never")
    assert (summary.failures, summary.files_skipped) == ((), 1)
    found, wanted = snapshot_of(plain.target), snapshot_of(plain.source)
    assert (plain.target / "docs/report.txt").read_text() == "mine"
    assert os.readlink(plain.target / "link") == "elsewhere"
    assert (plain.target / "docs").stat().st_mode & 0o777 == 0o700
    # The further names of "mine" are not linked to it: it is another file.
    assert (plain.target / "hard").read_bytes() == (plain.source / "hard").read_bytes()
    assert (plain.target / "hard").samefile(plain.target / "docs/deep/hard too")
    kept = {b"", b"docs", b"docs/report.txt", b"link", b"hard", b"docs/deep/hard too"}
    assert {p: e for p, e in found.items() if p not in kept} == {
        p: e for p, e in wanted.items() if p not in kept
    }


async def test_a_folder_with_content_in_a_files_place_is_named_and_the_rest_restored(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    (plain.target / "empty/inside").mkdir(parents=True)
    (plain.target / "link/inside").mkdir(parents=True)
    (plain.target / "100%").mkdir()
    summary = await plain.restore()
    assert {(f.path, f.kind) for f in summary.failures} == {(b"empty", Kind.FILE), (b"link", Kind.SYMLINK)}
    assert {f.reason for f in summary.failures} == {"a folder that is not empty stands in its place"}
    assert not summary.complete
    assert (plain.target / "100%").read_bytes() == b"100%"
    assert (plain.target / "docs/deep/big.bin").exists()
    assert (plain.target / "empty/inside").is_dir()


async def test_a_file_in_a_folders_place_gives_way_unless_never(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    plain.target.mkdir()
    (plain.target / "docs").write_text("in the way")
    summary = await plain.restore(overwrite="never")
    failed = {failure.path for failure in summary.failures}
    assert {b"docs", b"docs/report.txt", b"docs/deep/big.bin"} <= failed
    assert (plain.target / "docs").read_text() == "in the way"
    assert (plain.target / "hard").samefile(plain.target / "hard")
    assert (await plain.restore()).failures == ()
    assert snapshot_of(plain.target) == snapshot_of(plain.source)


async def test_an_existing_folder_that_denies_its_owner(plain: Backup) -> None:
    """As root nothing is denied; the mode has to come out right all the same."""
    rich_tree(plain.source)
    await plain.save_tree()
    (plain.target / "docs").mkdir(parents=True)
    (plain.target / "docs").chmod(0)
    summary = await plain.restore()
    assert summary.failures == ()
    assert snapshot_of(plain.target) == snapshot_of(plain.source)


@pytest.mark.skipif(not ROOT or shutil.which("chattr") is None, reason="needs root and chattr")
async def test_an_immutable_file_is_named_and_the_rest_restored(plain: Backup) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    plain.target.mkdir()
    stubborn = plain.target / "empty"
    stubborn.write_text("old")
    if subprocess.run(["chattr", "+i", stubborn], check=False).returncode:
        pytest.skip("the file system has no immutable files")
    try:
        summary = await plain.restore()
    finally:
        subprocess.run(["chattr", "-i", stubborn], check=True)
    assert [(f.path, f.reason) for f in summary.failures] == [(b"empty", "Operation not permitted")]
    assert stubborn.read_text() == "old"
    assert not list(plain.target.glob(".asyncbackup-*"))
    assert summary.files_failed == 1


# Dry run


@pytest.mark.parametrize("overwrite", ["always", "changed", "never"])
async def test_a_dry_run_foretells_and_changes_nothing(plain: Backup, overwrite: str) -> None:
    rich_tree(plain.source)
    await plain.save_tree()
    foretold = await plain.restore(overwrite=overwrite, dry_run=True)
    assert not plain.target.exists()
    done = await plain.restore(overwrite=overwrite)
    await plain.restore()
    (plain.target / "%2F").write_text("changed")
    (plain.target / "empty").unlink()
    (plain.target / "empty/inside").mkdir(parents=True)
    before = snapshot_of(plain.target)
    foretold_again = await plain.restore(overwrite=overwrite, dry_run=True)
    assert snapshot_of(plain.target) == before
    done_again = await plain.restore(overwrite=overwrite)
    fields = ("files_restored", "files_skipped", "files_failed", "folders", "symlinks", "hardlinks")
    for told, did in ((foretold, done), (foretold_again, done_again)):
        assert [getattr(told, name) for name in fields] == [getattr(did, name) for name in fields]
        assert [f.path for f in told.failures] == [f.path for f in did.failures]
        assert told.bytes_restored == did.bytes_restored
        assert told.bytes_downloaded == 0
    assert foretold.dry_run


# Damage


async def test_missing_and_damaged_objects_are_named_with_their_keys(backup: Backup) -> None:
    for name in ("missing", "flipped", "longer", "shorter", "fine", "swapped1", "swapped2"):
        (backup.source / name).write_bytes(name.encode() * 20_000)
    run = await backup.save_tree()
    backup.object_path(run, "missing").unlink()
    flipped = backup.object_path(run, "flipped")
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    with backup.object_path(run, "longer").open("ab") as file:
        file.write(b"x")
    os.truncate(backup.object_path(run, "shorter"), 1000)
    one, other = backup.object_path(run, "swapped1"), backup.object_path(run, "swapped2")
    body = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(body)
    summary = await backup.restore()
    reasons = {failure.path: failure.reason for failure in summary.failures}
    assert sorted(os.listdir(backup.target)) == ["fine"]
    assert set(reasons) == {b"missing", b"flipped", b"longer", b"shorter", b"swapped1", b"swapped2"}
    for path, reason in reasons.items():
        assert f"home/data/{run}/files/{path.decode()}" in reason
    assert "no such object" in reasons[b"missing"]
    assert summary.files_failed == 6
    assert summary.bytes_restored == 20_000 * len("fine")


@pytest.mark.parametrize("size", [300_000, 5_000_000])
async def test_large_damaged_objects_leave_nothing_behind(backup: Backup, size: int) -> None:
    backup.settings = msgspec.structs.replace(backup.settings, memory_limit_bytes=512 * 1024)
    (backup.source / "f").write_bytes(os.urandom(size))
    run = await backup.save_tree()
    path = backup.object_path(run, "f")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (backup.target).mkdir()
    (backup.target / "f").write_text("old")
    summary = await backup.restore()
    assert [failure.path for failure in summary.failures] == [b"f"]
    assert (backup.target / "f").read_text() == "old"
    assert os.listdir(backup.target) == ["f"]
    assert summary.bytes_downloaded == 2 * len(content)  # a flipped bit deserves a second try


async def test_once_the_damage_is_mended_only_what_failed_is_restored(plain: Backup) -> None:
    for name in ("a", "b", "c"):
        (plain.source / name).write_text(name)
    run = await plain.save_tree()
    plain.object_path(run, "b").rename(plain.base / "b")
    first = await plain.restore()
    assert (first.files_restored, first.files_failed) == (2, 1)
    (plain.base / "b").rename(plain.object_path(run, "b"))
    second = await plain.restore()
    assert (second.files_restored, second.files_resumed, second.files_failed) == (1, 2, 0)
    assert second.bytes_downloaded == 1
    assert snapshot_of(plain.target) == snapshot_of(plain.source)


async def test_an_object_of_another_size_than_the_manifest_says_is_never_downloaded(plain: Backup) -> None:
    run = plain.next_run()
    async with plain.open() as repository:
        extent = await put_content(repository, run, b"f", b"x" * 1000)
    await plain.save(
        [folder_entry(""), file_entry("f", size=10, extent=msgspec.structs.replace(extent, length=10))]
    )
    summary = await plain.restore()
    assert [failure.path for failure in summary.failures] == [b"f"]
    assert summary.failures[0].reason.endswith("files/f' holds 1000 bytes, not 10")
    assert summary.bytes_downloaded == 0


async def test_a_file_without_a_digest_is_restored_and_noted(plain: Backup) -> None:
    entry = file_entry("f")
    run = plain.next_run()
    async with plain.open() as repository:
        extent = await put_content(repository, run, b"f", b"x")
    await plain.save([folder_entry(""), msgspec.structs.replace(entry, size=1, extent=extent)])
    summary = await plain.restore()
    assert summary.failures == ()
    assert summary.notes == ("1 files were restored unchecked: the snapshot holds no SHA-256 of them",)
    assert (plain.target / "f").read_text() == "x"


async def test_folders_that_the_snapshot_lacks_are_made_for_what_lies_in_them(plain: Backup) -> None:
    entries = [
        folder_entry(""),
        file_entry("a/b/f"),
        file_entry("a/b/g", hardlink="1"),
        file_entry("c/h", hardlink="1"),
        symlink_entry("d/l", "x"),
    ]
    await plain.save(entries, content=lambda _: b"x")
    summary = await plain.restore()
    assert summary.failures == ()
    assert summary.notes == ("4 folders that the snapshot does not describe were made with mode 0700",)
    assert (plain.target / "a/b/f").read_text() == "x"
    assert (plain.target / "c/h").samefile(plain.target / "a/b/g")
    assert os.readlink(plain.target / "d/l") == "x"
    assert (plain.target / "a/b").stat().st_mode & 0o777 == 0o700


async def test_a_symlink_that_cannot_be_is_named(plain: Backup) -> None:
    await plain.save([folder_entry(""), symlink_entry("l", "t" * 5000), symlink_entry("m", "fine")])
    summary = await plain.restore()
    assert [(f.path, f.reason) for f in summary.failures] == [(b"l", "File name too long")]
    assert os.readlink(plain.target / "m") == "fine"


async def test_options_that_cannot_be(plain: Backup) -> None:
    (plain.source / "f").touch()
    await plain.save_tree()
    with pytest.raises(ConfigError, match="accepted are always, changed, never"):
        await plain.restore(overwrite="sometimes")
    plain.target.write_text("a file")
    with pytest.raises(ConfigError, match="is not a folder"):
        await plain.restore()
    with pytest.raises(ConfigError, match="is not a folder"):
        await plain.restore(target=plain.target / "below")


AS_NOBODY = """
import asyncio, json, os, sys
from pathlib import Path
from tests.unit.restore.backup import Backup

NOBODY = 65534
base = Path(sys.argv[1])
backup = Backup(base)
os.setgroups([4321])
os.setresgid(NOBODY, NOBODY, NOBODY)
os.setresuid(NOBODY, NOBODY, NOBODY)
summary = asyncio.run(backup.restore(overwrite=sys.argv[2]))
print(json.dumps([summary.notes, [[os.fsdecode(f.path), f.reason] for f in summary.failures]]))
"""


@pytest.mark.skipif(not ROOT, reason="only root can become nobody")
async def test_whoever_is_not_root_restores_all_but_the_owners() -> None:
    # Not below pytest's own folder, which only root may enter.
    with tempfile.TemporaryDirectory() as name:
        backup = Backup(Path(name))
        await backup.create()
        source = backup.source
        for folder, mode in (("mine", 0o755), ("closed", 0o500), ("dark", 0o300)):
            (source / folder).mkdir()
            (source / folder / "f").write_text(folder)
            (source / folder).chmod(mode)
        (source / "setuid").write_text("x")
        (source / "setuid").chmod(0o4755)
        (source / "group").write_text("x")
        os.chown(source / "group", 1234, 4321)
        (source / "capable").write_text("x")
        os.setxattr(source / "capable", "trusted.t", b"1")
        (source / "link").symlink_to("group")
        await backup.save_tree()
        backup.target.mkdir()
        os.chown(backup.target, 65534, 65534)
        for path in (backup.base, *backup.base.rglob("*")):
            if backup.source not in (path, *path.parents) and not path.is_symlink():
                path.chmod(0o777)
        for overwrite in ("always", "always", "changed"):
            ended = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, name, overwrite],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                check=False,
            )
            assert ended.returncode == 0, ended.stderr.decode()
            notes, failures = json.loads(ended.stdout)
            assert failures == []
        found, wanted = snapshot_of(backup.target), snapshot_of(backup.source)
        assert {path: entry[7] for path, entry in found.items()} == {
            path: entry[7] for path, entry in wanted.items()
        }
        modes = {path: entry[1] for path, entry in wanted.items()} | {b"setuid": "0o100755"}
        assert {path: entry[1] for path, entry in found.items()} == modes
        assert found[b"group"][3] == (65534, 4321)
        assert notes[0].endswith(
            "kept the restoring user's owner or group: only root may give files to others"
        )


async def test_small_files_are_written_many_a_hop(plain: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    gates: list[ThreadGate] = []

    def opened(name: str, limit: int) -> ThreadGate:
        gates.append(ThreadGate(name, limit))
        return gates[-1]

    monkeypatch.setattr(section, "ThreadGate", opened)
    for number in range(3 * BATCH_FILES):
        (plain.source / f"f{number:03}").write_bytes(b"%d" % number)
    await plain.save_tree()
    summary = await plain.restore()
    assert summary.files_restored == 3 * BATCH_FILES
    (gate,) = gates
    # The manifest, the target, what is to be made of one page of rows, and of its folder at the end.
    assert gate.hops <= 3 + 5
