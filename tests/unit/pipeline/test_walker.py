"""The walker against real trees: every name once, in bounded chunks, and no surprise stops it."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncbackup.flow.channel import Sender, open_channel
from asyncbackup.flow.stop import StopRequest
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.model import Kind
from asyncbackup.pipeline import walker
from asyncbackup.pipeline.walker import FolderLister, walk
from tests.unit.flow.turns import settle
from tests.unit.pipeline.walks import deep_tree, settings, walked
from tests.unit.unprivileged import as_nobody, open_folder_for_all

if TYPE_CHECKING:
    from asyncbackup.pipeline.listing import WalkBatch


def fill(root: Path, *names: str) -> None:
    """Files; a name that ends in a slash is a folder."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)


async def test_every_entry_is_listed_once_with_what_lstat_says(tmp_path: Path) -> None:
    fill(tmp_path, "a", "d/b", "d/e/c", "empty/")
    (tmp_path / "link").symlink_to("d")
    os.link(tmp_path / "a", tmp_path / "d/hard")
    walk = await walked(settings(tmp_path))
    assert set(walk.entries) == {b"", b"a", b"d", b"d/b", b"d/e", b"d/e/c", b"d/hard", b"empty", b"link"}
    assert walk.unlisted == []
    for path, entry in walk.entries.items():
        status = os.lstat(os.path.join(os.fsencode(tmp_path), path) if path else tmp_path)
        assert (entry.mode, entry.mtime_ns, entry.ctime_ns, entry.uid, entry.gid, entry.nlink) == (
            status.st_mode,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_uid,
            status.st_gid,
            status.st_nlink,
        )
        assert (entry.dev, entry.ino, entry.blocks) == (status.st_dev, status.st_ino, status.st_blocks)
        assert entry.size == (0 if stat.S_ISDIR(status.st_mode) else status.st_size)
    assert walk.entries[b"link"].kind is Kind.SYMLINK
    assert walk.entries[b"a"].ino == walk.entries[b"d/hard"].ino


async def test_a_folder_is_one_chunk_sorted_by_name_and_the_root_is_two(tmp_path: Path) -> None:
    fill(tmp_path, "d/b", "d/a0", "d/a/x", "d/a-b", "d/B")
    walk = await walked(settings(tmp_path))
    (chunk,) = walk.chunks_of(b"d")
    assert [entry.name for entry in chunk.entries] == [b"B", b"a", b"a-b", b"a0", b"b"]
    assert (chunk.after, chunk.upto) == (None, None)
    own, rest = sorted(walk.chunks_of(b""), key=lambda chunk: chunk.upto is None)
    assert ([entry.path for entry in own.entries], own.after, own.upto) == ([b""], None, b"")
    assert ([entry.path for entry in rest.entries], rest.after, rest.upto) == ([b"d"], b"", None)


async def test_an_empty_folder_is_told_as_well(tmp_path: Path) -> None:
    fill(tmp_path, "empty/")
    walk = await walked(settings(tmp_path))
    (chunk,) = walk.chunks_of(b"empty")
    assert (chunk.entries, chunk.after, chunk.upto) == ((), None, None)


@pytest.mark.parametrize("count", [9, 10, 11, 20, 25])
async def test_a_huge_folder_comes_in_chunks_that_leave_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(walker, "CHUNK_ENTRIES", 10)
    monkeypatch.setattr(walker, "NAMES_AT_ONCE", 4)
    fill(tmp_path, *(f"d/{number:03d}" for number in range(count)))
    walk = await walked(settings(tmp_path))
    chunks = sorted(walk.chunks_of(b"d"), key=lambda chunk: chunk.after or b"")
    assert [len(chunk.entries) for chunk in chunks] == [10] * (count // 10) + (
        [count % 10] if count % 10 else []
    )
    assert chunks[0].after is None
    assert chunks[-1].upto is None
    for before, after in itertools.pairwise(chunks):
        assert before.upto == after.after == before.entries[-1].name


