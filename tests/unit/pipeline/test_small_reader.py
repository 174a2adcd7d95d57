"""Small entries read in batches: what is saved of them, and files that change under the reader's eyes."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from asyncbackup.format.metadata import decode_metadata
from asyncbackup.model import Action, Change, Entry, Extent, Failure, Kind, Pending, UploadReceipt
from asyncbackup.pipeline import attributes, small_reader
from asyncbackup.pipeline.payload import CopyPayload, WholePayload
from asyncbackup.pipeline.results import Unchanged
from asyncbackup.pipeline.small_reader import SmallReader, SmallResults
from tests.unit.pipeline.readings import MIB, see, transfer_settings, upload
from tests.unit.pipeline.walks import deep_tree
from tests.unit.unprivileged import as_nobody, open_folder_for_all

RACY_WINDOW_NS = attributes.RACY_WINDOW_NS
EXTENT = Extent(run="20260101T000000Z-0000", key="files/before", length=7)


class Clock:
    now_ns = 0


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests read what they have just written."""
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The usual window for racy times, and a clock that stands still."""
    clock = Clock()
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", RACY_WINDOW_NS)
    monkeypatch.setattr(time, "time_ns", lambda: clock.now_ns)
    return clock


def read(root: Path | bytes, *changes: Change) -> SmallResults:
    return SmallReader(transfer_settings(root).reading).read(changes)


def read_one(root: Path, path: bytes, **how: object) -> WholePayload:
    results = read(root, upload(see(root, path), **how))  # type: ignore[arg-type]
    assert results.outcomes == []
    (payload,) = results.payloads
    assert isinstance(payload, WholePayload)
    return payload


def reasons(results: SmallResults) -> list[str]:
    assert results.payloads == []
    assert results.grown == []
    return [outcome.reason for outcome in results.outcomes if isinstance(outcome, Failure)]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# What is saved


@pytest.mark.parametrize("content", [b"", b"x", b"hello\n" * 1000], ids=["empty", "byte", "more"])
def test_a_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d").mkdir()
    path = tmp_path / "d/f"
    path.write_bytes(content)
    path.chmod(0o640)
    status = path.stat()
    payload = read_one(tmp_path, b"d/f")
    entry = payload.entry
    assert bytes(payload.body) == content
    assert entry.sha256 == payload.body_sha256 == hashlib.sha256(content).digest()
    assert (payload.leased, payload.bytes_read) == (len(content), len(content))
    assert (payload.key, payload.encrypted, payload.pending) == ("files/d/f", False, Pending.NEW)
    assert (entry.path, entry.kind, entry.mode, entry.size) == (b"d/f", Kind.FILE, 0o100640, len(content))
    assert (entry.mtime_ns, entry.ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)
    assert (entry.uid, entry.gid, entry.nlink, entry.hardlink) == (status.st_uid, status.st_gid, 1, "")
    assert entry.extent is None
    decoded = decode_metadata(payload.metadata, key=payload.key, stored_size=len(content))
    assert (decoded.mode, decoded.mtime_ns, decoded.sha256) == (entry.mode, entry.mtime_ns, entry.sha256)


def test_owner_and_group_by_name_and_by_number(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
        entry = read_one(tmp_path, b"f").entry
        assert (entry.uid, entry.gid, entry.owner) == (0, 0, "root")
        os.chown(path, 4_000_000_001, 4_000_000_002)
        entry = read_one(tmp_path, b"f").entry
        assert (entry.uid, entry.gid, entry.owner, entry.group) == (4_000_000_001, 4_000_000_002, "", "")
    else:
        assert read_one(tmp_path, b"f").entry.uid == os.geteuid()


def test_folders_and_the_root(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o711)
    payload = read_one(tmp_path, b"d")
    assert (payload.key, payload.body, payload.leased) == ("files/d/", b"", 0)
    assert (payload.entry.kind, payload.entry.size, payload.entry.sha256) == (Kind.FOLDER, 0, b"")
    root = read_one(tmp_path, b"")
    assert (root.key, root.entry.path, root.entry.kind) == ("files/", b"", Kind.FOLDER)


@pytest.mark.parametrize("target", [b"nowhere", b"/absolute/../x", b"\xff\n\x1b", b"t" * 4000])
def test_a_symlink_is_not_followed(tmp_path: Path, target: bytes) -> None:
    os.symlink(target, os.fsencode(tmp_path) + b"/link")
    payload = read_one(tmp_path, b"link")
    assert (payload.entry.target, payload.entry.kind, payload.body) == (target, Kind.SYMLINK, b"")
    assert (payload.entry.size, payload.entry.sha256) == (0, b"")


def test_extended_attributes_of_every_kind_of_entry(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "d").mkdir()
    for name in ("f", "d", ""):
        os.setxattr(tmp_path / name, "user.b", b"\x00\xff")
        os.setxattr(tmp_path / name, "user.a", b"")
        assert read_one(tmp_path, name.encode()).entry.xattrs == ((b"user.a", b""), (b"user.b", b"\x00\xff"))
    if os.geteuid() == 0:
        (tmp_path / "link").symlink_to("f")
        os.setxattr(tmp_path / "link", "trusted.t", b"1", follow_symlinks=False)
        xattrs = dict(read_one(tmp_path, b"link").entry.xattrs)
        assert xattrs == {b"trusted.t": b"1"}, "the link's own, not its target's"


def test_access_control_lists(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").touch()
    try:
        subprocess.run(["setfacl", "-m", "u:12345:rwx", tmp_path / "d/f"], check=True, capture_output=True)
        subprocess.run(["setfacl", "-dm", "g:54321:r", tmp_path / "d"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("setfacl is not installed")
    for name, attribute in ((b"d/f", "system.posix_acl_access"), (b"d", "system.posix_acl_default")):
        expected = os.getxattr(os.path.join(os.fsencode(tmp_path), name), attribute)
        assert (attribute.encode(), expected) in read_one(tmp_path, name).entry.xattrs


def test_an_attribute_that_vanishes_between_listing_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.touch()
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.b", b"2")
    real = os.listxattr

    def list_then_remove(where: int, *, follow_symlinks: bool = True) -> list[str]:
        names = real(where, follow_symlinks=follow_symlinks)
        os.removexattr(path, "user.a")
        return names

    monkeypatch.setattr(os, "listxattr", list_then_remove)
    assert read_one(tmp_path, b"f").entry.xattrs == ((b"user.b", b"2"),)


def test_a_file_system_without_attributes_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(where: int, *, follow_symlinks: bool = True) -> list[str]:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "listxattr", refuse)
    (tmp_path / "f").touch()
    assert read_one(tmp_path, b"f").entry.xattrs == ()


def test_a_file_with_holes_is_marked(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(1_000_000)
    assert read_one(tmp_path, b"f").entry.sparse


def test_names_of_one_inode_share_a_label(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    one, two = (read_one(tmp_path, name).entry for name in (b"a", b"b"))
    assert one.hardlink == two.hardlink != ""
    assert one.nlink == 2


def test_a_file_at_the_end_of_a_path_longer_than_the_system_takes(tmp_path: Path) -> None:
    with deep_tree(tmp_path, 1500, name=b"deep") as top:
        folder = b"/".join([b"deep"] * 1500)
        seen = msgspec.structs.replace(see(top, b"deep"), folder=folder, name=b"file", mode=0o100644, size=0)
        results = read(top, upload(seen))
        (payload,) = results.payloads
        assert isinstance(payload, WholePayload)
        assert payload.key.startswith("long/")
        assert payload.entry.path == folder + b"/file"


def test_a_path_too_long_for_a_manifest_is_a_failure_of_its_own(tmp_path: Path) -> None:
    with deep_tree(tmp_path, 1400, name=b"\xff" * 250) as top:
        folder = b"/".join([b"\xff" * 250] * 1400)
        seen = msgspec.structs.replace(
            see(top, b"\xff" * 250), folder=folder, name=b"file", mode=0o100644, size=0
        )
        assert reasons(read(top, upload(seen))) == [
            "its path and extended attributes are too large for a manifest (1 MiB in all)"
        ]


# Racy times


def test_a_ctime_too_young_to_tell_a_further_change_is_saved_as_unknown(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "f"
    path.touch()
    ctime_ns = path.stat().st_ctime_ns
    for now_ns, expected in (
        (ctime_ns, 0),
        (ctime_ns + RACY_WINDOW_NS - 1, 0),
        (ctime_ns - 10**9, 0),  # the clock was put back: nothing is certain
        (ctime_ns + RACY_WINDOW_NS, ctime_ns),
        (ctime_ns + 10**12, ctime_ns),
    ):
        clock.now_ns = now_ns
        assert read_one(tmp_path, b"f").entry.ctime_ns == expected, now_ns - ctime_ns


def test_the_time_that_counts_is_before_the_last_look_not_after_the_digest(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digesting takes long enough for a young ctime to look old; a change right after the last look
    would then never be seen."""
    path = tmp_path / "f"
    path.write_bytes(b"x")
    clock.now_ns = path.stat().st_ctime_ns
    real = hashlib.sha256

    def slow(data: bytes = b"") -> object:
        clock.now_ns += 10**9
        return real(data)

    monkeypatch.setattr(hashlib, "sha256", slow)
    assert read_one(tmp_path, b"f").entry.ctime_ns == 0
    assert clock.now_ns > path.stat().st_ctime_ns


