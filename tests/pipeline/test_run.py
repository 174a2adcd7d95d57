"""What a run saves, what it leaves alone, and what it counts."""

from __future__ import annotations

import os
import socket
import sqlite3
from pathlib import Path

import msgspec
import pytest

from asyncbackup.errors import CatalogError, CatalogMissingError, SourceGuardError
from asyncbackup.model import Kind
from tests.workbench import MIB, Workbench, age, picture


def objects(bench: Workbench) -> set[str]:
    """Every file at the destination, relative to it."""
    root = Path(bench.section.destination.removeprefix("file://"))
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def assert_sums_up(summary: object) -> None:
    figures = msgspec.to_builtins(summary)
    assert figures["files_scanned"] == (
        figures["files_new"] + figures["files_changed"] + figures["files_unchanged"] + figures["files_failed"]
    )


async def test_a_first_run_saves_everything_and_restores_exactly(bench: Workbench) -> None:
    bench.write("a.txt", b"hello")
    bench.write("empty", b"")
    bench.write("docs/report.pdf", os.urandom(100_000), mode=0o640)
    (bench.tree / "hollow").mkdir()
    (bench.tree / "link").symlink_to("docs/report.pdf")
    os.setxattr(bench.tree / "a.txt", "user.colour", b"blue")
    age(bench.tree / "a.txt")
    before = picture(bench.tree)

    summary = await bench.run()

    assert (summary.files_scanned, summary.files_new, summary.symlinks, summary.folders) == (3, 3, 1, 3)
    assert summary.bytes_scanned == summary.bytes_read == summary.bytes_uploaded == 100_005
    assert summary.requests["PutObject"] == 1 + 3 + 1 + 3 + 1, "mark, files, symlink, folders, manifest"
    assert_sums_up(summary)
    assert picture(await bench.restored()) == before
    prefix = f"home/data/{summary.snapshot}/files/"
    assert {prefix + "a.txt", prefix + "empty", prefix + "docs/report.pdf"} < objects(bench)


async def test_an_unchanged_run_reads_nothing_and_sends_a_mark_and_the_manifest(bench: Workbench) -> None:
    for number in range(50):
        bench.write(f"d{number % 5}/f{number}", b"x" * number)
    await bench.run()
    summary = await bench.run()
    assert summary.files_unchanged == summary.files_scanned == 50
    assert (summary.bytes_read, summary.bytes_uploaded) == (0, 0)
    assert summary.requests == {"PutObject": 2, "ListObjectsV2": 1, "HeadObject": 1}
    assert_sums_up(summary)


async def test_only_what_changed_is_uploaded_and_older_snapshots_stay(bench: Workbench) -> None:
    bench.write("same", b"same")
    bench.write("changed", b"before")
    bench.write("gone", b"gone")
    first = await bench.run()
    old = picture(bench.tree)
    bench.write("changed", b"after it")
    (bench.tree / "gone").unlink()
    bench.write("new", b"new")
    second = await bench.run()
    assert (second.files_new, second.files_changed, second.files_unchanged, second.files_deleted) == (
        1,
        1,
        1,
        1,
    )
    assert second.bytes_uploaded == len(b"after it") + len(b"new")
    assert picture(await bench.restored()) == picture(bench.tree)
    assert picture(await bench.restored(snapshot=first.snapshot, name="old")) == old
    entries = await bench.entries()
    assert entries[b"same"].extent is not None
    assert entries[b"same"].extent.run == first.snapshot


async def test_chmod_and_new_owner_upload_and_read_nothing(bench: Workbench) -> None:
    path = bench.write("file", b"content")
    await bench.run()
    path.chmod(0o600)
    os.chown(path, os.getuid(), os.getgid())
    summary = await bench.run()
    assert (summary.files_changed, summary.bytes_read, summary.bytes_uploaded) == (1, 0, 0)
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_a_new_xattr_is_metadata_and_uploads_nothing(bench: Workbench) -> None:
    path = bench.write("file", b"content")
    await bench.run()
    os.setxattr(path, "user.tag", b"1")
    summary = await bench.run()
    assert (summary.files_changed, summary.bytes_uploaded) == (1, 0)
    assert (await bench.entries())[b"file"].xattrs == ((b"user.tag", b"1"),)