async def test_bounds_of_chunks_are_names_that_were_listed_also_if_they_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the bounds of two chunks no row may fall through."""
    monkeypatch.setattr(walker, "CHUNK_ENTRIES", 2)
    fill(tmp_path, "d/a", "d/b.tmp", "d/c", "d/d.tmp", "d/e")
    walk = await walked(settings(tmp_path, exclude=("*.tmp",)))
    chunks = sorted(walk.chunks_of(b"d"), key=lambda chunk: chunk.after or b"")
    assert [(c.after, c.upto, len(c.entries)) for c in chunks] == [
        (None, b"b.tmp", 1),
        (b"b.tmp", b"d.tmp", 1),
        (b"d.tmp", None, 1),
    ]
    assert walk.excluded == 2


async def test_batches_end_once_they_are_large_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walker, "BATCH_ENTRIES", 10)
    fill(tmp_path, *(f"{folder}/{number}" for folder in "abcdef" for number in range(4)))
    lister = FolderLister(settings(tmp_path), [folder.encode() for folder in "abcdef"])
    sizes = []
    while (batch := lister.next_batch()) is not None:
        sizes.append([len(chunk.entries) for chunk in batch.chunks])
    assert sizes == [[4, 4], [4, 4], [4, 4]]


async def test_folders_and_files_of_one_name_stem_are_told_apart_and_sorted(tmp_path: Path) -> None:
    """The listing keeps a mark behind the names of folders, which must change neither names nor order."""
    fill(tmp_path, "d/a/", "d/a\x01", "d/a\x01b/", "d/a b", "d/ab/")
    walk = await walked(settings(tmp_path))
    (chunk,) = walk.chunks_of(b"d")
    assert [entry.name for entry in chunk.entries] == [b"a", b"a\x01", b"a\x01b", b"a b", b"ab"]
    assert [entry.kind is Kind.FOLDER for entry in chunk.entries] == [True, False, True, False, True]


async def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
    names += [b"\xff" * 255, b"caf\xc3\xa9", b"cafe\xcc\x81", b"...", b"a\nb"]
    root = os.fsencode(tmp_path)
    for name in names:
        os.mkdir(os.path.join(root, name))
        with open(os.path.join(root, name, name), "wb"):
            pass
    walk = await walked(settings(tmp_path))
    assert set(walk.entries) == {b""} | set(names) | {name + b"/" + name for name in names}


async def test_special_files_are_named_and_not_listed(tmp_path: Path) -> None:
    fill(tmp_path, "d/file")
    os.mkfifo(tmp_path / "d/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        walk = await walked(settings(tmp_path))
    assert walk.special == [b"d/fifo", b"socket"]
    assert set(walk.entries) == {b"", b"d", b"d/file"}


async def test_excluded_folders_are_not_entered(tmp_path: Path) -> None:
    fill(tmp_path, "keep", "cache/a", "d/cache/b", "d/x.tmp", "cache.txt")
    (tmp_path / "cache/closed").mkdir(mode=0)
    walk = await walked(settings(tmp_path, exclude=("cache/", "*.tmp")))
    assert set(walk.entries) == {b"", b"keep", b"d", b"cache.txt"}
    assert walk.excluded == 3
    assert walk.chunks_of(b"cache") == []


async def test_a_pattern_for_folders_spares_files_of_that_name(tmp_path: Path) -> None:
    fill(tmp_path, "a/cache", "b/cache/x")
    walk = await walked(settings(tmp_path, exclude=("cache/",)))
    assert set(walk.entries) == {b"", b"a", b"a/cache", b"b"}


async def test_the_state_folder_and_the_destination_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "state/db", "state too/x", "d/y")
    status = (tmp_path / "state").stat()
    walk = await walked(settings(tmp_path, skip_inodes=frozenset({(status.st_dev, status.st_ino)})))
    assert set(walk.entries) == {b"", b"state too", b"state too/x", b"d", b"d/y"}


async def test_other_file_systems_are_not_entered_and_count_as_empty(tmp_path: Path) -> None:
    """What an earlier run without the limit saved below a mount point has to disappear."""
    fill(tmp_path, "d/e/f", "g/h", "file")
    walk = await walked(settings(tmp_path, device=-1))
    assert set(walk.entries) == {b"", b"d", b"g", b"file"}
    for folder in (b"d", b"g"):
        (chunk,) = walk.chunks_of(folder)
        assert (chunk.entries, chunk.after, chunk.upto) == ((), None, None)
    same = await walked(settings(tmp_path, device=tmp_path.stat().st_dev))
    assert len(same.entries) == 7


async def test_a_tree_far_deeper_than_a_path_may_be_long(tmp_path: Path) -> None:
    with deep_tree(tmp_path, 3000) as top:
        walk = await walked(settings(top), capacity=4)
        assert walk.unlisted == []
        assert len(walk.entries) == 3002
        deepest = max(walk.entries, key=len)
        assert deepest == b"dd/" * 3000 + b"file"
        assert len(deepest) > 2 * 4096


async def test_long_names_at_every_level(tmp_path: Path) -> None:
    with deep_tree(tmp_path, 40, name=b"\xff" * 255) as top:
        walk = await walked(settings(top))
        assert walk.unlisted == []
        assert max(map(len, walk.entries)) == 40 * 256 + 4


async def test_a_wide_tree_with_a_slow_reader_does_not_deadlock(tmp_path: Path) -> None:
    """Pending folders are on the walkers' own stack, so a full channel holds nobody up for ever."""
    fill(tmp_path, *(f"{a}/{b}/{c}" for a in range(6) for b in range(6) for c in range(3)))
    sender: Sender[WalkBatch]
    sender, receiver = open_channel("listings", 1)
    how = settings(tmp_path, tasks=4)
    gate = ThreadGate("walk", 4)
    seen = 0
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(walk(how, sender, gate, StopRequest()))
            async for batch in receiver:
                await settle()
                seen += sum(len(chunk.entries) for chunk in batch.chunks)
    finally:
        gate.close()
    assert seen == 1 + 6 + 36 + 108


