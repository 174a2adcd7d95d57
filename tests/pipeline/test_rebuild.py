"""Rebuilding the database: from manifests, and from nothing but the objects."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog, CatalogIdentity
from asyncbackup.errors import (
    CatalogError,
    FormatError,
    Interrupted,
    KeyUnlockError,
    SectionBusyError,
)
from asyncbackup.flow.stop import StopRequest
from asyncbackup.format.keys import data_prefix, snapshot_key
from asyncbackup.format.metadata import encode_metadata
from asyncbackup.model import Entry, Extent, Kind, Pending
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.rebuild.summary import RebuildCounters, RebuildSummary, Unrecovered
from asyncbackup.repository.manifests import read_header, read_manifest, read_trailer
from asyncbackup.verify.section import verify_section
from tests.pipeline.repository_fixtures import (
    FIRST,
    SECOND,
    THIRD,
    HardLink,
    Link,
    Node,
    header_of,
    repository_at,
    save,
    settings_for,
    write_manifest,
)
from tests.unit.catalog.entries import in_order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.repository.open import Repository
    from tests.servers import S3Endpoint

Case = tuple["Settings", "SectionSettings"]
BOTH = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])

NO_EXTENT = Extent(run="", key="", length=0)
LONG_SEGMENT = b"s" * 256
LONG_PATH = b"/".join([b"deep" * 50] * 5) + b"/leaf"
LONGER_PATH = b"/".join(["Käse".encode() * 30] * 8) + b"/leaf"
TREE: dict[bytes, Node] = {
    b"docs/report.pdf": b"report" * 1000,
    b"docs/empty": b"",
    b"odd \xff\\%41": b"odd",
    b"a-link": Link(b"docs/\xff report"),
    b"hollow": None,
    b"first": b"shared content",
    b"second": HardLink(b"first"),
    b"third": HardLink(b"second"),
    b"x/" + LONG_SEGMENT: b"long segment",
    LONG_PATH: b"long path",
    LONGER_PATH: b"a path that has no room in the metadata",
}


def on_files(tmp_path: Path, *, encrypted: bool = False) -> Case:
    (tmp_path / "store").mkdir(exist_ok=True)
    return settings_for(tmp_path, f"file://{tmp_path}/store", encrypted=encrypted)


@asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Repository]:
    async with repository_at(*case) as repository:
        yield repository


async def held(case: Case) -> dict[bytes, Entry]:
    """What the section's database says."""
    settings, section = case
    async with Catalog.open(
        settings.database_path(section.name), section=section.name, destination=section.destination
    ) as catalog:
        assert await catalog.read_meta("descriptor") is not None
        return {entry.path: entry async for page in in_order(catalog) for entry in page}


async def listed(case: Case, run: str) -> dict[bytes, Entry]:
    """What a snapshot at the destination says."""
    async with opened(case) as repository, aclosing(read_manifest(repository, run)) as batches:
        return {entry.path: entry async for batch in batches for entry in batch}


def differences(found: dict[bytes, Entry], wanted: dict[bytes, Entry]) -> dict[bytes, object]:
    return {
        path: (found.get(path), wanted.get(path))
        for path in found.keys() | wanted.keys()
        if found.get(path) != wanted.get(path)
    }


# From manifests -----------------------------------------------------------------------------------


@BOTH
async def test_a_lost_database_comes_back_from_the_newest_manifest(tmp_path: Path, encrypted: bool) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    async with opened(case) as repository:
        first = await save(repository, FIRST, TREE)
        first.pop(b"hollow")
        second = await save(repository, SECOND, {b"new": b"1"}, unchanged=first.values())
    counters = RebuildCounters()
    summary = await rebuild_section(*case, counters=counters)
    assert (summary.source, summary.snapshot, summary.snapshots) == ("manifests", SECOND, 2)
    assert (summary.files, summary.symlinks) == (10, 1)
    assert counters.entries == summary.files + summary.folders + summary.symlinks == len(second)
    assert summary.unrecovered_objects == 0
    assert not differences(await held(case), second)
    # Two manifests are listed and one is read; if it is encrypted, its header again.
    gets = 4 if encrypted else 2
    assert summary.requests == {"GetObject": gets, "ListObjectsV2": summary.requests["ListObjectsV2"]}


