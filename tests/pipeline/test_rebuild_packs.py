"""Rebuilding from objects alone where most of the tree is in packs."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.config import EncryptionSettings
from asyncbackup.errors import KeyUnlockError
from asyncbackup.format.metadata import encode_metadata
from asyncbackup.format.pack_builder import PackBuilder
from asyncbackup.format.tar import END, member_header
from asyncbackup.model import EMPTY_SHA256, Entry, Extent, Kind
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.snapshots import list_snapshots
from tests.pipeline.repository_fixtures import FIRST, SECOND, THIRD
from tests.unit.catalog.entries import in_order
from tests.workbench import Workbench, age, picture

if TYPE_CHECKING:
    from asyncbackup.rebuild.summary import RebuildSummary, Unrecovered
    from tests.servers import S3Endpoint


@pytest.fixture(params=["plain", "zstd", "sealed"])
async def packed(request: pytest.FixtureRequest, tmp_path: Path, folder_destination: Path) -> Workbench:
    """A packed section, in each way in which packs are stored."""
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=request.param == "sealed")
    bench.configure(packed=True, zstd_level=0 if request.param == "plain" else 3)
    await bench.initialise()
    return bench


def store_of(bench: Workbench) -> Path:
    return Path(bench.section.destination.removeprefix("file://"))


def packs_of(bench: Workbench) -> list[Path]:
    return sorted((store_of(bench) / "home/data").rglob("packs/*"))


async def rebuilt(bench: Workbench) -> RebuildSummary:
    """The database and every manifest are lost, and the rest tells."""
    shutil.rmtree(store_of(bench) / "home/snapshots", ignore_errors=True)
    bench.settings.database_path("home").unlink()
    return await rebuild_section(bench.settings, bench.section, from_objects=True)


async def held(bench: Workbench) -> dict[bytes, Entry]:
    """What the database says."""
    path = bench.settings.database_path("home")
    async with Catalog.open(path, section="home", destination=bench.section.destination) as catalog:
        return {entry.path: entry async for page in in_order(catalog) for entry in page}


def as_packs_tell(entries: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """The entries without what tar has no room for. Labels of hard links are made anew, nobody has looked
    into sealed objects, and what moved a folder's times alone is in no pack."""
    return {
        path: msgspec.structs.replace(
            entry,
            nlink=0,
            sparse=False,
            hardlink="linked" if entry.hardlink else "",
            size=entry.size if entry.kind is Kind.FILE else 0,
            mtime_ns=0 if entry.kind is Kind.FOLDER else entry.mtime_ns,
            ctime_ns=0 if entry.kind is Kind.FOLDER else entry.ctime_ns,
            sha256=b"" if entry.extent and entry.extent.key == "files/large" else entry.sha256,
            extent=entry.extent if entry.kind is Kind.FILE else None,
            dev=0,
            ino=0,
        )
        for path, entry in entries.items()
    }


def differences(found: dict[bytes, Entry], wanted: dict[bytes, Entry]) -> dict[bytes, object]:
    return {
        path: (found.get(path), wanted.get(path))
        for path in found.keys() | wanted.keys()
        if found.get(path) != wanted.get(path)
    }


def grow(bench: Workbench) -> None:
    """A tree with something of each kind, large files among them."""
    bench.configure(pack_below_bytes=100_000)
    for number in range(200):
        bench.write(f"many/{number:03d}", b"%d text " % number * (number * 11 % 300))
    bench.write("copies/one", b"the same in several files" * 100)
    bench.write("copies/two", b"the same in several files" * 100, mode=0o600)
    bench.write("large", os.urandom(200_000))
    bench.write(b"odd \xff\\%41", b"odd")
    bench.write("deep/" * 40 + "leaf", b"deep")
    bench.write("linked/first", b"shared by two names")
    os.link(bench.tree / "linked/first", bench.tree / "linked/second")
    (bench.tree / "a-link").symlink_to("many/\udcff")
    (bench.tree / "hollow").mkdir(mode=0o750)
    os.setxattr(bench.tree / "many/001", "user.note", b"a = b\0c")


