"""The folder store beyond the contract: what lies on the disk, without extended attributes, after crashes."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import AccessDeniedError, ObjectExistsError, ObjectMissingError, StoreError
from asyncbackup.store.checksums import single_checksum
from asyncbackup.store.local import LocalStore
from asyncbackup.store.local_attributes import mtime_ns_of
from asyncbackup.store.local_keys import TEMPORARY_PREFIX
from tests.contract.backends import digest, pattern

if TYPE_CHECKING:
    from asyncbackup.store.base import Buffer, UploadInfo

EMPTY = digest(b"")


def names(folder: Path) -> list[str]:
    """Every path below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(params=[False, True], ids=["unnamed", "named temporaries"])
def named(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def no_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without extended attributes, as on macOS or many network mounts."""

    def refuse(*_: object) -> bytes:
        raise OSError(errno.ENOTSUP, "not supported")

    for name in ("getxattr", "setxattr", "listxattr"):
        monkeypatch.setattr(os, name, refuse)


async def test_a_file_can_be_used_as_it_is(tmp_path: Path, named: bool) -> None:
    store = await LocalStore.connect(tmp_path, concurrency=2, named_temporaries=named)
    await store.put("docs/report.txt", b"text", sha256=digest(b"text"), metadata={"mtime": "12.000000345"})
    await store.put("docs/", b"", sha256=EMPTY, metadata={"mtime": "99.5"})
    await store.aclose()

    path = tmp_path / "docs" / "report.txt"
    assert path.read_bytes() == b"text"
    assert path.stat().st_mtime_ns == 12_000_000_345
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent.stat().st_mtime_ns == 99_500_000_000
    assert os.getxattr(path, "user.asyncbackup.meta.mtime") == b"12.000000345"
    assert names(tmp_path) == ["docs", "docs/report.txt"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("-1.000000001", -1_000_000_001),
        ("1234567890.123456789", 1_234_567_890_123_456_789),
        ("1e3", 1_000_000_000_000),
        ("99999999999999999999", None),
        ("NaN", None),
        ("Infinity", None),
        ("tomorrow", None),
    ],
)
def test_mtimes(text: str, expected: int | None) -> None:
    assert mtime_ns_of({"mtime": text}) == expected
    assert mtime_ns_of({}) is None


async def test_a_strange_mtime_loses_no_object(tmp_path: Path) -> None:
    store = await LocalStore.connect(tmp_path, concurrency=1)
    for number, moment in enumerate(["-9000000000", "9000000000", "x"]):
        await store.put(f"{number}", b"x", sha256=digest(b"x"), metadata={"mtime": moment})
        assert (await store.head(f"{number}")).metadata == {"mtime": moment}
    await store.aclose()


@pytest.mark.usefixtures("no_attributes")
async def test_without_attributes_metadata_is_lost_and_said(tmp_path: Path, named: bool) -> None:
    store = await LocalStore.connect(tmp_path, concurrency=2, named_temporaries=named)
    assert not store.capabilities.keeps_metadata
    assert not store.capabilities.keeps_checksums

    result = await store.put("a/b", b"x", sha256=digest(b"x"), metadata={"mtime": "5.0"})
    await store.put("a/", b"", sha256=EMPTY)
    upload = await store.create_upload("m", metadata={"mtime": "6.0"})
    part = await store.upload_part("m", upload, 1, b"part", sha256=digest(b"part"))
    assert await store.list_parts("m", upload) == [part]
    await store.complete_upload("m", upload, [part])
    await store.copy("a/b", "c", metadata={})

    assert result.checksum == ""
    info = await store.head("a/b")
    assert (info.checksum, info.metadata) == ("", {})
    assert (tmp_path / "a/b").stat().st_mtime_ns == 5_000_000_000
    assert (tmp_path / "m").stat().st_mtime_ns == 6_000_000_000
    listed = sorted([info.key async for page in store.list("") for info in page])
    assert listed == ["a/", "a/b", "c", "m"]
    await store.delete(["a/b", "a/", "c", "m"])
    await store.aclose()
    assert names(tmp_path) == []


async def test_folders_that_only_hold_objects_are_no_objects(tmp_path: Path) -> None:
    store = await LocalStore.connect(tmp_path, concurrency=1)
    await store.put("a/b/c", b"x", sha256=digest(b"x"))
    await store.put("a/d/", b"", sha256=EMPTY)
    assert {info.key async for page in store.list("") for info in page} == {"a/b/c", "a/d/"}
    with pytest.raises(ObjectMissingError):
        await store.head("a/b/")
    with pytest.raises(ObjectMissingError):
        await store.head("a/b")

    await store.delete(["a/b/c"])
    assert names(tmp_path) == ["a", "a/d"], "a folder goes with its last object, unless it is one itself"
    await store.delete(["a/d/"])
    assert names(tmp_path) == []
    await store.aclose()


async def test_a_deleted_folder_can_be_written_again(tmp_path: Path) -> None:
    store = await LocalStore.connect(tmp_path, concurrency=4)
    for _ in range(3):
        await store.put("a/b/c", b"x", sha256=digest(b"x"))
        await store.delete(["a/b/c"])
        assert names(tmp_path) == []
    async with asyncio.TaskGroup() as group:
        for number in range(60):
            group.create_task(store.put(f"a/b/{number % 5}", b"x", sha256=digest(b"x")))
            group.create_task(store.delete([f"a/b/{number % 5}"]))
    await store.aclose()


async def test_if_absent_races_have_one_winner(tmp_path: Path, named: bool) -> None:
    store = await LocalStore.connect(tmp_path, concurrency=8, named_temporaries=named)
    bodies = [b"%d" % number for number in range(16)]
    results = await asyncio.gather(
        *(store.put("lock", body, sha256=digest(body), if_absent=True) for body in bodies),
        return_exceptions=True,
    )
    assert sum(isinstance(result, ObjectExistsError) for result in results) == 15
    (winner,) = [
        body for body, result in zip(bodies, results, strict=True) if not isinstance(result, BaseException)
    ]
    assert await store.get("lock", limit=9) == winner
    await store.aclose()
    assert names(tmp_path) == ["lock"]


async def test_without_hard_links_if_absent_still_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    store = await LocalStore.connect(tmp_path, concurrency=1, named_temporaries=True)
    await store.put("once", b"1", sha256=digest(b"1"), if_absent=True)
    with pytest.raises(ObjectExistsError):
        await store.put("once", b"2", sha256=digest(b"2"), if_absent=True)
    await store.put("once", b"3", sha256=digest(b"3"))
    assert await store.get("once", limit=9) == b"3"
    await store.aclose()
    assert names(tmp_path) == ["once"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "the destination is full"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "the disk reports an error"),
        (errno.EROFS, "read-only"),
    ],
)
async def test_a_failing_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool, number: int, text: str
) -> None:
    store = await LocalStore.connect(tmp_path, concurrency=1, named_temporaries=named)
    await store.put("docs/other", b"x", sha256=digest(b"x"))
    upload = await store.create_upload("big", metadata={})
    fail = _failing(number)
    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", fail)
        for call in (
            store.put("docs/full", b"x", sha256=digest(b"x")),
            store.put("docs/other", b"y", sha256=digest(b"y")),
            store.upload_part("big", upload, 1, b"x", sha256=digest(b"x")),
        ):
            with pytest.raises(StoreError, match=text):
                await call
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match=text):
            await store.put("docs/full", b"x", sha256=digest(b"x"))
    await store.abort_upload("big", upload)
    assert await store.get("docs/other", limit=9) == b"x"
    await store.aclose()
    assert names(tmp_path) == ["docs", "docs/other"]


def _failing(number: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


async def test_what_a_crash_left_is_listed_and_goes(tmp_path: Path, named: bool) -> None:
    dead = await LocalStore.connect(tmp_path, concurrency=1)
    upload = await dead.create_upload("home/big", metadata={"mtime": "1.0"})
    part = await dead.upload_part("home/big", upload, 1, b"part", sha256=digest(b"part"))
    await dead.aclose()
    stale = tmp_path / "home" / "docs"
    stale.mkdir(parents=True)
    (stale / (TEMPORARY_PREFIX.decode() + "1-deadbeef-0")).write_bytes(b"half")
    (tmp_path / (TEMPORARY_PREFIX.decode() + "1-deadbeef-1")).write_bytes(b"half")

    store = await LocalStore.connect(tmp_path, concurrency=1, named_temporaries=named)
    assert [info async for page in store.list("") for info in page] == []
    assert [info.key for info in await _uploads(store, "home/data/")] == []
    left = await _uploads(store, "home/")
    assert sorted(info.key for info in left) == ["home/big", "home/docs/.asyncbackup-tmp-1-deadbeef-0"]
    assert len(await _uploads(store, "")) == 3
    assert await store.list_parts("home/big", upload) == [part]
    for info in await _uploads(store, ""):
        await store.abort_upload(info.key, info.upload_id)
    assert await _uploads(store, "") == []
    await store.aclose()
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert not (tmp_path / ".asyncbackup-uploads").exists()


async def _uploads(store: LocalStore, prefix: str) -> list[UploadInfo]:
    return [info async for page in store.list_uploads(prefix) for info in page]


async def test_an_upload_survives_the_process(tmp_path: Path) -> None:
    parts = [pattern(3_000_000, 1), pattern(1_000_000, 2)]
    store = await LocalStore.connect(tmp_path, concurrency=1)
    upload = await store.create_upload("home/big", metadata={"mtime": "1.5"})
    await store.upload_part("home/big", upload, 1, parts[0], sha256=digest(parts[0]))
    await store.aclose()

    store = await LocalStore.connect(tmp_path, concurrency=1)
    await store.upload_part("home/big", upload, 2, parts[1], sha256=digest(parts[1]))
    receipts = await store.list_parts("home/big", upload)
    assert [receipt.sha256 for receipt in receipts] == [digest(part) for part in parts]
    await store.complete_upload("home/big", upload, receipts)
    assert await store.get("home/big", limit=9_000_000) == b"".join(parts)
    await store.aclose()
    assert names(tmp_path) == ["home", "home/big"]


async def test_a_part_that_is_gone_is_noticed(tmp_path: Path) -> None:
    store = await LocalStore.connect(tmp_path, concurrency=1)
    upload = await store.create_upload("big", metadata={})
    receipts = [
        await store.upload_part("big", upload, number, b"%d" % number, sha256=digest(b"%d" % number))
        for number in (1, 2)
    ]
    folder = tmp_path / ".asyncbackup-uploads" / upload
    (folder / receipts[1].etag).write_bytes(b"")
    with pytest.raises(StoreError, match="part 2 is not there with its 1 bytes"):
        await store.complete_upload("big", upload, receipts)
    (folder / receipts[1].etag).unlink()
    with pytest.raises(StoreError, match="part 2 is not there"):
        await store.complete_upload("big", upload, receipts)
    with pytest.raises(StoreError, match="ascending"):
        await store.complete_upload("big", upload, receipts[::-1])
    await store.abort_upload("big", upload)
    await store.aclose()
    assert names(tmp_path) == []


async def test_copies_work_without_kernel_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", _failing(errno.EXDEV))
    body = pattern(2_500_000)
    store = await LocalStore.connect(tmp_path, concurrency=1)
    await store.put("source", body, sha256=digest(body))
    result = await store.copy("source", "copy", metadata={})
    assert result.checksum == single_checksum(digest(body))
    assert await store.get("copy", limit=len(body)) == body
    await store.aclose()


async def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev

    def short(descriptor: int, buffers: list[memoryview]) -> int:
        return real(descriptor, [buffers[0][:7], *buffers[1:2]] if len(buffers[0]) <= 7 else [buffers[0][:7]])

    monkeypatch.setattr(os, "writev", short)
    body: list[Buffer] = [b"0123456789" * 5, b"", b"abc", bytearray(b"defghijk"), b"l"]
    whole = b"".join(body)
    store = await LocalStore.connect(tmp_path, concurrency=1)
    await store.put("key", body, sha256=digest(whole))
    assert await store.get("key", limit=99) == whole
    await store.aclose()


async def test_links_and_special_files_are_no_objects(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"canary")
    folder = tmp_path / "destination"
    (folder / "real").mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to(tmp_path)
    (folder / ".asyncbackup-uploads").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo")
    store = await LocalStore.connect(folder, concurrency=1)
    assert [info async for page in store.list("") for info in page] == []
    for key in ("link", "fifo", "folder/outside"):
        with pytest.raises(StoreError):
            await store.get(key, limit=99)
    for call in (
        store.put("folder/new", b"x", sha256=digest(b"x")),
        store.put("folder/", b"", sha256=EMPTY),
        store.create_upload("big", metadata={}),
    ):
        with pytest.raises(StoreError):
            await call
    await store.delete(["folder/outside"])
    assert names(tmp_path) == [
        "destination",
        "destination/.asyncbackup-uploads",
        "destination/fifo",
        "destination/folder",
        "destination/link",
        "destination/real",
        "outside",
    ]
    await store.put("link", b"mine", sha256=digest(b"mine"))
    assert outside.read_bytes() == b"canary", "a link is replaced, not written through"
    assert not (folder / "link").is_symlink()
    await store.aclose()


async def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    body = pattern(3_000_000)
    store = await LocalStore.connect(tmp_path, concurrency=1)
    await store.put("key", body, sha256=digest(body))

    async def read() -> None:
        async with store.open("key") as reader:
            async for _ in reader:
                os.truncate(tmp_path / "key", 1_500_000)

    with pytest.raises(StoreError, match="1500000 bytes early"):
        await read()
    await store.aclose()
    await store.aclose()


async def test_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await LocalStore.connect(tmp_path, concurrency=1)
    monkeypatch.setattr(os, "open", _failing(errno.EACCES))
    with pytest.raises(AccessDeniedError, match="owner and mode"):
        await store.put("key", b"", sha256=EMPTY)
    monkeypatch.undo()
    await store.aclose()