async def test_an_existing_database_is_replaced_and_its_snapshots_named(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        first = await save(repository, FIRST, {b"a": b"1", b"b": b"2"})
        await rebuild_section(*case)
        first.pop(b"b")
        await save(repository, SECOND, {b"a": b"3"})
    await rebuild_section(*case)
    assert sorted(await held(case)) == [b"", b"a"]
    settings, section = case
    async with Catalog.open(
        settings.database_path("home"), section="home", destination=section.destination
    ) as catalog:
        records = await catalog.runs.all()
        assert [(record.run, record.committed) for record in records] == [(FIRST, True), (SECOND, True)]
        assert await catalog.runs.last_snapshot() == SECOND
        # A lost database cannot tell of unfinished uploads, so the next run looks for them once.
        assert await catalog.runs.ended_unclean()


async def test_an_unreadable_manifest_is_passed_over_and_said_so(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        first = await save(repository, FIRST, {b"a": b"1"})
        await save(repository, SECOND, {f"many-{n}".encode(): b"2" for n in range(50)})
    path = tmp_path / "store" / snapshot_key("home", SECOND)
    os.truncate(path, path.stat().st_size - 3)
    summary = await rebuild_section(*case)
    assert (summary.snapshot, summary.snapshots, summary.files) == (FIRST, 1, 1)
    assert any(SECOND in note and "passed over" in note for note in summary.notes)
    assert not differences(await held(case), first)


async def test_where_no_manifest_can_be_read_the_way_out_is_named(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        await save(repository, FIRST, {b"a": b"1"})
    (tmp_path / "store" / snapshot_key("home", FIRST)).write_bytes(b"")
    with pytest.raises(FormatError, match="--from-objects"):
        await rebuild_section(*case)
    assert not case[0].database_path("home").exists()
    summary = await rebuild_section(*case, from_objects=True)
    assert (summary.source, summary.files) == ("objects", 1)


async def test_an_empty_destination_has_nothing_to_rebuild_from(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case):
        pass
    for from_objects in (False, True):
        with pytest.raises(CatalogError, match="initdb home"):
            await rebuild_section(*case, from_objects=from_objects)
    assert not case[0].database_path("home").exists()


@pytest.mark.parametrize("from_objects", [False, True])
async def test_a_rebuild_that_is_stopped_leaves_the_database_as_it_was(
    tmp_path: Path, from_objects: bool
) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        first = await save(repository, FIRST, {b"a": b"1"})
    stop = StopRequest()
    stop.request()
    with pytest.raises(Interrupted):
        await rebuild_section(*case, stop=stop, from_objects=from_objects)
    assert os.listdir(case[0].state_dir) == []
    await rebuild_section(*case)
    async with opened(case) as repository:
        await save(repository, SECOND, {b"a": b"2"})
    with pytest.raises(Interrupted):
        await rebuild_section(*case, stop=stop, from_objects=from_objects)
    assert not differences(await held(case), first)
    assert sorted(os.listdir(case[0].state_dir)) == ["home.sqlite3", "home.sqlite3.sha256"]


async def test_a_database_in_use_is_left_alone(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    settings, section = case
    async with opened(case) as repository:
        await save(repository, FIRST, {b"a": b"1"})
    await rebuild_section(*case)
    async with Catalog.open(settings.database_path("home"), section="home", destination=section.destination):
        with pytest.raises(SectionBusyError):
            await rebuild_section(*case)


async def test_the_database_of_another_destination_is_never_replaced(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        await save(repository, FIRST, {b"a": b"1"})
    identity = CatalogIdentity("home", "file:///somewhere/else", "0" * 32)
    async with Catalog.create(case[0].database_path("home"), identity):
        pass
    with pytest.raises(CatalogError, match="destination 'file:///somewhere/else'"):
        await rebuild_section(*case)


async def test_a_database_of_a_repository_that_was_made_anew_follows_it(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    settings, section = case
    identity = CatalogIdentity("home", section.destination, "0" * 32)
    async with Catalog.create(settings.database_path("home"), identity):
        pass
    async with opened(case) as repository:
        await save(repository, FIRST, {b"a": b"1"})
        repository_id = repository.repository_id
    await rebuild_section(*case)
    async with Catalog.open(
        settings.database_path("home"), section="home", destination=section.destination
    ) as catalog:
        assert catalog.identity.repository == repository_id


# From objects -------------------------------------------------------------------------------------


def as_objects_tell(entries: dict[bytes, Entry], *, encrypted: bool) -> dict[bytes, Entry]:
    """The entries as metadata can tell them: no digest of what is sealed, one label an inode and time."""
    told = {}
    for path, entry in entries.items():
        if entry.hardlink:
            label = f"{entry.hardlink}:{entry.size:x}:{entry.mtime_ns:x}"
            entry = msgspec.structs.replace(entry, hardlink=label)
        if encrypted:
            entry = msgspec.structs.replace(entry, sha256=b"")
        told[path] = entry
    return told


async def rebuilt_from_objects(case: Case) -> RebuildSummary:
    return await rebuild_section(*case, from_objects=True)


@BOTH
async def test_a_tree_comes_back_from_its_objects(tmp_path: Path, encrypted: bool) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    async with opened(case) as repository:
        await save(repository, FIRST, TREE)
        entries = await save(repository, SECOND, TREE, manifest=False)
    shutil.rmtree(tmp_path / "store/home/snapshots")
    summary = await rebuild_section(*case)
    assert (summary.source, summary.unrecovered_objects) == ("objects", 0), summary.unrecovered
    wanted = as_objects_tell(entries, encrypted=encrypted)
    # The file system keeps a checksum of what is sealed; of plain contents the digest says as much.
    assert not differences(await held(case), wanted)
    assert not differences(await listed(case, summary.snapshot), wanted)
    async with opened(case) as repository:
        header = await read_header(repository, summary.snapshot)
        assert (header.section, header.base) == ("home", None)
    checked = await verify_section(*case, read_percent=100)
    assert (checked.damaged_objects, checked.snapshots) == (0, 1)


@pytest.mark.parametrize("server", ["seaweed_s3", "moto_s3", "rclone_s3"])
@BOTH
async def test_a_tree_comes_back_from_servers(
    tmp_path: Path, server: str, request: pytest.FixtureRequest, encrypted: bool
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server)
    case = settings_for(
        tmp_path, f"s3://{endpoint.fresh_bucket()}/p", s3=endpoint.settings(), encrypted=encrypted
    )
    async with opened(case) as repository:
        entries = await save(repository, FIRST, TREE, manifest=False)
        kept = repository.store.capabilities.keeps_folders
    told: list[Unrecovered] = []
    summary = await rebuild_section(*case, on_unrecovered=told.append)
    found = await held(case)
    wanted = as_objects_tell(entries, encrypted=encrypted)
    assert (await verify_section(*case)).damaged_objects == 0
    if server == "moto_s3":
        assert not differences(without_checksums(found), without_checksums(wanted))
        assert summary.unrecovered_objects == 0
        return
    # The others keep no objects for folders (those that something lies in are put back), or lose
    # the metadata of keys that end in a slash, which is told.
    folders = {path for path, entry in wanted.items() if entry.kind is Kind.FOLDER}
    with_slash = {path for path in folders if (wanted[path].extent or NO_EXTENT).key.endswith("/")}
    assert {each.path for each in told} == (with_slash if kept else set())
    assert not any(each.lost for each in told)
    assert {path for path, entry in found.items() if entry.kind is Kind.FOLDER} == (
        folders if kept else folders - {b"hollow"}
    )
    for path in folders:
        wanted.pop(path)
        found.pop(path, None)
    assert not differences(without_checksums(found), without_checksums(wanted))


def without_checksums(entries: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """Not every endpoint keeps the checksums of sealed objects."""
    return {
        path: msgspec.structs.replace(
            entry, extent=entry.extent and msgspec.structs.replace(entry.extent, checksum="")
        )
        for path, entry in entries.items()
    }


async def test_the_newest_version_of_every_path_wins(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        await save(repository, FIRST, {b"a": b"old", b"b": b"only", b"c": b"first"})
        await save(repository, SECOND, {b"a": b"newer"})
        third = await save(repository, THIRD, {b"c": b"newest"}, manifest=False)
    await rebuilt_from_objects(case)
    found = await held(case)
    digests = {path: entry.sha256 for path, entry in found.items() if entry.sha256}
    assert digests == {
        path: hashlib.sha256(content).digest()
        for path, content in ((b"a", b"newer"), (b"b", b"only"), (b"c", b"newest"))
    }
    assert found[b"c"] == third[b"c"]


async def test_a_path_that_was_file_and_folder_is_what_it_was_last(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        await save(repository, FIRST, {b"to-folder": b"1", b"to-file/x/y": b"1", b"to-file/z": b"1"})
        await save(repository, SECOND, {b"to-folder/child": b"2", b"to-file": b"2"})
    await rebuilt_from_objects(case)
    assert sorted(await held(case)) == [b"", b"to-file", b"to-folder", b"to-folder/child"]


async def test_a_lost_folder_object_is_put_back_and_a_stale_file_gives_way(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        await save(repository, FIRST, {b"p": b"1", b"gone/deep/leaf": b"1"})
        second = await save(repository, SECOND, {b"p/child": b"2"})
        await repository.store.delete(
            [
                f"home/data/{FIRST}/files/gone/",
                f"home/data/{FIRST}/files/gone/deep/",
                f"home/data/{SECOND}/files/p/",
                f"home/data/{SECOND}/files/",
                f"home/data/{FIRST}/files/",
            ]
        )
    summary = await rebuilt_from_objects(case)
    found = await held(case)
    assert sorted(found) == [b"", b"gone", b"gone/deep", b"gone/deep/leaf", b"p", b"p/child"]
    for path in (b"", b"gone", b"gone/deep", b"p"):
        assert (found[path].kind, found[path].mode) == (Kind.FOLDER, 0o040700)
    assert found[b"p/child"] == second[b"p/child"]
    assert not differences(await listed(case, summary.snapshot), found)


async def test_stand_ins_find_the_content_of_their_own_time(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        first = await save(repository, FIRST, {b"a": b"early", b"b": HardLink(b"a"), b"c": HardLink(b"b")})
        await save(repository, SECOND, {b"a": b"later"})
    await rebuilt_from_objects(case)
    found = await held(case)
    assert found[b"b"].extent == found[b"c"].extent == first[b"a"].extent
    assert found[b"b"].sha256 == hashlib.sha256(b"early").digest()
    assert found[b"a"].sha256 == hashlib.sha256(b"later").digest()
    # The later file is no name of the earlier inode.
    assert found[b"b"].hardlink == found[b"c"].hardlink != found[b"a"].hardlink


async def test_a_label_used_for_two_contents_joins_neither(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        for run, names in ((FIRST, (b"a", b"b")), (SECOND, (b"c", b"d"))):
            for name in names:
                content = run.encode()
                digest = hashlib.sha256(content).digest()
                entry = Entry(
                    path=name,
                    kind=Kind.FILE,
                    mode=0o100600,
                    nlink=2,
                    mtime_ns=5,
                    size=len(content),
                    sha256=digest,
                    hardlink="1:2",
                )
                metadata = encode_metadata(entry, original_size=None, long_path=False)
                key = f"{data_prefix('home')}{run}/files/{name.decode()}"
                await repository.store.put(key, content, sha256=digest, metadata=metadata)
    await rebuilt_from_objects(case)
    assert {entry.hardlink for entry in (await held(case)).values()} == {""}


async def test_what_cannot_be_recovered_is_named(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        entries = await save(repository, FIRST, TREE)
        store, prefix = repository.store, f"{data_prefix('home')}{FIRST}/"

        async def put(key: str, body: bytes, metadata: dict[str, str]) -> None:
            await store.put(prefix + key, body, sha256=hashlib.sha256(body).digest(), metadata=metadata)

        good = {"mode": "100644", "mtime": "1", "uid": "0", "gid": "0"}
        await put("files/docs/report.pdf", b"x", {**good, "mtime": "yesterday"})
        await put("files/ring-1", b"", {**good, "asyncbackup-hardlink": "ring-2"})
        await put("files/ring-2", b"", {**good, "asyncbackup-hardlink": "ring-1"})
        await put("files/orphan", b"", {**good, "asyncbackup-hardlink": "nobody"})
        await put("files/huge-owner", b"", {**good, "uid": str(2**40)})
        await put("files/nowhere", b"", {**good, "mode": "120777"})
        await put("files/hollow/", b"", {"mode": "nonsense"})
        await put("files/bare", b"content", {})
        await put("packs/000001.tar", b"", {})
        longer = next(entry.extent for path, entry in entries.items() if path == LONGER_PATH)
        assert longer is not None
        await store.delete([prefix + longer.key + ".path"])
    told: list[Unrecovered] = []
    counters = RebuildCounters()
    summary = await rebuild_section(*case, from_objects=True, counters=counters, on_unrecovered=told.append)
    assert summary.unrecovered == tuple(told)
    assert summary.unrecovered_objects == counters.unrecovered_objects == len(told)
    lost = {each.path: each.reason for each in told if each.lost and each.path is not None}
    assert sorted(lost) == [
        b"docs/report.pdf", b"huge-owner", b"nowhere", b"orphan", b"ring-1", b"ring-2",
    ]  # fmt: skip
    assert "'yesterday' is not a time" in lost[b"docs/report.pdf"]
    assert "in a ring" in lost[b"ring-1"]
    assert "'nobody' is gone" in lost[b"orphan"]
    assert {each.key.removeprefix(prefix) for each in told if each.path is None} == {
        "packs/000001.tar",
        longer.key,
    }
    assert {each.path for each in told if not each.lost} == {b"bare", b"hollow"}
    found = await held(case)
    assert not lost.keys() & found.keys()
    assert found[b"bare"].sha256 == hashlib.sha256(b"content").digest()
    assert (found[b"bare"].mode, found[b"hollow"].mode) == (0o100600, 0o040700)
    assert LONGER_PATH not in found
    async with opened(case) as repository:
        failures = (await read_trailer(repository, summary.snapshot)).failures
    assert {failure.path for failure in failures} == set(lost)
    assert (await verify_section(*case, snapshots=[summary.snapshot])).damaged_objects == 0


async def test_in_an_encrypted_section_a_plain_object_is_none_of_ours(tmp_path: Path) -> None:
    case = on_files(tmp_path, encrypted=True)
    async with opened(case) as repository:
        entries = await save(repository, FIRST, {b"a": b"1", b"stripped": b"no metadata"})
        store, prefix = repository.store, f"{data_prefix('home')}{FIRST}/files/"
        body = b"planted, but long enough to have a header"
        metadata = {"mode": "100644", "mtime": "1", "uid": "0", "gid": "0"}
        for name, with_metadata in (("planted", metadata), ("bare", {}), ("short", {})):
            content = body if name != "short" else b""
            digest = hashlib.sha256(content).digest()
            await store.put(prefix + name, content, sha256=digest, metadata=with_metadata)
        # An endpoint that lost the metadata of a sealed object: its own header tells.
        sealed = await store.get(prefix + "stripped", limit=1000)
        await store.put(prefix + "stripped", sealed, sha256=hashlib.sha256(sealed).digest())
    summary = await rebuilt_from_objects(case)
    found = await held(case)
    assert sorted(found) == [b"", b"a", b"stripped"]
    assert found[b"stripped"].size == entries[b"stripped"].size
    assert {each.path for each in summary.unrecovered if each.lost} == {b"planted", b"bare", b"short"}
    assert any("metadata that whoever can write the bucket can change" in note for note in summary.notes)
    assert (await verify_section(*case, snapshots=[summary.snapshot])).damaged_objects == 0


async def test_encrypted_objects_need_the_secret(tmp_path: Path) -> None:
    async with opened(on_files(tmp_path, encrypted=True)) as repository:
        await save(repository, FIRST, {b"a": b"1"})
    with pytest.raises(KeyUnlockError, match=r"in sections\.home\.encryption"):
        await rebuilt_from_objects(on_files(tmp_path))
    assert os.listdir(tmp_path / "state") == []


async def test_only_the_newest_versions_are_asked_about(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    case = settings_for(tmp_path, f"s3://{seaweed_s3.fresh_bucket()}", s3=seaweed_s3.settings())
    async with opened(case) as repository:
        for run in (FIRST, SECOND, THIRD):
            await save(repository, run, {b"%d" % number: run.encode() for number in range(20)})
    counters = RebuildCounters()
    summary = await rebuild_section(*case, from_objects=True, counters=counters)
    assert counters.objects_listed == 3 * 21
    assert counters.objects_asked == summary.requests["HeadObject"] == 21
    assert summary.snapshots == 4


async def test_the_rebuilt_rows_are_what_the_next_run_compares_with(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        entries = await save(repository, FIRST, {b"a": b"1"})
    await rebuilt_from_objects(case)
    settings, section = case
    async with Catalog.open(
        settings.database_path("home"), section="home", destination=section.destination
    ) as catalog:
        (row,) = await catalog.entries.stats_of_range(b"", b"", None)
        assert row[2] == Pending.COMMITTED
        found = await catalog.entries.get(b"a")
        assert found is not None
        assert (found.ctime_ns, found.mtime_ns) == (entries[b"a"].ctime_ns, entries[b"a"].mtime_ns)


async def test_owners_that_are_no_text_do_not_stop_a_rebuild(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        root = Entry(path=b"", kind=Kind.FOLDER, mode=0o040755, owner=os.fsdecode(b"\xff"), mtime_ns=2**70)
        await write_manifest(repository, FIRST, [root], header=header_of(repository, FIRST))
    await rebuild_section(*case)
    found = await held(case)
    assert found[b""].owner == "\N{REPLACEMENT CHARACTER}"
    assert found[b""].mtime_ns == 2**70
