"""Restoring from packs and from compressed, sealed and hidden objects, made by hand."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import Interrupted
from asyncbackup.format.keys import run_prefix
from asyncbackup.model import Extent, RunId
from asyncbackup.restore import section, spans
from tests.pipeline.test_restore_resume import StopAfter
from tests.pipeline.test_restore_servers import flip_a_bit
from tests.servers.proxy import FaultProxy
from tests.unit.format.test_expand import bomb
from tests.unit.restore.backup import SECTION, Backup, file_entry, folder_entry, snapshot_of
from tests.unit.restore.packs import FRAME_BYTES, Packer, put_object, save_packed

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

KIB = 1024
MIB = 1024 * 1024

KINDS = [
    pytest.param(
        (compressed, encrypted),
        id=f"{'zstd' if compressed else 'plain'}-{'sealed' if encrypted else 'clear'}",
    )
    for compressed in (False, True)
    for encrypted in (False, True)
]


async def backup_of(base: Path, *, encrypted: bool = False, **settings: int) -> Backup:
    backup = Backup(base, encrypted=encrypted, **settings)
    await backup.create()
    return backup


def fill(source: Path, *, seed: int = 1) -> None:
    """300 files of up to 30 KiB in folders, copies, hard links, and everything else that a tree has."""
    random = Random(seed)
    for folder in ("a", "a/deep", "b"):
        (source / folder).mkdir()
        for number in range(100):
            content = random.randbytes(number * 150 + 1) + b"text " * number * 30
            (source / folder / f"f{number:03}").write_bytes(content)
        os.utime(source / folder, ns=(1, 1_000_000_007))
    for number in range(20):
        (source / "b" / f"copy{number}").write_bytes((source / "a/deep/f050").read_bytes())
    os.link(source / "a/f010", source / "b/hard")
    (source / "a/link").symlink_to("f001")
    (source / "empty").touch()
    with open(source / "sparse", "wb") as sparse:
        sparse.seek(300_000)
        sparse.write(b"x" * 10_000)
    os.setxattr(source / "a/f020", "user.colour", b"\0blue")
    (source / "a/f030").chmod(0o751)


def pack_path(backup: Backup, run: RunId, number: int, *, compressed: bool) -> Path:
    suffix = ".tar.zst" if compressed else ".tar"
    return backup.destination / run_prefix(SECTION, run) / f"packs/{number:06d}{suffix}"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tree_comes_back_from_its_packs(tmp_path: Path, kind: tuple[bool, bool]) -> None:
    compressed, encrypted = kind
    backup = await backup_of(tmp_path, encrypted=encrypted)
    fill(backup.source)
    run = await save_packed(backup, compressed=compressed)
    packs = len(list(pack_path(backup, run, 1, compressed=compressed).parent.iterdir()))
    assert packs >= 2
    summary = await backup.restore()
    assert (summary.failures, summary.notes) == ((), ())
    assert snapshot_of(backup.target) == snapshot_of(backup.source)
    assert (backup.target / "sparse").stat().st_blocks * 512 < 310_000
    assert (summary.files_restored, summary.hardlinks, summary.symlinks) == (323, 1, 1)
    # Descriptor and manifest, and of each pack one stretch, with its head where it is sealed.
    assert summary.requests["GetObject"] == 2 + packs * (2 if encrypted else 1)
    assert "HeadObject" not in summary.requests


@pytest.mark.parametrize("kind", KINDS)
async def test_a_few_files_cost_a_few_frames(tmp_path: Path, kind: tuple[bool, bool]) -> None:
    compressed, encrypted = kind
    backup = await backup_of(tmp_path, encrypted=encrypted)
    random = Random(2)
    for number in range(400):
        (backup.source / f"f{number:03}").write_bytes(random.randbytes(10_000))
    run = await save_packed(backup, compressed=compressed, pack_bytes=16 * MIB)
    assert pack_path(backup, run, 1, compressed=compressed).stat().st_size > 4_000_000
    nothing = await backup.restore("f000", dry_run=True)
    assert nothing.bytes_downloaded == 0
    summary = await backup.restore("f010", "f011", "f200", "f390")
    assert summary.failures == ()
    assert sorted(os.listdir(backup.target)) == ["f010", "f011", "f200", "f390"]
    assert summary.requests["GetObject"] == 2 + 3 + encrypted
    frames_bytes = 3 * (FRAME_BYTES + 12 * KIB) if compressed else 3 * 25 * KIB
    assert summary.bytes_downloaded < frames_bytes + encrypted * 3 * 32 * KIB


@pytest.mark.parametrize("kind", KINDS)
async def test_every_span_limit_gives_the_same_tree(
    tmp_path: Path, kind: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed, encrypted = kind
    monkeypatch.setattr(spans, "SPAN_ROWS", 5)
    monkeypatch.setattr(spans, "SPAN_ROWS_MOST", 9)
    monkeypatch.setattr(spans, "GAP_BYTES", 100)
    backup = await backup_of(tmp_path, encrypted=encrypted, memory_limit_bytes=256 * KIB)
    fill(backup.source)
    await save_packed(backup, compressed=compressed)
    summary = await backup.restore()
    assert summary.failures == ()
    assert snapshot_of(backup.target) == snapshot_of(backup.source)
    assert summary.peak_inflight_bytes <= 256 * KIB


@pytest.mark.parametrize("kind", KINDS)
async def test_a_member_larger_than_a_span_is_streamed(tmp_path: Path, kind: tuple[bool, bool]) -> None:
    compressed, encrypted = kind
    backup = await backup_of(tmp_path, encrypted=encrypted, memory_limit_bytes=16 * MIB)
    random = Random(3)
    for name, size in (("a", 1000), ("large", 3_000_000), ("z", 1000)):
        (backup.source / name).write_bytes(random.randbytes(size // 2) + bytes(size // 2))
    await save_packed(backup, compressed=compressed)
    summary = await backup.restore()
    assert summary.failures == ()
    assert snapshot_of(backup.target) == snapshot_of(backup.source)
    # What is received before it is written is an eighth of the limit, beside the small ones; what is
    # expanded may need a window as large as all of it.
    assert summary.peak_inflight_bytes <= (8 if compressed else 2) * MIB + 10_000


@pytest.mark.parametrize("kind", KINDS)
async def test_damage_takes_only_the_files_that_it_is_in(tmp_path: Path, kind: tuple[bool, bool]) -> None:
    compressed, encrypted = kind
    backup = await backup_of(tmp_path, encrypted=encrypted)
    random = Random(4)
    for number in range(60):
        (backup.source / f"f{number:03}").write_bytes(random.randbytes(20_000))
    run = await save_packed(backup, compressed=compressed, pack_bytes=16 * MIB)
    pack = pack_path(backup, run, 1, compressed=compressed)
    stored = bytearray(pack.read_bytes())
    stored[len(stored) // 2 + 5000] ^= 1  # in a content, not between two
    pack.write_bytes(stored)
    summary = await backup.restore()
    failed = {os.fsdecode(failure.path) for failure in summary.failures}
    # A sealed chunk of 16 KiB has parts of two files at the most, a frame of 64 KiB four files.
    assert 1 <= len(failed) <= (5 if compressed else 2)
    assert all(pack.name in failure.reason for failure in summary.failures)
    assert set(os.listdir(backup.target)) == set(os.listdir(backup.source)) - failed
    assert {path: entry[7] for path, entry in snapshot_of(backup.target).items()}.items() <= {
        path: entry[7] for path, entry in snapshot_of(backup.source).items()
    }.items()
    # What came damaged was asked for once more, together; and the manifest, whether it has moved.
    assert summary.requests["GetObject"] == 2 + 2 + encrypted + 1


@pytest.mark.parametrize("kind", KINDS)
async def test_bits_that_flip_on_the_way_are_fetched_again(
    tmp_path: Path, rclone_s3: S3Endpoint, kind: tuple[bool, bool]
) -> None:
    compressed, encrypted = kind
    async with FaultProxy(rclone_s3.url) as proxy:
        backup = Backup(tmp_path, encrypted=encrypted)
        backup.use(f"s3://{rclone_s3.fresh_bucket()}/p", rclone_s3.settings(endpoint_url=proxy.url))
        await backup.create()
        fill(backup.source)
        await save_packed(backup, compressed=compressed)
        if encrypted:
            proxy.plan("GetObject", flip_a_bit, path="packs/000001")
        proxy.plan("GetObject", flip_a_bit, path="packs/000002", skip=encrypted)
        summary = await backup.restore()
    assert (summary.failures, summary.notes) == ((), ())
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


async def test_a_pack_that_comes_spoilt_for_good_is_asked_for_twice(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        backup = Backup(tmp_path, encrypted=True)
        backup.use(f"s3://{rclone_s3.fresh_bucket()}/p", rclone_s3.settings(endpoint_url=proxy.url))
        await backup.create()
        (backup.source / "a").write_bytes(b"a" * 40_000)
        (backup.source / "b").write_bytes(b"b" * 40_000)
        await save_packed(backup, compressed=False)
        fault = proxy.plan("GetObject", flip_a_bit, path="packs/000001", skip=1, times=0)
        summary = await backup.restore()
    # The flipped bit is the range's last, the second time that of the one file that is asked for.
    assert [failure.path for failure in summary.failures] == [b"b"]
    assert "is not authentic" in summary.failures[0].reason
    assert fault.fired == 2
    assert os.listdir(backup.target) == ["a"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pack_that_was_cut_gives_what_is_left(tmp_path: Path, kind: tuple[bool, bool]) -> None:
    compressed, encrypted = kind
    backup = await backup_of(tmp_path, encrypted=encrypted)
    random = Random(5)
    for number in range(60):
        (backup.source / f"f{number:03}").write_bytes(random.randbytes(20_000))
    run = await save_packed(backup, compressed=compressed, pack_bytes=16 * MIB)
    pack = pack_path(backup, run, 1, compressed=compressed)
    os.truncate(pack, pack.stat().st_size // 2)
    summary = await backup.restore()
    assert len(summary.failures) + summary.files_restored == 60
    if encrypted:
        # Its announced size tells: it is no object that was ever written.
        assert len(summary.failures) == 60
        assert "is not authentic" in summary.failures[0].reason
    else:
        assert 25 <= summary.files_restored <= 30
        assert "its content lies beyond them" in summary.failures[-1].reason
        assert summary.requests["HeadObject"] == 1
    assert len(os.listdir(backup.target)) == summary.files_restored


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pack_that_is_gone_names_its_files(tmp_path: Path, kind: tuple[bool, bool]) -> None:
    compressed, encrypted = kind
    backup = await backup_of(tmp_path, encrypted=encrypted)
    fill(backup.source)
    run = await save_packed(backup, compressed=compressed)
    pack_path(backup, run, 1, compressed=compressed).unlink()
    summary = await backup.restore()
    assert 50 < len(summary.failures) < 300
    pack = f"{run_prefix(SECTION, run)}packs/000001.tar{'.zst' if compressed else ''}"
    assert all(failure.reason.startswith(f"its object '{pack}'") for failure in summary.failures)
    assert summary.files_restored + summary.files_failed == 323
    assert summary.requests["GetObject"] < 20


async def test_sealed_packs_cannot_stand_in_for_each_other(tmp_path: Path) -> None:
    backup = await backup_of(tmp_path, encrypted=True)
    fill(backup.source)
    run = await save_packed(backup, compressed=False)
    first, second = (pack_path(backup, run, number, compressed=False) for number in (1, 2))
    first.write_bytes(second.read_bytes())
    summary = await backup.restore()
    assert summary.failures
    assert all("is not authentic" in failure.reason for failure in summary.failures)
    assert not (backup.target / "a/f001").exists()
    assert (backup.target / "b/f099").exists()


async def packed_by_hand(backup: Backup, frame: bytes, *, skip: int = 0) -> RunId:
    """Two good files in a compressed pack, and one that is said to lie in ``frame``."""
    async with backup.open() as repository:
        run = backup.next_run()
        packer = Packer(repository, run, compressed=True)
        bodies = {name: name.encode() * 1000 for name in ("a", "z")}
        for name, body in bodies.items():
            await packer.add(file_entry(name), body)
        await packer.close()
        key = f"{run_prefix(SECTION, run)}packs/000002.tar.zst"
        await repository.store.put(key, frame, sha256=hashlib.sha256(frame).digest())
    entries = [
        file_entry(
            name,
            size=len(body),
            sha256=hashlib.sha256(body).digest(),
            extent=packer.extents[hashlib.sha256(body).digest()],
        )
        for name, body in bodies.items()
    ]
    place = Extent(run=run, key="packs/000002.tar.zst", length=len(frame), compression="zstd", skip=skip)
    entries.insert(1, file_entry("evil", size=1000, sha256=b"x" * 32, extent=place))
    return await backup.save([folder_entry(""), *entries], run=run, packs=[*packer.packs])


@pytest.mark.parametrize(
    ("frame", "skip", "reason"),
    [
        pytest.param(bomb(256 * KIB), 0, "the SHA-256 differs", id="bomb"),
        pytest.param(bomb(256 * KIB), 15 * MIB, "the SHA-256 differs", id="bomb and skip"),
        pytest.param(bomb(256 * KIB), 16 * MIB, "said to expand to more than", id="too much"),
        pytest.param(bomb(4), MIB, "cannot be expanded: ", id="skip beyond the end"),
        pytest.param(b"no frame at all" * 10, 0, "cannot be expanded: ", id="no frame"),
    ],
)
async def test_hostile_frames_fail_alone_in_bounded_memory(
    tmp_path: Path, frame: bytes, skip: int, reason: str
) -> None:
    backup = await backup_of(tmp_path)
    await packed_by_hand(backup, frame, skip=skip)
    tracemalloc.start()
    try:
        summary = await backup.restore()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * MIB
    assert [os.fsdecode(failure.path) for failure in summary.failures] == ["evil"]
    assert reason in summary.failures[0].reason
    assert sorted(os.listdir(backup.target)) == ["a", "z"]


async def test_an_extent_that_lies_spoils_no_neighbour(tmp_path: Path) -> None:
    """Of one frame: one file that is said to lie beyond its end, one beyond the pack's end."""
    backup = await backup_of(tmp_path)
    async with backup.open() as repository:
        packer = Packer(repository, backup.next_run(), compressed=True)
        await packer.add(file_entry("a"), b"a" * 1000)
        await packer.add(file_entry("z"), b"z" * 1000)
        await packer.close()
    good = {name: packer.extents[hashlib.sha256(name.encode() * 1000).digest()] for name in ("a", "z")}
    entries = [
        file_entry(name, size=1000, sha256=hashlib.sha256(name.encode() * 1000).digest(), extent=extent)
        for name, extent in good.items()
    ]
    beyond_frame = msgspec.structs.replace(good["a"], skip=100_000)
    beyond_pack = msgspec.structs.replace(good["a"], offset=good["a"].offset + 100)
    entries.insert(1, file_entry("b", size=1000, sha256=b"x" * 32, extent=beyond_frame))
    entries.insert(2, file_entry("c", size=1000, sha256=b"x" * 32, extent=beyond_pack))
    await backup.save([folder_entry(""), *entries], packs=packer.packs)
    summary = await backup.restore()
    assert [os.fsdecode(failure.path) for failure in summary.failures] == ["b", "c"]
    assert (backup.target / "a").read_bytes() == b"a" * 1000
    assert (backup.target / "z").read_bytes() == b"z" * 1000