def test_folders_and_symlinks_are_never_racy(tmp_path: Path, clock: Clock) -> None:
    """Their whole state is in the stat and the target that were read after it."""
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    for name in (b"d", b"link"):
        clock.now_ns = see(tmp_path, name).ctime_ns
        assert read_one(tmp_path, name).entry.ctime_ns == see(tmp_path, name).ctime_ns


# Files that change


class Meddler:
    """Does something to the file when its content is about to be read, or has just been."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: list[Callable[[], object]] = []
        self.after: list[Callable[[], object]] = []
        real = small_reader._read_all

        def read_all(descriptor: int, size: int) -> bytes | None:
            if self.before:
                self.before.pop(0)()
            body = real(descriptor, size)
            if self.after:
                self.after.pop(0)()
            return body

        monkeypatch.setattr(small_reader, "_read_all", read_all)

    @property
    def done(self) -> bool:
        return not self.before and not self.after


@pytest.fixture
def meddler(monkeypatch: pytest.MonkeyPatch) -> Meddler:
    return Meddler(monkeypatch)


def test_a_file_that_shrank_before_it_was_opened_is_saved_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    change = upload(see(tmp_path, b"f"))
    path.write_bytes(b"01")
    (payload,) = read(tmp_path, change).payloads
    assert isinstance(payload, WholePayload)
    assert (payload.entry.size, bytes(payload.body), payload.leased) == (2, b"01", 2)


def test_a_file_that_grew_before_it_was_opened_is_not_read_past_what_was_leased(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"01")
    change = upload(see(tmp_path, b"f"))
    path.write_bytes(b"0123456789")
    results = read(tmp_path, change)
    assert (results.payloads, results.outcomes) == ([], [])
    (grown,) = results.grown
    assert grown.entry == see(tmp_path, b"f")
    assert (grown.action, grown.pending) == (change.action, change.pending)


def test_a_file_that_shrinks_while_it_is_read_is_read_again(tmp_path: Path, meddler: Meddler) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    meddler.before = [lambda: os.truncate(path, 3)]
    payload = read_one(tmp_path, b"f")
    assert (payload.entry.size, bytes(payload.body)) == (3, b"012")
    assert meddler.done


def test_a_file_that_grows_while_it_is_read_is_read_again_with_more_room(
    tmp_path: Path, meddler: Meddler
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")

    def append() -> None:
        with path.open("ab") as file:
            file.write(b"!")

    meddler.before = [append]
    results = read(tmp_path, upload(see(tmp_path, b"f")))
    assert [change.entry.size for change in results.grown] == [11]
    assert (results.payloads, results.outcomes) == ([], [])


def test_a_rewrite_of_the_same_size_with_its_mtime_put_back_is_noticed(
    tmp_path: Path, meddler: Meddler
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before")
    os.utime(path, ns=(0, 0))

    def rewrite() -> None:
        before_ns = path.stat().st_ctime_ns
        while path.stat().st_ctime_ns == before_ns:  # until the clock of the file system has ticked
            path.write_bytes(b"AFTER!")
            os.utime(path, ns=(0, 0))

    meddler.after = [rewrite]
    payload = read_one(tmp_path, b"f")
    assert bytes(payload.body) == b"AFTER!"
    assert meddler.done


def test_a_file_that_never_stands_still_is_a_failure_and_no_mixture(tmp_path: Path, meddler: Meddler) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0" * 10)

    def rewrite() -> None:
        before_ns = path.stat().st_ctime_ns
        while path.stat().st_ctime_ns == before_ns:
            path.write_bytes(os.urandom(10))

    meddler.after = [rewrite] * small_reader.READ_ATTEMPTS
    results = read(tmp_path, upload(see(tmp_path, b"f")))
    assert reasons(results) == ["it kept changing while it was read"]
    assert meddler.done


def test_an_empty_file_that_gets_content_while_it_is_read(tmp_path: Path, meddler: Meddler) -> None:
    path = tmp_path / "f"
    path.touch()
    meddler.before = [lambda: path.write_bytes(b"late")]
    results = read(tmp_path, upload(see(tmp_path, b"f")))
    assert [change.entry.size for change in results.grown] == [4]


def test_a_file_moved_over_while_it_is_read_is_saved_as_it_was(tmp_path: Path, meddler: Meddler) -> None:
    """The descriptor holds the old file; renaming over it moves its ctime, so it is read again."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")
    meddler.after = [lambda: (tmp_path / "new").rename(path)]
    payload = read_one(tmp_path, b"f")
    assert bytes(payload.body) == b"new"