async def test_a_rewrite_with_its_mtime_put_back_is_seen(bench: Workbench) -> None:
    path = bench.write("file", b"content")
    age(path)
    await bench.run()
    before = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    summary = await bench.run()
    assert (summary.files_changed, summary.bytes_uploaded) == (1, 7)
    assert (await bench.restored() / "file").read_bytes() == b"CONTENT"


async def test_a_touched_ctime_alone_is_read_and_counted_unchanged_or_changed_without_upload(
    bench: Workbench,
) -> None:
    path = bench.write("file", b"content")
    age(path)
    await bench.run()
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    summary = await bench.run()
    assert (summary.bytes_read, summary.bytes_uploaded, summary.files_failed) == (7, 0, 0)
    assert_sums_up(summary)
    third = await bench.run()
    assert third.bytes_read == 0, "the new ctime was recorded"


async def test_checksum_reads_every_file_and_uploads_only_differences(bench: Workbench) -> None:
    bench.write("small", b"content")
    bench.write("large", os.urandom(6 * MIB))
    for name in ("small", "large"):
        age(bench.tree / name)
    await bench.run()
    await bench.run()
    summary = await bench.run(checksum=True)
    assert summary.bytes_read == 7 + 6 * MIB
    assert (summary.files_unchanged, summary.bytes_uploaded) == (2, 0)


async def test_what_a_folder_is_known_by_counts_for_nothing_with_checksum(bench: Workbench) -> None:
    bench.write("d/f", b"content")
    age(bench.tree / "d/f")
    await bench.run()
    # What a disk does that forgets: other bytes, and nothing of a file's status says so.
    database = bench.settings.database_path("home")
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM listings").fetchone() == (1,)
        connection.execute("UPDATE entries SET sha256 = zeroblob(32) WHERE name = x'66'")
    connection.close()
    database.with_name(database.name + ".sha256").unlink()
    assert (await bench.run()).bytes_read == 0
    assert (await bench.run(checksum=True)).bytes_uploaded == 7


async def test_a_large_file_goes_up_in_parts(bench: Workbench) -> None:
    content = os.urandom(12 * MIB + 17)
    bench.write("large", content)
    summary = await bench.run()
    assert summary.requests["UploadPart"] == 3
    assert summary.requests["CompleteMultipartUpload"] == 1
    assert summary.bytes_uploaded == len(content)
    assert (await bench.restored() / "large").read_bytes() == content
    extent = (await bench.entries())[b"large"].extent
    assert extent is not None
    assert (extent.part_size, extent.checksum[-2:]) == (5 * MIB, "-3")


async def test_the_byte_budget_bounds_what_is_in_flight(bench: Workbench) -> None:
    for number in range(6):
        bench.write(f"f{number}", os.urandom(11 * MIB))
    bench.settings = msgspec.structs.replace(bench.settings, memory_limit_bytes=16 * MIB)
    summary = await bench.run()
    assert 5 * MIB <= summary.peak_inflight_bytes <= 16 * MIB
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_hard_links_are_uploaded_once_and_come_back_linked(bench: Workbench) -> None:
    path = bench.write("one", os.urandom(1000))
    (bench.tree / "sub").mkdir()
    os.link(path, bench.tree / "sub/two")
    os.link(path, bench.tree / "three")
    summary = await bench.run()
    assert (summary.files_new, summary.bytes_read, summary.bytes_uploaded) == (3, 1000, 1000)
    assert summary.requests["CopyObject"] == 2
    assert picture(await bench.restored()) == picture(bench.tree)
    root = Path(bench.section.destination.removeprefix("file://"))
    for name in ("one", "sub/two", "three"):
        stored = root / "home/data" / summary.snapshot / "files" / name
        assert stored.read_bytes() == path.read_bytes(), "every name is a file of its own at the destination"
    second = await bench.run()
    assert (second.files_unchanged, second.bytes_read) == (3, 0)


async def test_a_further_link_in_a_later_run_uploads_nothing(bench: Workbench) -> None:
    path = bench.write("a", b"content")
    await bench.run()
    os.link(path, bench.tree / "b")
    summary = await bench.run()
    assert summary.files_new == 1
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_linked_symlinks_come_back(bench: Workbench) -> None:
    (bench.tree / "l1").symlink_to("nowhere")
    os.link(bench.tree / "l1", bench.tree / "l2", follow_symlinks=False)
    await bench.run()
    assert picture(await bench.restored()) == picture(bench.tree)


