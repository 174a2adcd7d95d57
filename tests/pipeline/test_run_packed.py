"""Whole runs of a packed section at a ``file://`` destination: what is read, packed, shared and sent."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from asyncbackup.model import Kind
from asyncbackup.pipeline import birth
from asyncbackup.pipeline import detector as detector_module
from asyncbackup.pipeline import packer as packer_module
from tests.battery.big_trees import deep
from tests.workbench import MIB, Workbench, age, picture

if TYPE_CHECKING:
    from asyncbackup.model import Entry


@pytest.fixture(params=["plain", "zstd", "sealed"])
async def packed(request: pytest.FixtureRequest, tmp_path: Path, folder_destination: Path) -> Workbench:
    """A packed section, in each way in which packs are stored."""
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=request.param == "sealed")
    bench.configure(packed=True, zstd_level=0 if request.param == "plain" else 3)
    await bench.initialise()
    return bench


@pytest.fixture
async def plain(tmp_path: Path, folder_destination: Path) -> Workbench:
    """A packed section whose packs are plain tar."""
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    bench.configure(packed=True)
    await bench.initialise()
    return bench


def objects(bench: Workbench, below: str = "home/data") -> list[str]:
    """The keys below a folder of the destination, relative to their run."""
    root = Path(bench.section.destination.removeprefix("file://")) / below
    return sorted("/".join(p.relative_to(root).parts[1:]) for p in root.rglob("*") if p.is_file())


def pack_paths(bench: Workbench) -> list[Path]:
    root = Path(bench.section.destination.removeprefix("file://")) / "home/data"
    return sorted(root.rglob("packs/*"))


def places(entries: dict[bytes, Entry]) -> dict[bytes, tuple[str, str, int, int]]:
    return {
        path: (e.extent.run, e.extent.key, e.extent.offset, e.extent.skip)
        for path, e in entries.items()
        if e.extent is not None and e.kind is Kind.FILE
    }


async def test_small_files_share_a_pack_and_large_ones_do_not(packed: Workbench) -> None:
    packed.configure(pack_below_bytes=10_000)
    for number in range(300):
        packed.write(f"many/{number}", b"%d" % number * 10)
    packed.write("medium", os.urandom(10_000))
    packed.write("large", os.urandom(6 * MIB))
    packed.write("empty", b"")
    (packed.tree / "link").symlink_to("many/1")
    summary = await packed.run()
    assert (summary.files_new, summary.symlinks, summary.folders) == (303, 1, 2)
    keys = objects(packed)
    assert [key for key in keys if not key.startswith("packs/")] == ["files/large", "files/medium"]
    assert len(keys) == 3
    # The mark, one pack, one file in one piece, the manifest.
    assert summary.requests["PutObject"] == 4
    assert summary.peak_inflight_bytes <= packed.settings.memory_limit_bytes


async def test_an_unchanged_run_reads_and_sends_nothing(packed: Workbench) -> None:
    packed.write("a")
    packed.write("d/b", b"x" * 5000)
    await packed.run()
    before = await packed.entries()
    summary = await packed.run()
    assert (summary.files_unchanged, summary.bytes_read) == (2, 0)
    # Where there is a secret, the key slots are read each time.
    key_slots = {"GetObject": 1} if packed.section.encryption.enabled else {}
    assert summary.requests == {"PutObject": 2, "ListObjectsV2": 1, "HeadObject": 1} | key_slots
    assert len(pack_paths(packed)) == 1
    assert await packed.entries() == before


async def test_a_full_pack_is_sent_and_the_next_begun(plain: Workbench) -> None:
    # 32 MiB of memory make packs of 4 MiB.
    for number in range(40):
        plain.write(f"{number:02d}", os.urandom(400_000))
    summary = await plain.run()
    packs = pack_paths(plain)
    assert [path.name for path in packs] == [f"{number:06d}.tar" for number in range(1, len(packs) + 1)]
    assert len(packs) >= 3
    for path in packs:
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                assert member.size in (0, 400_000)
    assert summary.bytes_uploaded == sum(path.stat().st_size for path in packs)


async def test_tiny_files_fill_a_pack_by_their_number(
    packed: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer_module, "MEMBERS_PER_PACK", 100)
    monkeypatch.setattr(detector_module, "CHANGES_PER_BATCH", 20)
    for number in range(1000):
        packed.write(f"{number // 100}/{number}", b"%d" % number)
    summary = await packed.run()
    # The folders are members too; a batch is never divided.
    assert 1011 // 120 <= len(pack_paths(packed)) <= 11
    assert summary.files_new == 1000
    assert picture(await packed.restored()) == picture(packed.tree)


async def test_every_pack_extracts_to_the_files_that_it_holds(plain: Workbench, tmp_path: Path) -> None:
    content = {f"d/{number}": os.urandom(number) for number in range(200)}
    for name, body in content.items():
        plain.write(name, body)
    plain.configure(zstd_level=3)
    await plain.run()
    (pack,) = pack_paths(plain)
    out = tmp_path / "extracted"
    out.mkdir()
    with (
        pack.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as raw,
    ):
        subprocess.run(["tar", "-x", "-C", out], input=raw.read(), check=True)
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} == content


async def test_copies_are_stored_once(packed: Workbench) -> None:
    body = os.urandom(300_000)
    for name in ("one", "d/two", "e/f/three"):
        packed.write(name, body)
    summary = await packed.run()
    assert summary.files_new == 3
    assert summary.bytes_uploaded < 320_000
    entries = await packed.entries()
    assert len(set(places(entries).values())) == 1
    assert {entries[path].sha256 for path in (b"one", b"d/two")} == {hashlib.sha256(body).digest()}


async def test_extracting_a_pack_gives_no_file_the_mode_of_its_copy(plain: Workbench, tmp_path: Path) -> None:
    modes = {"a": 0o600, "b": 0o644, "c": 0o600, "d": 0o4755, "e": 0o644, "f": 0o600}
    for name, mode in modes.items():
        plain.write(name, b"the same")
        (plain.tree / name).chmod(mode)
    await plain.run()
    (pack,) = pack_paths(plain)
    with tarfile.open(pack) as archive:
        archive.extractall(tmp_path / "out", filter="fully_trusted")  # noqa: S202 - the test's own pack
    found = {name: (tmp_path / "out" / name).stat() for name in modes}
    assert {name: stat.st_mode & 0o7777 for name, stat in found.items()} == modes
    # The content is there once for each mode.
    assert len(set(places(await plain.entries()).values())) == 3
    assert len({stat.st_ino for stat in found.values()}) == 3


async def test_a_later_copy_uploads_its_name_alone(packed: Workbench) -> None:
    body = os.urandom(300_000)
    packed.write("one", body)
    await packed.run()
    packed.write("d/two", body)
    summary = await packed.run()
    assert (summary.files_new, summary.bytes_read) == (1, 300_000)
    assert summary.bytes_uploaded < 8192
    found = places(await packed.entries())
    assert found[b"one"] == found[b"d/two"]


async def test_contents_of_older_snapshots_are_found_again(packed: Workbench) -> None:
    """As with ``git checkout`` of another branch and back."""
    first, second = os.urandom(200_000), os.urandom(200_000)
    packed.write("file", first)
    await packed.run()
    where = places(await packed.entries())
    packed.write("file", second)
    await packed.run()
    packed.write("file", first)
    summary = await packed.run()
    assert summary.files_changed == 1
    assert summary.bytes_uploaded < 8192
    assert places(await packed.entries()) == where


async def test_moved_files_are_not_read(packed: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(birth, "BIRTH_MARGIN_NS", 0)
    for number in range(20):
        packed.write(f"old/{number}", os.urandom(1000))
    packed.write("large", os.urandom(6 * MIB))
    await packed.run()
    before = await packed.entries()
    (packed.tree / "old").rename(packed.tree / "new")
    (packed.tree / "large").rename(packed.tree / "larger")
    summary = await packed.run()
    assert (summary.files_new, summary.files_deleted, summary.bytes_read) == (21, 21, 0)
    after = await packed.entries()
    assert after[b"new/7"].extent == before[b"old/7"].extent
    assert after[b"new/7"].sha256 == before[b"old/7"].sha256
    assert after[b"larger"].extent == before[b"large"].extent
    assert b"old/7" not in after


async def test_an_inode_that_was_given_to_another_file_is_read(packed: Workbench) -> None:
    """Size, mtime and inode as of a deleted file, another content: born after the run that saved it."""
    path = packed.write("first", b"a" * 1000)
    os.utime(path, ns=(10**18, 10**18))
    await packed.run()
    inode = path.stat().st_ino
    path.unlink()
    spare: list[Path] = []
    for number in range(2000):
        other = packed.write(f"other{number}", b"b" * 1000)
        if other.stat().st_ino == inode:
            break
        spare.append(other)
    else:
        pytest.skip("this file system did not give the inode to another file")
    os.utime(other, ns=(10**18, 10**18))
    for each in spare:
        each.unlink()
    summary = await packed.run()
    assert summary.bytes_read == 1000
    entries = await packed.entries()
    assert entries[os.fsencode(other.name)].sha256 == hashlib.sha256(b"b" * 1000).digest()


async def test_without_birth_times_whole_seconds_are_not_trusted(
    packed: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(birth, "birth_ns", lambda folder, name: None)
    whole = packed.write("whole", b"a" * 1000)
    os.utime(whole, ns=(10**18, 10**18))
    packed.write("fraction", b"b" * 900)
    os.utime(packed.tree / "fraction", ns=(10**18, 10**18 + 1))
    await packed.run()
    whole.rename(packed.tree / "whole2")
    (packed.tree / "fraction").rename(packed.tree / "fraction2")
    summary = await packed.run()
    assert summary.bytes_read == 1000


async def test_hard_links_come_together(plain: Workbench) -> None:
    plain.write("b/first", b"shared" * 100)
    for name in ("a/second", "c/third"):
        (plain.tree / name).parent.mkdir()
        (plain.tree / name).hardlink_to(plain.tree / "b/first")
    for number in range(50):
        plain.write(f"m/{number}")
    summary = await plain.run()
    assert summary.files_new == 53
    links: list[tuple[str, str]] = []
    kept: list[str] = []
    for path in pack_paths(plain):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                if member.islnk() and not member.name.startswith("m/"):
                    links.append((member.name, member.linkname))
                    assert member.linkname in kept, "a link's file comes before it, in the same pack"
                kept.append(member.name)
    assert len(links) == 2
    entries = await plain.entries()
    labels = {entries[name].hardlink for name in (b"b/first", b"a/second", b"c/third")}
    assert len(labels) == 1
    assert "" not in labels
    assert len({places(entries)[name] for name in (b"b/first", b"a/second", b"c/third")}) == 1


async def test_a_new_name_of_a_saved_file(packed: Workbench) -> None:
    packed.write("first", b"shared" * 100)
    await packed.run()
    (packed.tree / "second").hardlink_to(packed.tree / "first")
    summary = await packed.run()
    assert summary.files_new == 1
    entries = await packed.entries()
    assert entries[b"first"].hardlink == entries[b"second"].hardlink != ""
    assert places(entries)[b"first"] == places(entries)[b"second"]


async def test_further_names_of_a_large_file_are_no_copies(packed: Workbench) -> None:
    packed.write("first", os.urandom(2 * MIB))
    (packed.tree / "second").hardlink_to(packed.tree / "first")
    summary = await packed.run()
    assert summary.files_new == 2
    assert [key for key in objects(packed) if key.startswith("files/")] in (["files/first"], ["files/second"])
    assert len(set(places(await packed.entries()).values())) == 1


@pytest.mark.parametrize("size", [2 * MIB, 6 * MIB], ids=["one piece", "parts"])
async def test_large_copies_are_sent_once(packed: Workbench, size: int) -> None:
    body = os.urandom(size)
    packed.write("one", body)
    packed.write("d/two", body)
    first = await packed.run()
    assert first.bytes_uploaded < size + 70_000
    packed.write("e/three", body)
    second = await packed.run()
    assert second.bytes_uploaded < 8192
    assert len(set(places(await packed.entries()).values())) == 1


async def test_a_touched_large_file_is_read_once_and_not_sent(packed: Workbench) -> None:
    path = packed.write("large", os.urandom(6 * MIB))
    await packed.run()
    age(path)
    summary = await packed.run()
    assert (summary.files_changed, summary.bytes_read) == (1, 6 * MIB)
    assert "UploadPart" not in summary.requests


async def test_a_mirror_that_becomes_packed_shares_what_it_has(bench: Workbench) -> None:
    body = os.urandom(100_000)
    bench.write("one", body)
    await bench.run()
    bench.configure(packed=True, zstd_level=3)
    bench.write("two", body)
    summary = await bench.run()
    assert summary.bytes_uploaded < 8192
    found = places(await bench.entries())
    assert found[b"two"] == found[b"one"]
    assert found[b"one"][1] == "files/one"


async def test_a_packed_section_that_becomes_a_mirror(packed: Workbench) -> None:
    packed.write("old", b"x" * 1000)
    await packed.run()
    packed.configure(packed=False, zstd_level=0)
    packed.write("new", b"x" * 1000)
    summary = await packed.run()
    assert summary.files_new == 1
    entries = await packed.entries()
    assert places(entries)[b"new"][1] == "files/new"
    assert places(entries)[b"old"][1].startswith("packs/")
    packed.configure(packed=True, zstd_level=3)
    packed.write("newer", b"x" * 1000)
    await packed.run()
    assert places(await packed.entries())[b"newer"] in {places(entries)[b"new"], places(entries)[b"old"]}


async def test_a_newly_sealed_section_shares_no_plain_content(plain: Workbench, tmp_path: Path) -> None:
    plain.write("one", b"x" * 100_000)
    await plain.run()
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    with_key = Workbench(sealed, plain.section.destination, encrypted=True)
    plain.configure(encryption=with_key.section.encryption)
    await plain.initialise_again()
    plain.write("two", b"x" * 100_000)
    await plain.run()
    entries = await plain.entries()
    assert entries[b"two"].extent is not None
    assert entries[b"two"].extent.encrypted


async def test_packs_are_described_in_the_manifest(packed: Workbench) -> None:
    packed.write("a", b"x" * 1000)
    await packed.run()
    packed.write("b", b"y" * 1000)
    await packed.run()
    described = await packed.packs()
    stored = {f"{p.parent.parent.name}/packs/{p.name}": p for p in pack_paths(packed)}
    assert {f"{pack.run}/{pack.key}" for pack in described} == set(stored)
    for pack in described:
        path = stored[f"{pack.run}/{pack.key}"]
        assert pack.size == path.stat().st_size
        assert pack.encrypted == packed.section.encryption.enabled
        assert pack.compression == ("zstd" if packed.section.zstd_level else "")


async def test_a_stopped_run_sends_no_half_full_pack_and_the_next_goes_on(packed: Workbench) -> None:
    from asyncbackup.errors import Interrupted
    from asyncbackup.flow.stop import StopRequest

    for number in range(10):
        packed.write(f"{number}")
    stop = StopRequest()
    stop.request()
    with pytest.raises(Interrupted):
        await packed.run(stop=stop)
    assert pack_paths(packed) == []
    summary = await packed.run()
    assert summary.files_new == 10


@pytest.mark.parametrize("less", [0, 1, 1000])
async def test_a_file_that_is_large_by_its_header_alone_is_saved(plain: Workbench, less: int) -> None:
    """A file of one part, or hardly less, costs more than a part as a member, which it never becomes."""
    plain.write("one part", os.urandom(plain.settings.part_size_bytes - less))
    summary = await plain.run()
    assert not summary.failures
    extent = (await plain.entries())[b"one part"].extent
    assert extent is not None
    assert extent.key == "files/one part"


async def test_paths_that_are_longer_than_what_is_leased_for_a_member(packed: Workbench) -> None:
    """Their headers are in the pack all the same, and shrink to nothing once their frame is compressed."""
    deep(packed.tree, depth=350, name="d" * 10)
    summary = await packed.run()
    assert summary.folders == 351
    assert summary.peak_inflight_bytes <= packed.settings.memory_limit_bytes


async def test_long_paths_fill_a_pack_too(packed: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packer_module, "PATH_BYTES_PER_PACK", 200_000)
    monkeypatch.setattr(detector_module, "CHANGES_PER_BATCH", 20)
    deep(packed.tree, depth=350, name="d" * 10)
    await packed.run()
    # They add up to 675 kB.
    assert 2 <= len(pack_paths(packed)) <= 4
