"""Owner, attributes, mode and times, through descriptors."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncbackup.restore.metadata import (
    Applied,
    Note,
    Privileges,
    apply_to_descriptor,
    apply_to_symlink,
)
from tests.unit.restore.backup import file_entry, folder_entry, symlink_entry

if TYPE_CHECKING:
    from asyncbackup.model import Entry

AS_ROOT = Privileges(root=True, uid=0, groups=frozenset({0}), privileged=False)
PRIVILEGED = Privileges(root=True, uid=0, groups=frozenset({0}), privileged=True)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep


def apply(path: Path, entry: Entry, privileges: Privileges) -> Applied:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return apply_to_descriptor(descriptor, entry, privileges)
    finally:
        os.close(descriptor)


def somebody(**fields: bool) -> Privileges:
    """This process as if it were nobody in particular."""
    return Privileges(root=False, uid=os.geteuid(), groups=frozenset({os.getegid()}), **fields)


@needs_root
def test_setuid_survives_the_change_of_owner(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    applied = apply(tmp_path / "f", file_entry("f", mode=0o106755, uid=1234, gid=2345), PRIVILEGED)
    status = (tmp_path / "f").stat()
    assert (status.st_mode, status.st_uid, status.st_gid) == (0o106755, 1234, 2345)
    assert (applied.problems, applied.notes) == ([], {})


@needs_root
@pytest.mark.parametrize("bits", [0o4000, 0o2000, 0o6000])
def test_root_gives_no_file_a_set_id_bit_without_being_asked(tmp_path: Path, bits: int) -> None:
    (tmp_path / "f").write_text("x")
    for uid, gid in ((0, 0), (1234, 2345)):
        applied = apply(tmp_path / "f", file_entry("f", mode=0o101755 | bits, uid=uid, gid=gid), AS_ROOT)
        status = (tmp_path / "f").stat()
        assert (status.st_mode, status.st_uid, status.st_gid) == (0o101755, uid, gid)
        assert (applied.problems, applied.notes) == ([], {Note.SET_ID_UNASKED: 1})


def test_nor_does_anybody_give_one_to_files_of_their_own(tmp_path: Path) -> None:
    """What the file does was written by whoever can write to the bucket."""
    (tmp_path / "f").write_text("x")
    applied = apply(tmp_path / "f", file_entry("f", mode=0o106755), somebody(privileged=False))
    assert (tmp_path / "f").stat().st_mode == 0o100755
    assert (applied.problems, applied.notes) == ([], {Note.SET_ID_UNASKED: 1})


def test_folders_keep_setgid_and_lose_setuid(tmp_path: Path) -> None:
    """Setgid says which group new files belong to; setuid means something on some systems alone."""
    applied = apply(tmp_path, folder_entry("", mode=0o46750), somebody(privileged=False))
    assert tmp_path.stat().st_mode == 0o42750
    assert (applied.problems, applied.notes) == ([], {Note.SET_ID_UNASKED: 1})


def test_whoever_is_not_root_keeps_files_and_loses_the_bits_of_others(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    entry = file_entry("f", mode=0o106755, uid=os.geteuid() + 1, gid=os.getegid() + 1)
    applied = apply(tmp_path / "f", entry, somebody(privileged=True))
    status = (tmp_path / "f").stat()
    assert (status.st_mode, status.st_uid) == (0o100755, os.geteuid())
    assert applied.problems == []
    assert applied.notes == {Note.OWNER: 1, Note.SET_ID: 1}


def test_whoever_is_not_root_may_ask_for_setuid_of_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    applied = apply(tmp_path / "f", file_entry("f", mode=0o106755), somebody(privileged=True))
    assert (tmp_path / "f").stat().st_mode == 0o106755
    assert (applied.problems, applied.notes) == ([], {})


@needs_root
def test_capabilities_and_trusted_attributes_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    xattrs = ((b"security.capability", CAPABILITY), (b"trusted.t", b"1"), (b"user.u", b"2"))
    entry = file_entry("f", xattrs=xattrs, uid=1234)
    applied = apply(tmp_path / "f", entry, AS_ROOT)
    assert os.listxattr(tmp_path / "f") == ["user.u"]
    assert (applied.problems, applied.notes) == ([], {Note.PRIVILEGED: 2})
    applied = apply(tmp_path / "f", entry, Privileges.of_process(privileged=True))
    assert {os.fsencode(n): os.getxattr(tmp_path / "f", n) for n in os.listxattr(tmp_path / "f")} == dict(
        xattrs
    )
    assert (applied.problems, applied.notes) == ([], {})


def test_an_attribute_that_cannot_be_set_is_a_problem_and_the_rest_is_applied(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    entry = file_entry("f", mode=0o100604, mtime_ns=77, xattrs=((b"nonsense", b"1"), (b"user.u", b"2")))
    applied = apply(tmp_path / "f", entry, somebody(privileged=False))
    assert applied.problems == ["attribute nonsense: Operation not supported"]
    status = (tmp_path / "f").stat()
    assert (status.st_mode, status.st_mtime_ns, os.listxattr(tmp_path / "f")) == (0o100604, 77, ["user.u"])


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="setfacl is not installed")
def test_acls_are_restored_and_inherited_ones_removed(tmp_path: Path) -> None:
    os.system(f"setfacl -d -m u:1234:rwx {tmp_path}")  # noqa: S605 - a path of pytest's own
    (tmp_path / "f").write_text("x")
    assert os.listxattr(tmp_path / "f") == ["system.posix_acl_access"]
    assert apply(tmp_path / "f", file_entry("f", mode=0o100640), AS_ROOT).problems == []
    assert os.listxattr(tmp_path / "f") == []
    assert (tmp_path / "f").stat().st_mode == 0o100640
    os.system(f"setfacl -m u:1234:rw {tmp_path / 'f'}")  # noqa: S605
    acl = os.getxattr(tmp_path / "f", "system.posix_acl_access")
    mode = (tmp_path / "f").stat().st_mode
    (tmp_path / "g").write_text("x")
    entry = file_entry("g", mode=mode, xattrs=((b"system.posix_acl_access", acl),))
    assert apply(tmp_path / "g", entry, AS_ROOT).problems == []
    assert os.getxattr(tmp_path / "g", "system.posix_acl_access") == acl
    assert (tmp_path / "g").stat().st_mode == mode


def test_an_existing_folder_loses_attributes_that_the_snapshot_does_not_have(tmp_path: Path) -> None:
    os.setxattr(tmp_path, "user.old", b"1")
    entry = folder_entry("", mode=0o42750, xattrs=((b"user.new", b"2"),))
    assert apply(tmp_path, entry, Privileges.of_process(privileged=False)).problems == []
    assert os.listxattr(tmp_path) == ["user.new"]
    assert tmp_path.stat().st_mode == 0o42750


@pytest.mark.parametrize("mtime_ns", [0, -1, -1_500_000_000_123_456_789, 4_102_444_800_000_000_001])
def test_times_are_exact(tmp_path: Path, mtime_ns: int) -> None:
    (tmp_path / "f").write_text("x")
    assert apply(tmp_path / "f", file_entry("f", mtime_ns=mtime_ns), AS_ROOT).problems == []
    assert (tmp_path / "f").stat().st_mtime_ns == mtime_ns


def test_a_time_that_the_file_system_does_not_have_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    far = 2**63 * 1_000_000_000  # seconds beyond 63 bits
    problems = apply(tmp_path / "f", file_entry("f", mtime_ns=far), AS_ROOT).problems
    assert len(problems) == 1
    assert problems[0].startswith("time: ")


@needs_root
@pytest.mark.parametrize(("uid", "gid"), [(-1, 0), (0, -1), (2**32 - 1, 0), (2**40, 0)])
def test_numbers_that_are_no_owner_change_nothing(tmp_path: Path, uid: int, gid: int) -> None:
    (tmp_path / "f").write_text("x")
    applied = apply(tmp_path / "f", file_entry("f", mode=0o104755, uid=uid, gid=gid), PRIVILEGED)
    assert applied.problems == [f"owner {uid}:{gid} is no owner"]
    assert (tmp_path / "f").stat().st_mode == 0o100755


@needs_root
def test_a_symlink_gets_its_own_metadata_and_its_target_none(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("x")
    before = canary.stat()
    (tmp_path / "l").symlink_to(canary)
    entry = symlink_entry("l", "canary", uid=1234, gid=2345, mtime_ns=99, xattrs=((b"trusted.t", b"1"),))
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        applied = apply_to_symlink(b"l", folder, entry, Privileges.of_process(privileged=True))
        with pytest.raises(OSError, match="was replaced"):
            apply_to_symlink(b"canary", folder, entry, AS_ROOT)
    finally:
        os.close(folder)
    status = (tmp_path / "l").lstat()
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (1234, 2345, 99)
    after = canary.stat()
    assert (after.st_uid, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_uid,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    # Whether symlinks may have attributes is the file system's business; if they may, it is there.
    if not applied.problems:
        assert os.listxattr(tmp_path / "l", follow_symlinks=False) == ["trusted.t"]


def test_sticky_and_setgid_folders_keep_their_bits(tmp_path: Path) -> None:
    assert apply(tmp_path, folder_entry("", mode=stat.S_IFDIR | 0o3775), AS_ROOT).problems == []
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o3775
