"""The target's tree: reached through descriptors, whatever is planted in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncbackup.restore.tree import CACHED_FOLDERS, BlockedError, TargetTree


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.fixture
def tree(target: Path) -> Iterator[TargetTree]:
    opened = TargetTree.open(target)
    yield opened
    opened.close()


def test_folders_are_made_private(tree: TargetTree, target: Path) -> None:
    old = os.umask(0)
    try:
        assert tree.make_folder(b"a", replace=True, adjust=True)
    finally:
        os.umask(old)
    assert (target / "a").stat().st_mode & 0o777 == 0o700
    assert not tree.make_folder(b"a", replace=True, adjust=True)


@pytest.mark.parametrize("path", [b"..", b"../x", b"a/../../x", b"/etc", b"a//b", b".", b"a/.", b"a\0b"])
def test_paths_that_could_leave_are_refused(tree: TargetTree, target: Path, path: bytes) -> None:
    (target / "a").mkdir()
    for use in (
        lambda: tree.make_folder(path, replace=True, adjust=True),
        lambda: tree.status(path),
        lambda: tree.borrow(path),
    ):
        with pytest.raises(OSError, match="not one below its root"):
            use()


def test_a_symlink_on_the_way_is_never_followed(tree: TargetTree, target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (target / "link").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        tree.make_folder(b"link/in", replace=True, adjust=True)
    with pytest.raises(NotADirectoryError), tree.folder(b"link"):
        pass
    assert tree.status(b"link/in") is None
    assert list(outside.iterdir()) == []


def test_what_stands_in_a_folders_place_is_replaced_only_if_allowed(
    tree: TargetTree, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (target / "link").symlink_to(outside)
    (target / "file").write_text("x")
    os.mkfifo(target / "fifo")
    for name in (b"link", b"file", b"fifo"):
        with pytest.raises(BlockedError, match="something else stands"):
            tree.make_folder(name, replace=False, adjust=False)
        assert tree.make_folder(name, replace=True, adjust=False)
        assert (target / name.decode()).is_dir()
        assert not (target / name.decode()).is_symlink()
    assert outside.is_dir()


def test_few_descriptors_stay_open_however_many_folders(tree: TargetTree) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(4 * CACHED_FOLDERS):
        name = b"%d" % number
        tree.make_folder(name, replace=True, adjust=True)
        with tree.folder(name):
            pass
    assert len(os.listdir("/proc/self/fd")) - before <= CACHED_FOLDERS
    tree.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_borrowed_folder_outlives_its_place_in_the_cache(tree: TargetTree, target: Path) -> None:
    tree.make_folder(b"kept", replace=True, adjust=True)
    with tree.folder(b"kept") as descriptor:
        for number in range(2 * CACHED_FOLDERS):
            name = b"%d" % number
            tree.make_folder(name, replace=True, adjust=True)
            with tree.folder(name):
                pass
        os.mkdir(b"inside", dir_fd=descriptor)
    assert (target / "kept/inside").is_dir()


def test_paths_longer_than_the_kernel_takes(tree: TargetTree) -> None:
    path = b""
    for _ in range(60):
        path = path + b"/" + b"n" * 200 if path else b"n" * 200
        tree.make_folder(path, replace=True, adjust=True)
    assert len(path) > 12_000
    with tree.open_folder(path) as descriptor:
        os.fchmod(descriptor, 0o711)
    status = tree.status(path)
    assert status is not None
    assert status.st_mode & 0o777 == 0o711
    # From the root again, without anything cached.
    for number in range(2 * CACHED_FOLDERS):
        tree.make_folder(b"%d" % number, replace=True, adjust=True)
        with tree.folder(b"%d" % number):
            pass
    assert tree.status(path) is not None
    with pytest.raises(OSError, match="name too long") as caught:
        os.stat(path)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_folder_swapped_for_a_symlink_is_noticed(tree: TargetTree, target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree.make_folder(b"a", replace=True, adjust=True)
    (target / "a").rename(target / "b")
    (target / "a").symlink_to(outside)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"), tree.open_folder(b"a"):
        pass