async def test_a_packed_tree_comes_back_from_its_packs(packed: Workbench) -> None:
    grow(packed)
    await packed.run()
    packed.write("many/003", b"changed since")
    packed.write("many/new", b"new")
    packed.write("copies/three", b"the same in several files" * 100)
    shutil.copy2(packed.tree / "large", packed.tree / "large-copy")
    await packed.run()
    wanted = as_packs_tell(await packed.entries())
    summary = await rebuilt(packed)
    assert (summary.source, summary.unrecovered) == ("objects", ())
    found = as_packs_tell(await held(packed))
    assert differences(found, wanted) == {}
    assert differences(as_packs_tell(await packed.entries()), wanted) == {}
    labels = {path: entry.hardlink for path, entry in (await held(packed)).items() if entry.hardlink}
    assert labels.keys() == {b"linked/first", b"linked/second"}
    assert len(set(labels.values())) == 1


async def test_what_was_rebuilt_restores_as_it_was(packed: Workbench) -> None:
    grow(packed)
    await packed.run()
    wanted = picture(packed.tree)
    await rebuilt(packed)
    assert picture(await packed.restored()) == wanted


@pytest.mark.parametrize("packed_too", [False, True], ids=["mirror", "packed"])
async def test_hidden_names_come_back(tmp_path: Path, folder_destination: Path, *, packed_too: bool) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=True)
    encryption = msgspec.structs.replace(bench.section.encryption, hide_names=True)
    bench.configure(packed=packed_too, zstd_level=3, encryption=encryption)
    await bench.initialise()
    grow(bench)
    bench.write("shrinks", b"a line that is like the next\n" * 20_000)
    await bench.run()
    wanted = picture(bench.tree)
    before = await bench.entries()
    summary = await rebuilt(bench)
    assert summary.unrecovered == ()
    found = await held(bench)
    assert {path: entry.extent for path, entry in found.items() if entry.kind is Kind.FILE} == {
        path: entry.extent for path, entry in before.items() if entry.kind is Kind.FILE
    }
    assert picture(await bench.restored()) == wanted


@pytest.mark.parametrize("server", ["seaweed_s3", "moto_s3", "rclone_s3"])
async def test_packs_on_servers_come_back(
    tmp_path: Path, server: str, request: pytest.FixtureRequest
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server)
    bench = Workbench(tmp_path, f"s3://{endpoint.fresh_bucket()}/p", s3=endpoint.settings(), encrypted=True)
    bench.configure(packed=True, zstd_level=3)
    await bench.initialise()
    grow(bench)
    await bench.run()
    described = await bench.packs()
    wanted = as_packs_tell(await bench.entries())
    async with open_repository(bench.settings, bench.section) as repository:
        await repository.store.delete([info.key for info in await list_snapshots(repository)])
    bench.settings.database_path("home").unlink()
    summary = await rebuild_section(bench.settings, bench.section)
    assert (summary.source, summary.unrecovered) == ("objects", ())
    # The packs, and the one large file; each is asked for once.
    assert summary.requests["HeadObject"] == len(described) + 1
    found = as_packs_tell(await held(bench))
    # Not every endpoint keeps the checksum of a sealed object; that of a pack is computed.
    assert differences(found | {b"large": wanted[b"large"]}, wanted) == {}
    assert await bench.packs() == described


async def test_the_run_after_it_sends_nothing_and_stores_no_content_again(packed: Workbench) -> None:
    grow(packed)
    await packed.run()
    await rebuilt(packed)
    before = len(packs_of(packed))
    summary = await packed.run()
    assert (summary.files_new, summary.files_changed, summary.files_deleted) == (0, 0, 0)
    assert len(packs_of(packed)) == before
    # Contents are known by their digests again.
    packed.write("many/again", (packed.tree / "many/007").read_bytes())
    await packed.run()
    entries = await packed.entries()
    assert entries[b"many/again"].extent == entries[b"many/007"].extent