# Entries that are no longer what they were


def replaced(tmp_path: Path, how: Callable[[Path], object]) -> SmallResults:
    path = tmp_path / "d/f"
    path.parent.mkdir()
    path.write_bytes(b"content")
    change = upload(see(tmp_path, b"d/f"))
    path.unlink()
    how(path)
    return read(tmp_path, change)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda path: None, "cannot read: No such file or directory"),
        (os.mkfifo, "it is no regular file any more"),
        (Path.mkdir, "it is no regular file any more"),
        (make_socket, "cannot read: No such device or address"),
        (lambda path: path.symlink_to("/etc/passwd"), "cannot read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "cannot read: Too many levels of symbolic links"),
        (lambda path: path.parent.rmdir(), "cannot read: No such file or directory"),
    ],
    ids=[
        "vanished",
        "FIFO",
        "folder",
        "socket",
        "symlink",
        "symlink to a device",
        "vanished with its folder",
    ],
)
def test_another_thing_in_place_of_a_file_is_a_failure_and_never_blocks(
    tmp_path: Path, how: Callable[[Path], object], reason: str
) -> None:
    before = descriptors()
    assert reasons(replaced(tmp_path, how)) == [reason]
    assert descriptors() == before


def test_a_folder_replaced_by_a_symlink_is_not_followed(tmp_path: Path) -> None:
    for name in ("d", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(name.encode())
    change = upload(see(tmp_path, b"d/f"))
    (tmp_path / "d").rename(tmp_path / "old")
    (tmp_path / "d").symlink_to("elsewhere")
    assert reasons(read(tmp_path, change)) == ["cannot read: Not a directory"]


def test_a_symlink_that_became_a_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x")
    change = upload(see(tmp_path, b"link"))
    (tmp_path / "link").unlink()
    (tmp_path / "link").touch()
    results = read(tmp_path, change)
    assert reasons(results) == ["cannot read: Invalid argument"]
    assert [outcome.kind for outcome in results.outcomes if isinstance(outcome, Failure)] == [Kind.SYMLINK]


def test_an_unreadable_file_is_a_failure() -> None:
    with open_folder_for_all() as base:
        (base / "f").write_bytes(b"secret")
        (base / "f").chmod(0o000)
        with as_nobody():
            assert reasons(read(base, upload(see(base, b"f")))) == ["cannot read: Permission denied"]


def test_files_of_others_are_read_although_their_atime_cannot_be_left_alone() -> None:
    with open_folder_for_all() as base:
        (base / "f").write_bytes(b"public")
        with as_nobody():
            assert bytes(read_one(base, b"f").body) == b"public"


def test_one_failure_of_a_batch_leaves_the_others_alone(tmp_path: Path) -> None:
    names = [b"a/1", b"a/2", b"b/3", b"b/4", b"a/5"]
    for name in names:
        path = tmp_path / name.decode()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    changes = [upload(see(tmp_path, name)) for name in names]
    (tmp_path / "a/2").unlink()
    (tmp_path / "b").rename(tmp_path / "c")
    before = descriptors()
    results = read(tmp_path, *changes)
    assert descriptors() == before
    assert {p.entry.path for p in results.payloads if isinstance(p, WholePayload)} == {b"a/1", b"a/5"}
    assert {o.path for o in results.outcomes if isinstance(o, Failure)} == {b"a/2", b"b/3", b"b/4"}


# What is known already


def known(root: Path, path: bytes, **changes: object) -> Entry:
    """The row of an earlier run that saved the file as it is now."""
    return msgspec.structs.replace(read_one(root, path).entry, extent=EXTENT, **changes)


def recheck(root: Path, row: Entry, **changes: object) -> SmallResults:
    change = Change(entry=see(root, row.path), action=Action.RECHECK, pending=Pending.CHANGED, known=row)
    return read(root, msgspec.structs.replace(change, **changes))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    path.write_bytes(b"content")
    return path


def test_read_and_found_the_same_keeps_its_extent_and_its_mark(tmp_path: Path, file: Path) -> None:
    row = known(tmp_path, b"f", ctime_ns=0)
    for mark in (Pending.COMMITTED, Pending.NEW, Pending.CHANGED):
        results = recheck(tmp_path, row, known_pending=mark)
        (outcome,) = results.outcomes
        assert isinstance(outcome, Unchanged)
        assert outcome.entry == msgspec.structs.replace(row, ctime_ns=see(tmp_path, b"f").ctime_ns)
        assert (outcome.pending, outcome.bytes_read, results.payloads) == (mark, 7, [])


def test_a_row_believed_gone_is_saved_again(tmp_path: Path, file: Path) -> None:
    (outcome,) = recheck(tmp_path, known(tmp_path, b"f"), known_pending=Pending.DELETED).outcomes
    assert isinstance(outcome, UploadReceipt)
    assert outcome.pending is Pending.CHANGED


def test_other_attributes_with_the_same_content_upload_nothing(tmp_path: Path, file: Path) -> None:
    row = known(tmp_path, b"f")
    os.setxattr(file, "user.a", b"1")
    results = recheck(tmp_path, row)
    (outcome,) = results.outcomes
    assert isinstance(outcome, UploadReceipt)
    assert (outcome.entry.xattrs, outcome.entry.extent) == (((b"user.a", b"1"),), EXTENT)
    assert (outcome.pending, outcome.bytes_read, results.payloads) == (Pending.CHANGED, 7, [])


def test_other_content_is_uploaded(tmp_path: Path, file: Path) -> None:
    row = known(tmp_path, b"f")
    file.write_bytes(b"CONTENT")
    (payload,) = recheck(tmp_path, row).payloads
    assert isinstance(payload, WholePayload)
    assert (bytes(payload.body), payload.pending) == (b"CONTENT", Pending.CHANGED)


def test_a_touched_file_with_the_same_content_uploads_nothing(tmp_path: Path, file: Path) -> None:
    row = known(tmp_path, b"f")
    os.utime(file, ns=(0, 5))
    results = recheck(tmp_path, row, action=Action.UPLOAD)
    (outcome,) = results.outcomes
    assert isinstance(outcome, UploadReceipt)
    assert (outcome.entry.mtime_ns, outcome.entry.extent, results.payloads) == (5, EXTENT, [])


def test_a_row_without_content_at_the_destination_is_uploaded(tmp_path: Path, file: Path) -> None:
    row = msgspec.structs.replace(known(tmp_path, b"f"), extent=None)
    assert len(recheck(tmp_path, row).payloads) == 1


def test_metadata_alone_reads_no_content(tmp_path: Path, file: Path) -> None:
    row = known(tmp_path, b"f")
    file.chmod(0o600)
    if os.geteuid() != 0:
        file.chmod(0o200)
    results = recheck(tmp_path, row, action=Action.METADATA)
    (outcome,) = results.outcomes
    assert isinstance(outcome, UploadReceipt)
    assert (outcome.entry.sha256, outcome.entry.extent) == (row.sha256, EXTENT)
    assert outcome.entry.mode == file.stat().st_mode
    assert outcome.bytes_read == 0


def test_a_symlink_with_the_same_target_uploads_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x")
    row = known(tmp_path, b"link")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("x")
    results = recheck(tmp_path, row, action=Action.UPLOAD)
    (outcome,) = results.outcomes
    assert isinstance(outcome, UploadReceipt)
    assert outcome.entry.extent == EXTENT
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("y")
    assert len(recheck(tmp_path, row, action=Action.UPLOAD).payloads) == 1


# Further names


def link(root: Path, path: bytes, first: Entry | None, **changes: object) -> SmallResults:
    change = Change(entry=see(root, path), action=Action.LINK, pending=Pending.NEW, link_to=first)
    return read(root, msgspec.structs.replace(change, **changes))


def test_a_further_name_takes_everything_from_the_first(tmp_path: Path, file: Path) -> None:
    os.link(file, tmp_path / "g")
    first = known(tmp_path, b"f")
    (payload,) = link(tmp_path, b"g", first).payloads
    assert isinstance(payload, CopyPayload)
    assert payload.entry == msgspec.structs.replace(first, path=b"g")
    assert (payload.source, payload.first_path, payload.key) == (EXTENT, b"f", "files/g")


def test_a_further_name_that_has_its_own_object_keeps_it(tmp_path: Path, file: Path) -> None:
    os.link(file, tmp_path / "g")
    own = Extent(run="older", key="files/g", length=7)
    first = known(tmp_path, b"f")
    row = msgspec.structs.replace(first, path=b"g", extent=own, ctime_ns=0)
    results = link(tmp_path, b"g", first, known=row, known_pending=Pending.COMMITTED)
    (outcome,) = results.outcomes
    assert isinstance(outcome, Unchanged), "only the ctime is another"
    assert outcome.entry == msgspec.structs.replace(first, path=b"g", extent=own)
    assert outcome.pending is Pending.COMMITTED
    chmodded = msgspec.structs.replace(row, mode=0o100600)
    results = link(tmp_path, b"g", first, known=chmodded, pending=Pending.CHANGED)
    (changed,) = results.outcomes
    assert isinstance(changed, UploadReceipt)
    assert (changed.entry.extent, changed.pending) == (own, Pending.CHANGED)


@pytest.mark.parametrize(
    "first",
    [
        lambda row: None,
        lambda row: msgspec.structs.replace(row, extent=None),
        lambda row: msgspec.structs.replace(row, size=6),
        lambda row: msgspec.structs.replace(row, mtime_ns=1),
    ],
    ids=["not saved", "without content", "other size", "other mtime"],
)
def test_a_further_name_of_what_was_not_saved_is_a_failure(
    tmp_path: Path, file: Path, first: Callable[[Entry], Entry | None]
) -> None:
    os.link(file, tmp_path / "g")
    results = link(tmp_path, b"g", first(known(tmp_path, b"f")))
    assert len(reasons(results)) == 1
    assert "another name" in reasons(results)[0]


def test_batches_for_packs_are_read_into_the_same_memory(tmp_path: Path) -> None:
    for name in (b"a", b"b"):
        (tmp_path / os.fsdecode(name)).write_bytes(name * 1000)
    settings = msgspec.structs.replace(transfer_settings(tmp_path), packed=True, pack_below_bytes=10_000)
    reader = SmallReader(settings.reading)
    a, b = (upload(see(tmp_path, name)) for name in (b"a", b"b"))
    first = reader.read([a]).items
    assert bytes(reader.read([b]).items[0].body) == b"b" * 1000
    assert bytes(first[0].body) == b"a" * 1000, "still in use"
    assert reader.arenas.made == 2
    del first
    assert bytes(reader.read([a]).items[0].body) == b"a" * 1000
    assert reader.arenas.made == 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_small_file_is_read_in_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    for number in range(1, 9):
        (tmp_path / f"{number}").write_bytes(b"x" * 512 * number)
    changes = [upload(see(tmp_path, b"%d" % number)) for number in range(1, 9)]
    settings = msgspec.structs.replace(transfer_settings(tmp_path), packed=packed, pack_below_bytes=MIB)
    calls: list[int] = []
    read_once, readv_once = os.read, os.readv

    def counted_read(descriptor: int, size: int) -> bytes:
        calls.append(descriptor)
        return read_once(descriptor, size)

    def counted_readv(descriptor: int, buffers: Sequence[memoryview]) -> int:
        calls.append(descriptor)
        return readv_once(descriptor, buffers)

    monkeypatch.setattr(os, "read", counted_read)
    monkeypatch.setattr(os, "readv", counted_readv)
    results = SmallReader(settings.reading).read(changes)
    assert len(results.items) + len(results.payloads) == len(calls) == 8


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_comes_in_pieces_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    content = os.urandom(10_000)
    (tmp_path / "f").write_bytes(content)
    change = upload(see(tmp_path, b"f"))
    settings = msgspec.structs.replace(transfer_settings(tmp_path), packed=packed, pack_below_bytes=MIB)
    read_once, readv_once = os.read, os.readv
    monkeypatch.setattr(os, "read", lambda descriptor, size: read_once(descriptor, min(size, 3000)))
    monkeypatch.setattr(os, "readv", lambda descriptor, buffers: readv_once(descriptor, [buffers[0][:3000]]))
    results = SmallReader(settings.reading).read([change])
    bodies = [item.body for item in results.items]
    bodies += [payload.body for payload in results.payloads if isinstance(payload, WholePayload)]
    assert [bytes(body) for body in bodies] == [content]