@pytest.mark.parametrize("encrypted", [False, True])
async def test_links_to_a_file_that_failed_get_the_content_themselves(
    tmp_path: Path, encrypted: bool
) -> None:
    """Their leader's place is blocked; they come from the pack as well."""
    backup = await backup_of(tmp_path, encrypted=encrypted)
    (backup.source / "a").write_bytes(b"content" * 1000)
    os.link(backup.source / "a", backup.source / "b")
    os.link(backup.source / "a", backup.source / "c")
    await save_packed(backup, compressed=True)
    (backup.target / "a/blocked").mkdir(parents=True)
    summary = await backup.restore()
    assert [failure.path for failure in summary.failures] == [b"a"]
    assert (backup.target / "b").read_bytes() == b"content" * 1000
    assert (backup.target / "b").stat().st_ino == (backup.target / "c").stat().st_ino


@pytest.mark.parametrize("mode", ["changed", "never"])
async def test_overwrite_modes_hold_for_files_in_packs(tmp_path: Path, mode: str) -> None:
    backup = await backup_of(tmp_path)
    fill(backup.source)
    await save_packed(backup, compressed=True)
    (await backup.restore()).requests.clear()
    (backup.target / "a/f050").write_bytes(b"changed")
    (backup.target / "a/f060").unlink()
    summary = await backup.restore(overwrite=mode)
    assert summary.failures == ()
    changed = mode == "changed"
    assert summary.files_restored == 1 + changed
    assert ((backup.target / "a/f050").read_bytes() == b"changed") is not changed
    assert (backup.target / "a/f060").read_bytes() == (backup.source / "a/f060").read_bytes()
    assert summary.requests["GetObject"] <= 2 + 2


