"""Verification: what is sound is said to be, and every damage is found and named with what it carries."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog, CatalogIdentity
from asyncbackup.catalog.runs import RunRecord
from asyncbackup.errors import ConfigError, Interrupted, RepositoryMissingError
from asyncbackup.flow.stop import StopRequest
from asyncbackup.format.keys import DESCRIPTOR_KEY, snapshot_key
from asyncbackup.verify.section import verify_section
from asyncbackup.verify.summary import DAMAGES_IN_SUMMARY, Damage, VerifyCounters, VerifySummary
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

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.model import Entry
    from asyncbackup.repository.open import Repository
    from tests.servers import S3Endpoint

PART_BYTES = 64 * 1024
TREE: dict[bytes, Node] = {
    b"docs/report.pdf": os.urandom(3 * PART_BYTES + 17),
    b"docs/twin-1": b"the same length",
    b"docs/twin-2": b"just as long ok",
    b"empty": b"",
    b"odd \xff%41": b"odd",
    b"link": Link(b"docs/report.pdf"),
    b"second name": HardLink(b"docs/twin-1"),
}
BOTH = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])

Case = tuple["Settings", "SectionSettings"]


@asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Repository]:
    async with repository_at(*case) as repository:
        yield repository


def on_files(tmp_path: Path, *, encrypted: bool = False) -> Case:
    (tmp_path / "store").mkdir(exist_ok=True)
    return settings_for(tmp_path, f"file://{tmp_path}/store", encrypted=encrypted)


def on_server(tmp_path: Path, endpoint: S3Endpoint, *, encrypted: bool = False) -> Case:
    return settings_for(
        tmp_path, f"s3://{endpoint.fresh_bucket()}/p", s3=endpoint.settings(), encrypted=encrypted
    )


async def two_snapshots(case: Case, *, part_bytes: int = PART_BYTES) -> dict[bytes, Entry]:
    """Two snapshots: the second has one new file and all of the first."""
    async with opened(case) as repository:
        first = await save(repository, FIRST, TREE, part_bytes=part_bytes)
        return await save(repository, SECOND, {b"docs/new": b"new"}, unchanged=first.values())


def brief(summary: VerifySummary) -> list[tuple[str, tuple[bytes, ...], tuple[str, ...]]]:
    return [(damage.key, damage.paths, damage.snapshots) for damage in summary.damaged]


def data_path(tmp_path: Path, key: str, run: str = FIRST) -> Path:
    return tmp_path / "store/home/data" / run / key


# What is sound ------------------------------------------------------------------------------------


@BOTH
async def test_a_sound_folder_is_read_and_said_to_be_sound(tmp_path: Path, encrypted: bool) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    await two_snapshots(case)
    counters = VerifyCounters()
    summary = await verify_section(*case, counters=counters)
    assert summary.damaged_objects == 0
    assert summary.snapshots == 2
    # Five contents, a symlink, folders of two runs: a further name adds no object of its own.
    assert summary.objects == 5 + 1 + 2 + 1 + 2
    assert summary.objects_read == (6 if encrypted else 5)
    assert counters.objects_checked == counters.objects_total == summary.objects
    assert any("a folder keeps no checksums" in note and "read instead" in note for note in summary.notes)
    assert "HeadObject" not in summary.requests


@BOTH
async def test_where_checksums_are_kept_nothing_is_downloaded(
    tmp_path: Path, seaweed_s3: S3Endpoint, encrypted: bool
) -> None:
    case = on_server(tmp_path, seaweed_s3, encrypted=encrypted)
    await two_snapshots(case, part_bytes=5 * 1024 * 1024)
    summary = await verify_section(*case)
    assert summary.damaged_objects == 0
    assert summary.objects_read == summary.bytes_read == 0
    # The descriptor, each manifest once, and one byte that tells an echo from a check.
    assert summary.requests["GetObject"] == 1 + 2 + 1
    assert summary.requests["HeadObject"] >= (6 if encrypted else 5)
    assert not any("checksum" in note for note in summary.notes)


async def test_where_none_are_kept_it_says_so_and_reads(tmp_path: Path, moto_s3: S3Endpoint) -> None:
    case = on_server(tmp_path, moto_s3)
    await two_snapshots(case, part_bytes=5 * 1024 * 1024)
    summary = await verify_section(*case)
    assert (summary.damaged_objects, summary.objects_read) == (0, 5)
    assert "the endpoint keeps no checksums; those objects were read instead" in summary.notes
    summary = await verify_section(*case, read_percent=1)
    assert (summary.damaged_objects, summary.objects_read) == (0, 1)
    assert "the endpoint keeps no checksums; where not read, they were compared by size" in summary.notes


@BOTH
async def test_an_echo_is_not_taken_for_a_check(
    tmp_path: Path, rclone_s3: S3Endpoint, encrypted: bool
) -> None:
    case = on_server(tmp_path, rclone_s3, encrypted=encrypted)
    await two_snapshots(case)
    summary = await verify_section(*case)
    assert summary.damaged_objects == 0
    assert summary.objects_read == (6 if encrypted else 5)
    assert any(note.startswith("the endpoint repeats the checksums") for note in summary.notes)
    # The root and docs, of both runs.
    assert any(note.startswith("the endpoint keeps no objects for folders; 4 fold") for note in summary.notes)


async def test_parts_are_compared_by_their_composite_checksum(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    case = on_server(tmp_path, seaweed_s3)
    part_bytes = 5 * 1024 * 1024
    async with opened(case) as repository:
        entries = await save(repository, FIRST, {b"large": os.urandom(part_bytes + 1)}, part_bytes=part_bytes)
        extent = entries[b"large"].extent
        assert extent is not None
        assert extent.checksum.endswith("-2")
    summary = await verify_section(*case)
    assert (summary.damaged_objects, summary.objects_read) == (0, 0)
    summary = await verify_section(*case, read_percent=100)
    assert (summary.damaged_objects, summary.bytes_read) == (0, part_bytes + 1)


async def test_reading_everything_reads_every_byte_once(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    case = on_server(tmp_path, seaweed_s3)
    entries = await two_snapshots(case, part_bytes=5 * 1024 * 1024)
    summary = await verify_section(*case, read_percent=100)
    contents = {entry.sha256: entry.size for entry in entries.values() if entry.sha256}
    assert summary.bytes_read == sum(contents.values()) == summary.bytes
    assert summary.damaged_objects == 0


async def test_reading_a_part_reads_so_many_objects(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    case = on_server(tmp_path, seaweed_s3)
    async with opened(case) as repository:
        await save(repository, FIRST, {b"f%02d" % number: b"%d" % number for number in range(20)})
    summary = await verify_section(*case, read_percent=25)
    assert summary.objects_read == 5
    assert summary.requests["HeadObject"] >= 15
    summary = await verify_section(*case, read_percent=0.001)
    assert summary.objects_read == 1


async def test_an_empty_repository_is_sound(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case):
        pass
    summary = await verify_section(*case)
    assert (summary.snapshots, summary.objects, summary.damaged_objects) == (0, 0, 0)


async def test_chosen_snapshots_alone_are_looked_at(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    await two_snapshots(case)
    data_path(tmp_path, "files/docs/new", SECOND).unlink()
    assert (await verify_section(*case, snapshots=[FIRST])).damaged_objects == 0
    assert (await verify_section(*case, snapshots=["latest"])).damaged_objects == 1
    with pytest.raises(ConfigError, match="no snapshot 'nonsense'"):
        await verify_section(*case, snapshots=["nonsense"])


async def test_objects_of_no_snapshot_are_counted_and_no_damage(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    await two_snapshots(case)
    async with opened(case) as repository:
        await save(repository, THIRD, {b"left": b"behind"}, manifest=False)
    os.mkdir(os.path.join(os.fsencode(tmp_path), b"store/home/data/\xff"))
    with open(os.path.join(os.fsencode(tmp_path), b"store/home/data/\xff/foreign"), "wb"):
        pass
    summary = await verify_section(*case)
    assert summary.damaged_objects == 0
    # The root folder and the file of the interrupted run, the stand-in, and the foreign file.
    assert any(note.startswith("4 objects in no snapshot") for note in summary.notes)


async def test_without_a_key_sealed_objects_are_compared_as_stored(tmp_path: Path) -> None:
    """A section whose encryption was turned off still refers to what is sealed."""
    async with opened(on_files(tmp_path, encrypted=True)) as repository:
        entries = await save(repository, FIRST, {b"a": b"1", b"b": b"2"}, manifest=False)
    case = on_files(tmp_path)
    async with opened(case) as repository:
        await write_manifest(repository, SECOND, entries.values())
    summary = await verify_section(*case)
    assert summary.damaged_objects == 0
    assert "encrypted, and compared as stored since the section has no key: 2 objects" in summary.notes
    flip(data_path(tmp_path, "files/a"))
    summary = await verify_section(*case)
    assert brief(summary) == [(f"home/data/{FIRST}/files/a", (b"a",), (SECOND,))]
    assert "checksum differs" in summary.damaged[0].reason


async def test_what_nothing_is_known_of_is_compared_by_size(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        entries = await save(repository, FIRST, {b"a": b"1"}, manifest=False)
        entries[b"a"] = msgspec.structs.replace(entries[b"a"], sha256=b"")
        await write_manifest(repository, FIRST, entries.values())
    summary = await verify_section(*case)
    assert summary.damaged_objects == 0
    assert "without digest or checksum in any manifest, and compared by size: 1 object" in summary.notes


async def test_archived_objects_are_said_to_be_unreadable(tmp_path: Path, moto_s3: S3Endpoint) -> None:
    case = on_server(tmp_path, moto_s3)
    await two_snapshots(case, part_bytes=5 * 1024 * 1024)
    bucket = case[1].destination.split("/")[2]
    client = moto_s3.client()
    client.put_object(
        Bucket=bucket,
        Key=f"p/home/data/{FIRST}/files/docs/twin-1",
        Body=TREE[b"docs/twin-1"],
        StorageClass="GLACIER",
    )
    client.close()
    summary = await verify_section(*case, read_percent=100)
    assert (summary.damaged_objects, summary.objects_read) == (0, 4)
    assert "archived, and not to be read without restoring it first: 1 object" in summary.notes


async def test_a_single_missing_folder_is_damage_where_others_are_kept(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        await save(repository, FIRST, {b"kept": None, b"lost": None})
        await repository.store.delete([f"home/data/{FIRST}/files/lost/"])
    summary = await verify_section(*case)
    assert brief(summary) == [(f"home/data/{FIRST}/files/lost/", (b"lost",), (FIRST,))]


# Damage: action × place ---------------------------------------------------------------------------


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    rewrite(path, bytes(content))


def grow(path: Path) -> None:
    rewrite(path, path.read_bytes() + b"x")


def rewrite(path: Path, content: bytes) -> None:
    """Other bytes in the same file, as a failing disk would leave them: attributes stay."""
    with path.open("r+b") as file:
        file.write(content)


ACTIONS = pytest.mark.parametrize("action", [delete, truncate, flip, grow])


@ACTIONS
@pytest.mark.parametrize("place", ["docs/report.pdf", "docs/twin-1", "odd %FF%2541"])
@BOTH
async def test_a_damaged_object_is_named_with_its_files_and_snapshots(
    tmp_path: Path, action: Callable[[Path], None], place: str, encrypted: bool
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    await two_snapshots(case)
    action(data_path(tmp_path, f"files/{place}"))
    told: list[Damage] = []
    summary = await verify_section(*case, on_damage=told.append)
    paths = {
        "docs/report.pdf": (b"docs/report.pdf",),
        "docs/twin-1": (b"docs/twin-1", b"second name"),
        "odd %FF%2541": (b"odd \xff%41",),
    }[place]
    assert brief(summary) == [(f"home/data/{FIRST}/files/{place}", paths, (FIRST, SECOND))]
    assert summary.damaged_objects == 1
    assert tuple(told) == summary.damaged
    assert told[0].files == len(paths)
    reasons = {"delete": "it is missing", "truncate": "bytes where", "grow": "bytes where"}
    other = "not authentic" if encrypted else "SHA-256 differs"
    assert reasons.get(action.__name__, other) in told[0].reason


@BOTH
async def test_two_objects_in_each_others_place_are_both_damaged(tmp_path: Path, encrypted: bool) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    await two_snapshots(case)
    one, other = (data_path(tmp_path, f"files/docs/twin-{number}") for number in (1, 2))
    aside = tmp_path / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    summary = await verify_section(*case)
    assert [damage.key.rpartition("/")[2] for damage in summary.damaged] == ["twin-1", "twin-2"]


@pytest.mark.parametrize("server", ["seaweed_s3", "rclone_s3"])
@pytest.mark.parametrize("action", ["delete", "truncate", "change", "swap"])
@pytest.mark.parametrize("read_percent", [0, 100])
async def test_damage_on_servers(
    tmp_path: Path, server: str, request: pytest.FixtureRequest, action: str, read_percent: float
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server)
    case = on_server(tmp_path, endpoint)
    await two_snapshots(case, part_bytes=5 * 1024 * 1024)
    keys = [f"home/data/{FIRST}/files/docs/twin-{number}" for number in (1, 2)]
    async with opened(case) as repository:
        store = repository.store
        one, other = [await store.get(key, limit=100) for key in keys]
        if action == "delete":
            await store.delete(keys[:1])
        elif action == "swap":
            for key, body in zip(keys, (other, one), strict=True):
                await store.put(key, body, sha256=hashlib.sha256(body).digest())
        else:
            body = one[:-1] if action == "truncate" else one[::-1]
            await store.put(keys[0], body, sha256=hashlib.sha256(body).digest())
    summary = await verify_section(*case, read_percent=read_percent)
    assert [damage.key for damage in summary.damaged] == (keys if action == "swap" else keys[:1])
    assert summary.damaged[0].paths == (b"docs/twin-1", b"second name")


async def test_a_checksum_that_differs_is_only_damage_if_the_content_does(
    tmp_path: Path, seaweed_s3: S3Endpoint
) -> None:
    case = on_server(tmp_path, seaweed_s3)
    async with opened(case) as repository:
        entries = await save(repository, FIRST, {b"a": b"content"}, manifest=False)
        extent = entries[b"a"].extent
        assert extent is not None
        other = base64.b64encode(bytes(32)).decode()
        entries[b"a"] = msgspec.structs.replace(
            entries[b"a"], extent=msgspec.structs.replace(extent, checksum=other)
        )
        await write_manifest(repository, FIRST, entries.values())
    summary = await verify_section(*case)
    assert (summary.damaged_objects, summary.objects_read) == (0, 1)


@ACTIONS
@BOTH
async def test_a_damaged_manifest_is_named_and_the_others_are_verified(
    tmp_path: Path, action: Callable[[Path], None], encrypted: bool
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    await two_snapshots(case)
    await remember(case, SECOND)
    data_path(tmp_path, "files/docs/twin-2").unlink()
    action(tmp_path / "store" / snapshot_key("home", SECOND))
    summary = await verify_section(*case)
    assert brief(summary) == [
        (snapshot_key("home", SECOND), (), (SECOND,)),
        (f"home/data/{FIRST}/files/docs/twin-2", (b"docs/twin-2",), (FIRST,)),
    ]
    if action is delete:
        assert summary.damaged[0].reason == "it is missing"


async def test_swapped_manifests_are_both_damaged(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    await two_snapshots(case)
    one, other = (tmp_path / "store" / snapshot_key("home", run) for run in (FIRST, SECOND))
    aside = tmp_path / "aside"
    shutil.move(one, aside)
    shutil.move(other, one)
    shutil.move(aside, other)
    summary = await verify_section(*case)
    assert [damage.snapshots for damage in summary.damaged] == [(FIRST,), (SECOND,)]
    assert all("stands in the place of" in damage.reason for damage in summary.damaged)


async def test_a_damaged_base_damages_what_rests_on_it(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        await save(repository, FIRST, {b"a": b"1"})
        header = msgspec.structs.replace(header_of(repository, SECOND), base=FIRST, depth=1)
        await write_manifest(repository, SECOND, [], header=header)
    flip(tmp_path / "store" / snapshot_key("home", FIRST))
    summary = await verify_section(*case)
    assert brief(summary) == [(snapshot_key("home", FIRST), (), (FIRST, SECOND))]
    assert summary.broken_snapshots == (FIRST, SECOND)


@ACTIONS
@BOTH
async def test_a_damaged_descriptor_is_damage_too(
    tmp_path: Path, action: Callable[[Path], None], encrypted: bool
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    await two_snapshots(case)
    await remember(case, SECOND)
    path = tmp_path / "store" / DESCRIPTOR_KEY
    if action is flip:
        path.write_text(path.read_text().replace('"repository"', '"repositorx"', 1))
    elif action is truncate:
        path.write_bytes(path.read_bytes()[:-10])
    else:
        action(path)
    told: list[Damage] = []
    summary = await verify_section(*case, on_damage=told.append)
    assert [damage.key for damage in summary.damaged] == [DESCRIPTOR_KEY]
    assert summary.damaged_objects == 1
    assert tuple(told) == summary.damaged


async def test_without_a_database_a_missing_descriptor_is_a_missing_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryMissingError, match="initdb"):
        await verify_section(*on_files(tmp_path))


async def test_descriptors_that_changed_places_do_not_open_each_others_snapshots(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    await two_snapshots(case)
    path = tmp_path / "store" / DESCRIPTOR_KEY
    document = json.loads(path.read_text())
    document["repository"] = "0" * 32
    path.write_text(json.dumps(document))
    summary = await verify_section(*case)
    assert [damage.snapshots for damage in summary.damaged] == [(FIRST,), (SECOND,)]
    assert "repository" in summary.damaged[0].reason


async def remember(case: Case, run: str) -> None:
    """A database that knows ``run`` as the last snapshot."""
    settings, section = case
    identity = CatalogIdentity(section.name, section.destination, "0" * 32)
    record = RunRecord(run=FIRST if run == FIRST else SECOND, started_ns=1, finished_ns=2, committed=True)
    async with Catalog.create(settings.database_path(section.name), identity) as catalog:
        await catalog.runs.replace_all([record])


# Scale and interruption ---------------------------------------------------------------------------


async def test_all_damage_is_told_and_the_first_of_it_kept(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    count = DAMAGES_IN_SUMMARY + 200
    async with opened(case) as repository:
        entries = await save(repository, FIRST, {b"d/a": b"1"}, manifest=False)
        pattern = entries.pop(b"d/a")
        extent = pattern.extent
        assert extent is not None
        for number in range(count):
            path = b"d/%05d" % number
            entries[path] = msgspec.structs.replace(
                pattern, path=path, extent=msgspec.structs.replace(extent, key=f"files/d/{number:05d}")
            )
        await write_manifest(repository, FIRST, entries.values())
    told: list[Damage] = []
    summary = await verify_section(*case, on_damage=told.append)
    assert summary.damaged_objects == count == len(told)
    assert len(summary.damaged) == DAMAGES_IN_SUMMARY
    assert [damage.paths for damage in told] == [(b"d/%05d" % number,) for number in range(count)]


async def test_a_requested_stop_ends_it(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    await two_snapshots(case)
    stop = StopRequest()
    stop.request()
    with pytest.raises(Interrupted):
        await verify_section(*case, stop=stop)


async def test_a_cancelled_verification_leaves_nothing(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    await two_snapshots(case)
    flip(tmp_path / "store" / snapshot_key("home", FIRST))
    task: asyncio.Task[VerifySummary] = asyncio.create_task(
        verify_section(*case, on_damage=lambda damage: cancel(task))
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(case[0].state_dir) == []


def cancel(task: asyncio.Task[VerifySummary]) -> None:
    task.cancel()


async def test_nothing_is_left_in_the_state_folder(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    await two_snapshots(case)
    await verify_section(*case)
    assert os.listdir(case[0].state_dir) == []