async def test_the_rebuilt_snapshot_describes_its_packs(packed: Workbench) -> None:
    grow(packed)
    await packed.run()
    described = await packed.packs()
    assert described
    await rebuilt(packed)
    assert await packed.packs() == described


async def test_the_newest_version_counts_wherever_it_lies(packed: Workbench) -> None:
    packed.configure(pack_below_bytes=10_000)
    packed.write("shrinks", b"l" * 50_000)
    packed.write("grows", b"small")
    await packed.run()
    packed.write("shrinks", b"small now")
    packed.write("grows", b"L" * 50_000)
    await packed.run()
    wanted = as_packs_tell(await packed.entries())
    await rebuilt(packed)
    found = as_packs_tell(await held(packed))
    # Nobody looks into a sealed object.
    blind = {b"grows": msgspec.structs.replace(found[b"grows"], sha256=wanted[b"grows"].sha256)}
    assert differences(found | blind, wanted) == {}


async def test_packs_of_an_encrypted_section_need_the_secret(tmp_path: Path, sealed_bench: Workbench) -> None:
    sealed_bench.configure(packed=True)
    sealed_bench.write("a")
    await sealed_bench.run()
    section = msgspec.structs.replace(sealed_bench.section, encryption=EncryptionSettings())
    with pytest.raises(KeyUnlockError, match=r"in sections\.home\.encryption"):
        await rebuild_section(sealed_bench.settings, section, from_objects=True)


async def test_a_planted_pack_is_no_pack_of_an_encrypted_section(sealed_bench: Workbench) -> None:
    sealed_bench.configure(packed=True)
    sealed_bench.write("a")
    await sealed_bench.run()
    (pack,) = packs_of(sealed_bench)
    builder = PackBuilder(zstd_level=0)
    builder.add(Entry(path=b"planted", kind=Kind.FILE, mode=0o104755))
    pack.with_name("000002.tar").write_bytes(b"".join(builder.finish().body))
    summary = await rebuilt(sealed_bench)
    assert sorted(await held(sealed_bench)) == [b"", b"a"]
    assert ["somebody else put it there" in each.reason for each in summary.unrecovered] == [True]


async def test_of_a_sealed_pack_what_was_opened_before_the_damage_is_kept(sealed_bench: Workbench) -> None:
    sealed_bench.configure(packed=True)
    for number in range(20):
        sealed_bench.write(f"{number:02d}", os.urandom(9000))
    await sealed_bench.run()
    (pack,) = packs_of(sealed_bench)
    with pack.open("r+b") as file:
        file.seek(60_000)
        file.write(b"damage")
    summary = await rebuilt(sealed_bench)
    found = await held(sealed_bench)
    files = [entry for entry in found.values() if entry.kind is Kind.FILE]
    assert 3 <= len(files) <= 5
    assert any("not authentic" in each.reason for each in summary.unrecovered)
    # The member that the damage fell into is named.
    named = [each.path for each in summary.unrecovered if each.path is not None]
    assert len(named) == 1
    assert named[0] not in found


async def test_damage_to_a_frame_costs_its_members_alone(tmp_path: Path, folder_destination: Path) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    bench.configure(packed=True, zstd_level=3)
    await bench.initialise()
    for number in range(60):
        bench.write(f"{number:02d}", os.urandom(20_000) + bytes(10_000))
    await bench.run()
    entries = await bench.entries()
    frames = sorted({(e.extent.offset, e.extent.length) for e in entries.values() if e.extent})
    assert len(frames) > 2
    (pack,) = packs_of(bench)
    with pack.open("r+b") as file:
        file.seek(frames[1][0] + 2)
        file.write(b"\xff")
    summary = await rebuilt(bench)
    found = await held(bench)
    kept = {path for path, e in entries.items() if e.extent and e.extent.offset < frames[1][0]}
    assert kept <= found.keys()
    assert any("no zstd frame begins" in each.reason for each in summary.unrecovered)