async def test_an_unreadable_folder_is_named_and_the_rest_is_listed() -> None:
    with open_folder_for_all() as base:
        fill(base, "open/x", "closed/y")
        (base / "closed").chmod(0o000)
        with as_nobody():
            walk = await walked(settings(base))
        assert set(walk.entries) == {b"", b"open", b"open/x", b"closed"}
        (failure,) = walk.unlisted
        assert (failure.path, failure.kind) == (b"closed", Kind.FOLDER)
        assert failure.reason == "cannot list: Permission denied"
        assert walk.chunks_of(b"closed") == [], "nothing is known of what it holds, so nothing is deleted"


async def test_names_that_may_be_read_but_not_looked_at_are_unknown() -> None:
    """A folder with r and without x tells names and no more."""
    with open_folder_for_all() as base:
        fill(base, "d/file", "d/folder/")
        (base / "d").chmod(0o744)
        os.chown(base / "d", os.geteuid(), -1)
        with as_nobody():
            unprivileged = os.geteuid() != (base / "d").stat().st_uid
            walk = await walked(settings(base))
        if not unprivileged:
            pytest.skip("without root's rights to give away, the folder is one's own")
        (chunk,) = walk.chunks_of(b"d")
        assert (chunk.entries, chunk.unknown) == ((), (b"file", b"folder"))
        assert {(f.path, f.kind, f.reason) for f in walk.unlisted} == {
            (b"d/file", Kind.FILE, "cannot stat: Permission denied"),
            (b"d/folder", Kind.FOLDER, "cannot stat: Permission denied"),
        }


async def test_an_unreadable_root_is_a_failure_of_the_root() -> None:
    with open_folder_for_all() as base:
        fill(base, "root/x")
        (base / "root").chmod(0o000)
        with as_nobody():
            walk = await walked(settings(base / "root"))
        assert walk.entries == {}
        assert [failure.path for failure in walk.unlisted] == [b""]


def test_a_folder_that_vanishes_after_it_was_found(tmp_path: Path) -> None:
    fill(tmp_path, "d/e/f", "z/x")
    lister = FolderLister(settings(tmp_path), [b""])
    while lister.next_batch() is not None:
        pass
    assert sorted(lister.found) == [b"d", b"z"]
    (tmp_path / "d").rename(tmp_path / "moved")
    below = FolderLister(settings(tmp_path), lister.found)
    batches = []
    while (batch := below.next_batch()) is not None:
        batches.append(batch)
    assert [failure.path for batch in batches for failure in batch.unlisted] == [b"d"]
    assert [entry.path for batch in batches for chunk in batch.chunks for entry in chunk.entries] == [b"z/x"]


def test_a_folder_that_became_a_symlink_is_not_followed(tmp_path: Path) -> None:
    fill(tmp_path, "d/x", "outside/secret")
    (tmp_path / "d").rename(tmp_path / "old")
    (tmp_path / "d").symlink_to("outside")
    batch = FolderLister(settings(tmp_path), [b"d"]).next_batch()
    assert batch is not None
    assert batch.chunks == ()
    assert [failure.path for failure in batch.unlisted] == [b"d"]


async def test_the_root_itself_may_be_a_symlink(tmp_path: Path) -> None:
    fill(tmp_path, "real/x")
    (tmp_path / "link").symlink_to("real")
    walk = await walked(settings(tmp_path / "link"))
    assert set(walk.entries) == {b"", b"x"}
    assert walk.entries[b""].kind is Kind.FOLDER


async def test_a_requested_stop_ends_the_walk_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walker, "BATCH_ENTRIES", 1)
    fill(tmp_path, *(f"{number:02d}/x" for number in range(50)))
    stop = StopRequest()
    stop.request()
    walk = await walked(settings(tmp_path), stop=stop)
    assert walk.batches == []


async def test_a_stop_in_the_middle_wakes_walkers_that_wait_for_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walker, "BATCH_ENTRIES", 1)
    fill(tmp_path, *(f"{number:02d}/x" for number in range(50)))
    sender: Sender[WalkBatch]
    sender, receiver = open_channel("listings", 1)
    stop = StopRequest()
    how = settings(tmp_path, tasks=4)
    gate = ThreadGate("walk", 4)
    batches = 0
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(walk(how, sender, gate, stop))
            async for _ in receiver:
                batches += 1
                stop.request()
    finally:
        gate.close()
    assert 1 <= batches < 20


async def test_a_cancelled_walk_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walker, "BATCH_ENTRIES", 1)
    monkeypatch.setattr(walker, "CHUNK_ENTRIES", 2)
    fill(tmp_path, *(f"{folder}/{number}" for folder in "abcd" for number in range(20)))
    sender: Sender[WalkBatch]
    sender, receiver = open_channel("listings", 1)
    before = open_descriptors()
    gate = ThreadGate("walk", 2)
    task = asyncio.create_task(walk(settings(tmp_path), sender, gate, StopRequest()))
    for _ in range(5):
        await receiver.receive()
    task.cancel()
    await asyncio.wait({task})
    gate.close()
    assert task.cancelled()
    assert open_descriptors() == before


def open_descriptors() -> set[str]:
    return {f"{name} {target}" for name in os.listdir("/proc/self/fd") if (target := _target(name))}


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""  # that of the listing itself
