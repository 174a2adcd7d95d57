"""Temporary files and their way to the final name."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncbackup.catalog.selection import Role, SelectedEntry, State
from asyncbackup.restore.metadata import Privileges
from asyncbackup.restore.overwrite import Overwrite
from asyncbackup.restore.temporary import SPARSE_BLOCK_BYTES, TemporaryFile, temporary_name
from asyncbackup.restore.tree import BlockedError, TargetTree
from tests.unit.restore.backup import file_entry

if TYPE_CHECKING:
    from asyncbackup.model import Entry

PRIVILEGES = Privileges.of_process(privileged=False)
PRIVILEGED = Privileges.of_process(privileged=True)
TOKEN = "t"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[TargetTree]:
    opened = TargetTree.open(tmp_path)
    yield opened
    opened.close()


def row_of(entry: Entry) -> SelectedEntry:
    return SelectedEntry(7, State.TODO, Role.FILE, False, None, entry)


def restore(tree: TargetTree, entry: Entry, content: bytes, overwrite: Overwrite) -> None:
    temporary = TemporaryFile(tree, row_of(entry), TOKEN)
    try:
        temporary.write(0, content)
        assert temporary.commit(PRIVILEGES, overwrite).problems == []
    finally:
        temporary.abandon()


@pytest.mark.parametrize("overwrite", list(Overwrite))
def test_a_file_appears_with_all_its_metadata(tree: TargetTree, tmp_path: Path, overwrite: Overwrite) -> None:
    restore(tree, file_entry("f", mode=0o100640, mtime_ns=-5, size=3), b"abc", overwrite)
    status = (tmp_path / "f").stat()
    assert (tmp_path / "f").read_bytes() == b"abc"
    assert (status.st_mode, status.st_mtime_ns, status.st_nlink) == (0o100640, -5, 1)
    assert os.listdir(tmp_path) == ["f"]


def test_it_is_private_until_it_is_done(tree: TargetTree, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        temporary = TemporaryFile(tree, row_of(file_entry("f", mode=0o100666)), TOKEN)
    finally:
        os.umask(old)
    assert (tmp_path / temporary_name(TOKEN, 7).decode()).stat().st_mode & 0o777 == 0o600
    temporary.abandon()
    temporary.abandon()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("planted", ["file", "symlink"])
def test_what_stands_under_the_temporary_name_is_removed_not_used(
    tree: TargetTree, tmp_path: Path, planted: str
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    place = tmp_path / temporary_name(TOKEN, 7).decode()
    if planted == "file":
        os.link(canary, place)
    else:
        place.symlink_to(canary)
    restore(tree, file_entry("f", size=1), b"x", Overwrite.ALWAYS)
    assert canary.read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["canary", "f"]


@pytest.mark.parametrize("overwrite", [Overwrite.ALWAYS, Overwrite.CHANGED])
def test_a_symlink_and_an_empty_folder_are_replaced(
    tree: TargetTree, tmp_path: Path, overwrite: Overwrite
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    (tmp_path / "f").symlink_to(canary)
    restore(tree, file_entry("f", size=1), b"x", overwrite)
    assert not (tmp_path / "f").is_symlink()
    assert canary.read_text() == "untouched"
    (tmp_path / "g").mkdir()
    restore(tree, file_entry("g", size=1), b"x", overwrite)
    assert (tmp_path / "g").read_bytes() == b"x"


def test_a_folder_with_content_is_not_replaced(tree: TargetTree, tmp_path: Path) -> None:
    (tmp_path / "f/inside").mkdir(parents=True)
    with pytest.raises(BlockedError, match="not empty"):
        restore(tree, file_entry("f", size=1), b"x", Overwrite.ALWAYS)
    assert os.listdir(tmp_path) == ["f"]


def test_never_loses_against_what_appeared_meanwhile(tree: TargetTree, tmp_path: Path) -> None:
    temporary = TemporaryFile(tree, row_of(file_entry("f", size=1)), TOKEN)
    temporary.write(0, b"x")
    (tmp_path / "f").write_text("quicker")
    with pytest.raises(FileExistsError):
        temporary.commit(PRIVILEGES, Overwrite.NEVER)
    temporary.abandon()
    assert (tmp_path / "f").read_text() == "quicker"
    assert os.listdir(tmp_path) == ["f"]


def test_zeros_become_holes_whatever_the_chunks(tree: TargetTree, tmp_path: Path) -> None:
    block = SPARSE_BLOCK_BYTES
    content = b"a" * 100 + bytes(20 * block) + b"b" * block + bytes(40 * block) + b"c" + bytes(10 * block)
    temporary = TemporaryFile(tree, row_of(file_entry("f", size=len(content), sparse=True)), TOKEN)
    for begin in range(0, len(content), 7000):
        temporary.write(begin, content[begin : begin + 7000])
    temporary.commit(PRIVILEGES, Overwrite.ALWAYS)
    assert (tmp_path / "f").read_bytes() == content
    assert (tmp_path / "f").stat().st_blocks * 512 <= 6 * block


def test_zeros_of_a_file_that_was_not_sparse_are_written(tree: TargetTree, tmp_path: Path) -> None:
    content = bytes(8 * SPARSE_BLOCK_BYTES)
    restore(tree, file_entry("f", size=len(content)), content, Overwrite.ALWAYS)
    with (tmp_path / "f").open("rb") as file:
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_blocks * 512 >= len(content)


def test_parts_in_any_order_can_be_read_back(tree: TargetTree, tmp_path: Path) -> None:
    temporary = TemporaryFile(tree, row_of(file_entry("f", size=6)), TOKEN)
    temporary.write(3, b"def")
    temporary.write(0, b"abc")
    buffer = memoryview(bytearray(3))
    assert temporary.read_into(2, buffer) == 3
    assert bytes(buffer) == b"cde"
    assert temporary.read_into(5, buffer) == 1
    temporary.clear()
    assert temporary.read_into(0, buffer) == 0
    temporary.write(0, b"uvwxyz")
    temporary.commit(PRIVILEGES, Overwrite.ALWAYS)
    assert (tmp_path / "f").read_bytes() == b"uvwxyz"


class Calls:
    """Counts the calls of ``os`` that go to the system."""

    NAMES = (
        "open", "close", "pwrite", "fstat", "lstat", "fchown", "fchmod", "utime", "listxattr", "setxattr",
        "rename", "link", "unlink",
    )  # fmt: skip

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: Counter[str] = Counter()
        for name in self.NAMES:
            monkeypatch.setattr(os, name, partial(self._counted, name, getattr(os, name)))

    def _counted(self, name: str, call: Callable[..., object], *args: object, **kwargs: object) -> object:
        self.made[name] += 1
        return call(*args, **kwargs)


def restore_checked(tree: TargetTree, entry: Entry) -> None:
    temporary = TemporaryFile(tree, row_of(entry), TOKEN)
    temporary.write(0, b"abc")
    assert temporary.commit(PRIVILEGED, Overwrite.ALWAYS).problems == []


@pytest.mark.parametrize("mode", [0o100644, 0o100755, 0o100600, 0o100444])
def test_a_file_like_its_neighbour_costs_seven_calls(
    tree: TargetTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    restore_checked(tree, file_entry("first", mode=0o100644, size=3))
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        restore_checked(tree, file_entry("f", mode=mode, mtime_ns=-5, size=3))
    expected = Counter(("open", "pwrite", "utime", "fstat", "fchmod", "rename", "close"))
    # Nobody but the owner is let in before all is as it shall be; for some that is how it stays.
    assert calls.made == expected - Counter({"fchmod": int(mode == 0o100600)})
    status = (tmp_path / "f").stat()
    assert (status.st_mode, status.st_mtime_ns, status.st_size) == (mode, -5, 3)


@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("mode", [0o100640, 0o100604, 0o101777, 0o104755, 0o102755, 0o100000])
def test_any_mode_under_any_mask(tree: TargetTree, tmp_path: Path, mode: int, umask: int) -> None:
    old = os.umask(umask)
    try:
        for name in ("first", "f"):
            restore_checked(tree, file_entry(name, mode=mode, size=3))
    finally:
        os.umask(old)
    assert (tmp_path / "first").stat().st_mode == (tmp_path / "f").stat().st_mode == mode


@pytest.mark.parametrize("mode", [0o100644, 0o100640, 0o100604, 0o104755])
def test_nobody_else_sees_a_file_that_is_not_finished(tree: TargetTree, tmp_path: Path, mode: int) -> None:
    restore_checked(tree, file_entry("first", mode=mode, size=3))
    old = os.umask(0)
    try:
        temporary = TemporaryFile(tree, row_of(file_entry("f", mode=mode, size=3)), TOKEN)
    finally:
        os.umask(old)
    (name,) = (name for name in os.listdir(tmp_path) if name != "first")
    assert (tmp_path / name).stat().st_mode == 0o100600
    temporary.abandon()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owners_of_their_own_in_a_folder_that_is_known(tree: TargetTree, tmp_path: Path) -> None:
    restore_checked(tree, file_entry("first", size=3))
    for name, owner in (("f", 1234), ("g", 0)):
        restore_checked(tree, file_entry(name, mode=0o100644, uid=owner, gid=owner, size=3))
        status = (tmp_path / name).stat()
        assert (status.st_mode, status.st_uid, status.st_gid) == (0o100644, owner, owner)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
def test_a_folder_whose_new_files_come_to_belong_to_another_group(tree: TargetTree, tmp_path: Path) -> None:
    restore_checked(tree, file_entry("first", size=3))
    os.chown(tmp_path, 0, 2345)
    tmp_path.chmod(0o2777)
    restore_checked(tree, file_entry("f", mode=0o100644, size=3))
    status = (tmp_path / "f").stat()
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())


_ANYBODY = 0xFFFFFFFF
DEFAULT_ACL = struct.pack(
    "<I" + "HHI" * 5,
    2,  # the version; then tag, rights and number of the owner,
    *(0x01, 7, _ANYBODY),
    *(0x02, 7, 1234),  # a user,
    *(0x04, 5, _ANYBODY),  # the group,
    *(0x10, 7, _ANYBODY),  # the mask,
    *(0x20, 5, _ANYBODY),  # and others
)


def test_what_a_default_acl_gives_to_new_files_is_taken_away_from_each(
    tree: TargetTree, tmp_path: Path
) -> None:
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", DEFAULT_ACL)
    except OSError as error:
        pytest.skip(f"no ACLs here: {error.strerror}")
    for name in ("first", "f"):
        restore_checked(tree, file_entry(name, mode=0o100644, size=3))
        assert os.listxattr(tmp_path / name) == []
        assert (tmp_path / name).stat().st_mode == 0o100644