@pytest.mark.parametrize(
    "name",
    [
        b"plain name",
        b"100%",
        b"%2F",
        b"%41bc",
        b"back\\slash",
        b"new\nline",
        b"esc\x1b[31m",
        b"\xff\xfe",
        b"caf\xc3\xa9",
        b"cafe\xcc\x81",
        b"..foo",
        b"...",
        b"trailing.",
        b"trailing ",
        b" leading",
        b"-rf",
        b"~",
        b"a+b&c=d?e#f",
        "שלום\u202e".encode(),
        b"x" * 255,
        b"\xff" * 255,
        b"con\x7f",
        b"\xc2\x85",
        b".asyncbackup-uploads",
        b".asyncbackup-tmp-x",
        b".asyncbackup-restore-x",
    ],
)
async def test_every_name_comes_back_byte_for_byte(bench: Workbench, name: bytes) -> None:
    bench.write(name, b"content of " + name)
    folder = os.fsencode(bench.tree) + b"/d-" + name[:200]
    os.mkdir(folder)
    os.symlink(name, folder + b"/" + name)
    await bench.run()
    assert picture(await bench.restored()) == picture(bench.tree)
    second = await bench.run()
    assert second.files_unchanged == 1


async def test_names_that_differ_only_in_case_or_normal_form_stay_apart(bench: Workbench) -> None:
    for name in (b"caf\xc3\xa9", b"cafe\xcc\x81", b"Name", b"name", b"NAME"):
        bench.write(name, name)
    await bench.run()
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_paths_over_the_key_limit_are_kept(bench: Workbench) -> None:
    deep = b"/".join([b"d" * 200] * 6)
    bench.write(deep + b"/file", b"deep")
    await bench.run()
    entry = (await bench.entries())[deep + b"/file"]
    assert entry.extent is not None
    assert entry.extent.key.startswith("long/")
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_other_kinds_are_ignored_and_never_block(bench: Workbench) -> None:
    bench.write("file")
    os.mkfifo(bench.tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(bench.tree / "socket"))
        summary = await bench.run()
    assert (summary.files_ignored, summary.files_scanned, summary.files_failed) == (2, 1, 0)


async def test_excluded_paths_are_left_out_and_disappear_from_the_next_snapshot(bench: Workbench) -> None:
    for name in ("keep.txt", "drop.tmp", ".cache/a", "sub/.cache/b", "sub/keep"):
        bench.write(name)
    await bench.run()
    bench.configure(exclude=("*.tmp", ".cache/"))
    summary = await bench.run()
    assert (summary.files_scanned, summary.files_deleted) == (2, 3)
    files = {path for path, entry in (await bench.entries()).items() if entry.kind is Kind.FILE}
    assert files == {b"keep.txt", b"sub/keep"}


async def test_kinds_that_change_into_each_other(bench: Workbench) -> None:
    bench.write("x/inner/file", b"1")
    bench.write("y", b"2")
    (bench.tree / "z").symlink_to("y")
    await bench.run()
    (bench.tree / "x/inner/file").unlink()
    (bench.tree / "x/inner").rmdir()
    (bench.tree / "x").rmdir()
    bench.write("x", b"now a file")
    (bench.tree / "y").unlink()
    bench.write("y/now", b"a folder")
    (bench.tree / "z").unlink()
    bench.write("z", b"no link any more")
    summary = await bench.run()
    assert_sums_up(summary)
    assert summary.files_deleted == 1, "x/inner/file; y became a folder"
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_a_folder_moved_within_the_tree(bench: Workbench) -> None:
    for name in ("a/1", "a/b/2", "a-b/3", "a0/4"):
        bench.write(name, name.encode())
    await bench.run()
    (bench.tree / "a").rename(bench.tree / "c")
    summary = await bench.run()
    assert (summary.files_new, summary.files_deleted, summary.files_unchanged) == (2, 2, 2)
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_a_dry_run_changes_and_sends_nothing(bench: Workbench) -> None:
    bench.write("a", b"12345")
    first = await bench.run(dry_run=True)
    assert (first.files_new, first.bytes_to_upload, first.requests, first.snapshot) == (1, 5, {}, "")
    assert await bench.snapshots() == []
    await bench.run()
    bench.write("b", b"123")
    (bench.tree / "a").unlink()
    stored = objects(bench)
    second = await bench.run(dry_run=True)
    assert (second.files_new, second.files_deleted, second.bytes_to_upload) == (1, 1, 3)
    assert objects(bench) == stored
    third = await bench.run()
    assert (third.files_new, third.files_deleted) == (1, 1), "the dry run before it left no trace"