@pytest.mark.parametrize("looks", [3, 5, 8, 12])
async def test_a_stop_between_spans_and_going_on(
    tmp_path: Path, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "SPAN_ROWS", 20)
    backup = await backup_of(tmp_path)
    fill(backup.source)
    await save_packed(backup, compressed=True)
    with pytest.raises(Interrupted):
        await backup.restore(stop=StopAfter(looks))
    before = len([path for path in backup.target.rglob("*") if path.is_file()])
    summary = await backup.restore()
    assert summary.failures == ()
    assert summary.files_restored + summary.files_resumed == 323
    assert summary.files_resumed >= before
    assert snapshot_of(backup.target) == snapshot_of(backup.source)


async def test_after_a_reboot_files_of_packs_are_read_before_they_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = await backup_of(tmp_path)
    for number in range(30):
        (backup.source / f"f{number:02}").write_bytes(bytes([number]) * 5000)
    (backup.source / "g").write_bytes(b"g")
    await save_packed(backup, compressed=False)
    (backup.target / "g/blocked").mkdir(parents=True)
    assert len((await backup.restore()).failures) == 1
    # What the kernel had not written when it crashed: zeros of the right size and time.
    spoilt = backup.target / "f07"
    status = spoilt.stat()
    spoilt.write_bytes(bytes(5000))
    os.utime(spoilt, ns=(status.st_mtime_ns, status.st_mtime_ns))
    monkeypatch.setattr(section, "_boot_id", lambda: "another")
    (backup.target / "g/blocked").rmdir()
    summary = await backup.restore()
    assert (summary.files_resumed, summary.files_restored, summary.failures) == (29, 2, ())
    assert spoilt.read_bytes() == bytes([7]) * 5000