async def test_a_pack_that_is_not_what_was_uploaded_is_named(
    tmp_path: Path, folder_destination: Path
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    bench.configure(packed=True)
    await bench.initialise()
    bench.write("a", b"some content")
    await bench.run()
    extent = (await bench.entries())[b"a"].extent
    assert extent is not None
    (pack,) = packs_of(bench)
    with pack.open("r+b") as file:
        file.seek(extent.offset)
        file.write(b"S")
    summary = await rebuilt(bench)
    (told,) = summary.unrecovered
    assert not told.lost
    assert "any of its members may be damaged" in told.reason
    assert (await held(bench))[b"a"].sha256 == hashlib.sha256(b"Some content").digest()


async def test_references_whose_content_is_gone_are_named(packed: Workbench) -> None:
    packed.configure(pack_below_bytes=10_000)
    packed.write("small", b"s" * 500)
    packed.write("large", b"l" * 50_000)
    await packed.run()
    first_pack = packs_of(packed)[0]
    for name in ("small", "large"):
        os.rename(packed.tree / name, packed.tree / f"{name}-moved")
        age(packed.tree / f"{name}-moved")
    await packed.run()
    first_pack.unlink()
    shutil.rmtree(first_pack.parent.parent / "files")
    summary = await rebuilt(packed)
    lost = {each.path: each.reason for each in summary.unrecovered}
    assert lost.keys() == {b"small-moved", b"large-moved"}
    assert all("is gone" in reason for reason in lost.values())
    assert not lost.keys() & (await held(packed)).keys()


def put_pack(
    bench: Workbench, run: str, entries: list[tuple[Entry, bytes]], *references: Entry
) -> list[Extent]:
    """Write the first pack of a run; where its members lie."""
    builder = PackBuilder(zstd_level=3)
    for entry, content in entries:
        builder.add(entry, content)
    for reference in references:
        builder.add_reference(reference)
    built = builder.finish()
    key = "packs/000001.tar.zst"
    path = store_of(bench) / f"home/data/{run}/{key}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(built.body))
    return [
        Extent(run, key, place.length, offset=place.offset, compression="zstd", skip=place.skip)
        for place in built.placements
    ]


async def test_a_reference_counts_for_the_content_that_is_really_there(bench: Workbench) -> None:
    await bench.run()
    there = Entry(path=b"there", kind=Kind.FILE, mode=0o100644, size=4)
    (frame,) = put_pack(bench, FIRST, [(there, b"true")])

    stale = Extent(FIRST, "packs/000009.tar.zst", 5, compression="zstd")

    def reference(path: bytes, content: bytes, extent: Extent) -> Entry:
        return Entry(
            path=path,
            kind=Kind.FILE,
            mode=0o100644,
            size=len(content),
            sha256=hashlib.sha256(content).digest(),
            extent=extent,
        )

    put_pack(
        bench,
        SECOND,
        [],
        reference(b"good", b"true", frame),
        reference(b"other-content", b"liar", frame),
        reference(b"other-place", b"true", msgspec.structs.replace(frame, skip=0)),
        reference(b"other-length", b"true", msgspec.structs.replace(frame, length=5)),
        reference(b"of-a-reference", b"true", Extent(SECOND, frame.key, frame.length, compression="zstd")),
        msgspec.structs.replace(reference(b"nameless", b"true", stale), sha256=b""),
    )
    summary = await rebuilt(bench)
    found = await held(bench)
    # What is named by its digest is found wherever it lies: a prune moves contents.
    good = {b"good", b"other-place", b"other-length", b"of-a-reference"}
    assert found.keys() == {b"", b"there", *good}
    assert {found[path].extent for path in good} == {found[b"there"].extent}
    lost = {each.path for each in summary.unrecovered}
    assert lost == {b"other-content", b"nameless"}


async def test_an_object_can_stand_in_for_a_member(bench: Workbench) -> None:
    await bench.run()
    member = Entry(path=b"first", kind=Kind.FILE, mode=0o100644, size=4)
    (extent,) = put_pack(bench, FIRST, [(member, b"true")])
    # The later version of the first name is none of the name's.
    put_pack(bench, SECOND, [(member, b"late")])
    orphan = Entry(
        path=b"orphan", kind=Kind.FILE, mode=0o100644, size=4, extent=Extent(FIRST, "files/gone", 4)
    )
    put_pack(bench, THIRD, [], orphan)
    async with open_repository(bench.settings, bench.section) as repository:
        for run, name, first in ((FIRST, "second", b"first"), (THIRD, "third", b"orphan")):
            entry = Entry(path=name.encode(), kind=Kind.FILE, mode=0o100644, size=4)
            metadata = encode_metadata(entry, original_size=None, long_path=False, first_path=first)
            key = f"home/data/{run}/files/{name}"
            await repository.store.put(key, b"", sha256=EMPTY_SHA256, metadata=metadata)
    summary = await rebuilt(bench)
    found = await held(bench)
    assert found[b"second"].extent == extent
    assert found[b"second"].sha256 == hashlib.sha256(b"true").digest()
    assert found[b"first"].sha256 == hashlib.sha256(b"late").digest()
    assert {each.path for each in summary.unrecovered} == {b"orphan", b"third"}


async def test_members_of_a_pack_that_a_prune_wrote_are_of_their_own_runs(bench: Workbench) -> None:
    await bench.run()
    member = Entry(path=b"a", kind=Kind.FILE, mode=0o100644, size=4, mtime_ns=5)
    put_pack(bench, SECOND, [(member, b"late")])
    header = member_header(member, run=FIRST)
    path = store_of(bench) / f"home/data/{THIRD}/packs/000001.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(header + b"oldy" + bytes(508) + END)
    await rebuilt(bench)
    assert (await held(bench))[b"a"].sha256 == hashlib.sha256(b"late").digest()


async def test_hostile_packs_give_nothing_outside_the_tree(bench: Workbench) -> None:

    await bench.run()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("../up", "/etc/cron", "good", "a/../../b"):
            archive.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("orphan")
        link.type, link.linkname = tarfile.LNKTYPE, "nobody"
        archive.addfile(link)
    path = store_of(bench) / f"home/data/{FIRST}/packs/000001.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(stream.getvalue())
    summary = await rebuilt(bench)
    assert (await held(bench)).keys() == {b"", b"good"}
    assert {each.path for each in summary.unrecovered} == {None, b"orphan"}
    assert sum("not a path" in each.reason for each in summary.unrecovered) == 3


async def test_names_of_what_is_lost_are_kept_as_far_as_memory_goes(bench: Workbench) -> None:
    await bench.run()
    # Links to nothing, with the longest names that a snapshot has room for.
    body = b"".join(
        member_header(
            Entry(path=b"%03d/" % number + b"n" * 300_000, kind=Kind.FILE, mode=0o100644), link_to=b"nobody"
        )
        for number in range(40)
    )
    path = store_of(bench) / f"home/data/{FIRST}/packs/000001.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(body + END)
    told: list[Unrecovered] = []
    shutil.rmtree(store_of(bench) / "home/snapshots")
    summary = await rebuild_section(
        bench.settings, bench.section, from_objects=True, on_unrecovered=told.append
    )
    assert len(told) == summary.unrecovered_objects == 40
    assert 20 < len(summary.unrecovered) < 30
    assert [each.path for each in summary.unrecovered] == [each.path for each in told][
        : len(summary.unrecovered)
    ]