async def test_a_dry_run_notes_no_folder_either(bench: Workbench) -> None:
    bench.write("d/f", b"content")
    await bench.run()
    database = bench.settings.database_path("home")

    def folders(change: str = "") -> int:
        with sqlite3.connect(database) as connection:
            connection.execute(change)
            noted = connection.execute("SELECT count(*) FROM listings").fetchone()
        connection.close()
        database.with_name(database.name + ".sha256").unlink(missing_ok=True)
        return int(noted[0])

    assert folders("DELETE FROM listings") == 0
    assert (await bench.run(dry_run=True)).files_unchanged == 1
    assert folders() == 0
    await bench.run()
    assert folders() == 1


async def test_an_encrypted_section_holds_no_plaintext_and_restores(sealed_bench: Workbench) -> None:
    bench = sealed_bench
    canary = b"canary-" + os.urandom(8).hex().encode()
    bench.write("small", canary)
    bench.write("large", (canary + b"\n") * (11 * MIB // len(canary)))
    bench.write("edge", b"e" * 16384)
    bench.write("empty", b"")
    path = bench.write("one", canary * 3)
    os.link(path, bench.tree / "two")
    summary = await bench.run()
    assert_sums_up(summary)
    root = Path(bench.section.destination.removeprefix("file://"))
    for stored in root.rglob("*"):
        if stored.is_file():
            assert canary not in stored.read_bytes(), stored
    assert picture(await bench.restored()) == picture(bench.tree)
    second = await bench.run()
    assert (second.files_unchanged, second.bytes_read) == (6, 0)


async def test_a_missing_source_stops_the_run(bench: Workbench) -> None:
    bench.write("a")
    await bench.run()
    bench.tree.rename(bench.base / "elsewhere")
    with pytest.raises(SourceGuardError, match="Nothing was changed"):
        await bench.run()
    assert len(await bench.snapshots()) == 1


async def test_a_suddenly_empty_source_stops_the_run_unless_allowed(bench: Workbench) -> None:
    bench.write("a")
    await bench.run()
    (bench.tree / "a").unlink()
    with pytest.raises(SourceGuardError, match="allow_empty_source"):
        await bench.run()
    bench.configure(allow_empty_source=True)
    summary = await bench.run()
    assert summary.files_deleted == 1
    assert set(await bench.entries()) == {b""}


async def test_without_a_database_the_way_out_is_named(bench: Workbench) -> None:
    bench.settings.database_path("home").unlink()
    with pytest.raises(CatalogMissingError, match=r"initdb.*syncdb_remote"):
        await bench.run()


async def test_a_database_whose_snapshot_is_gone_is_not_trusted(bench: Workbench) -> None:
    bench.write("a")
    summary = await bench.run()
    root = Path(bench.section.destination.removeprefix("file://"))
    (root / f"home/snapshots/{summary.snapshot}.jsonl.zst").unlink()
    with pytest.raises(CatalogError, match="syncdb_remote"):
        await bench.run()


async def test_the_database_and_destination_inside_the_tree_are_left_out(tmp_path: Path) -> None:
    destination = tmp_path / "tree/backup"
    bench = Workbench(tmp_path, f"file://{destination}")
    destination.mkdir()
    bench.settings = msgspec.structs.replace(bench.settings, state_dir=bench.tree / "state")
    await bench.initialise()
    bench.write("file")
    await bench.run()
    assert set(await bench.entries()) == {b"", b"file"}


async def test_times_before_1970_and_after_2262_come_back(bench: Workbench) -> None:
    for number, time_ns in enumerate((-1_500_000_000_123_456_789, 9_300_000_000_000_000_001)):
        path = bench.write(f"f{number}")
        os.utime(path, ns=(time_ns, time_ns))
    before = picture(bench.tree)
    await bench.run()
    assert picture(await bench.restored()) == before
    second = await bench.run()
    assert (second.files_unchanged, second.bytes_read) == (2, 0)