@pytest.mark.parametrize(
    ("compressed", "encrypted", "hidden"),
    [
        pytest.param(False, False, False, id="plain"),
        pytest.param(True, False, False, id="zstd"),
        pytest.param(False, True, False, id="sealed"),
        pytest.param(True, True, False, id="zstd-sealed"),
        pytest.param(False, True, True, id="hidden"),
        pytest.param(True, True, True, id="zstd-hidden"),
    ],
)
@pytest.mark.parametrize("size", [1, 50_000, 5 * MIB])
async def test_objects_of_their_own(
    tmp_path: Path, compressed: bool, encrypted: bool, hidden: bool, size: int
) -> None:
    backup = await backup_of(tmp_path, encrypted=encrypted)
    content = Random(size).randbytes(size // 2 + 1) + bytes(size // 2)
    head = b'{"asyncbackup-path":"f"}' if hidden else None
    async with backup.open() as repository:
        run = backup.next_run()
        key = "hidden/" + "0" * 64 if hidden else "files/f"
        extent = await put_object(repository, run, key, content, compressed=compressed, head=head)
    entry = file_entry("f", size=len(content), sha256=hashlib.sha256(content).digest(), extent=extent)
    await backup.save([folder_entry(""), entry], run=run)
    summary = await backup.restore()
    assert summary.failures == ()
    assert (backup.target / "f").read_bytes() == content
    assert summary.requests["GetObject"] == 3
    assert os.listdir(backup.target) == ["f"]


async def test_a_large_object_that_is_a_bomb_costs_bounded_memory(tmp_path: Path) -> None:
    backup = await backup_of(tmp_path)
    stored = bomb(256 * KIB)
    size = 64 * MIB
    async with backup.open() as repository:
        run = backup.next_run()
        key = f"{run_prefix(SECTION, run)}files/f"
        await repository.store.put(key, stored, sha256=hashlib.sha256(stored).digest())
    extent = Extent(run=run, key="files/f", length=len(stored), compression="zstd", skip=2048 * MIB)
    entry = file_entry("f", size=size, sha256=b"x" * 32, extent=extent, sparse=True)
    tracemalloc.start()
    try:
        await backup.save([folder_entry(""), entry], run=run)
        summary = await backup.restore()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * MIB
    assert [failure.path for failure in summary.failures] == [b"f"]
    assert os.listdir(backup.target) == []
