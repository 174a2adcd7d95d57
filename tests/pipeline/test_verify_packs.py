"""Packs: each damage is found and named with the files that it costs, and no other file is accused."""

from __future__ import annotations

import hashlib
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.format.keys import snapshot_key
from asyncbackup.model import Entry, Kind
from asyncbackup.verify.section import verify_section
from tests.pipeline.pack_fixtures import ROOT, Packed, put_manifest, put_pack
from tests.pipeline.repository_fixtures import FIRST, SECOND, repository_at, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.repository.open import Repository
    from asyncbackup.verify.summary import VerifySummary
    from tests.servers import S3Endpoint

Case = tuple["Settings", "SectionSettings"]

# Some contents are smaller than a chunk of a sealed object, some span several; none compresses away.
_random = random.Random(7)
FILES: dict[bytes, bytes | None] = {
    b"a": None,
    b"a/one": _random.randbytes(700),
    b"a/two": _random.randbytes(40_000),
    b"b-empty": b"",
    b"c-text": b"the same line\n" * 3000,
    b"d-large": _random.randbytes(90_000),
    b"e-last": _random.randbytes(20_000),
}
NAMES = [path for path, content in FILES.items() if content]

KINDS = pytest.mark.parametrize(
    ("compressed", "encrypted"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["plain", "zstd", "sealed", "zstd-sealed"],
)


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


async def two_snapshots(case: Case, *, compressed: bool) -> tuple[Packed, Packed]:
    """The second snapshot has a pack of its own, and everything of the first but ``e-last``."""
    async with opened(case) as repository:
        first = await put_pack(repository, FIRST, FILES, compressed=compressed)
        await put_manifest(repository, FIRST, [ROOT, *first.entries.values()], packs=[first.pack])
        second = await put_pack(
            repository, SECOND, {b"new": b"new content" * 100, b"e-last": b"changed"}, compressed=compressed
        )
        entries = {b"": ROOT, **first.entries, **second.entries}
        await put_manifest(repository, SECOND, entries.values(), packs=[first.pack, second.pack])
        return first, second


def files_of(summary: VerifySummary) -> dict[str, set[bytes]]:
    return {damage.key: set(damage.paths) for damage in summary.damaged}


# What is sound ------------------------------------------------------------------------------------


@KINDS
async def test_sound_packs_are_read_once_and_said_to_be_sound(
    tmp_path: Path, compressed: bool, encrypted: bool
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    first, second = await two_snapshots(case, compressed=compressed)
    summary = await verify_section(*case, read_percent=100)
    assert summary.damaged == ()
    assert (summary.objects, summary.objects_read) == (2, 2)
    assert summary.bytes_read == summary.bytes == first.pack.size + second.pack.size


@KINDS
async def test_where_checksums_are_kept_no_pack_is_downloaded(
    tmp_path: Path, seaweed_s3: S3Endpoint, compressed: bool, encrypted: bool
) -> None:
    case = on_server(tmp_path, seaweed_s3, encrypted=encrypted)
    await two_snapshots(case, compressed=compressed)
    summary = await verify_section(*case)
    assert (summary.damaged, summary.objects_read) == ((), 0)
    # The descriptor, two manifests, and one byte that tells an echo from a check.
    assert summary.requests["GetObject"] == 1 + 2 + 1
    assert summary.requests["HeadObject"] == 2


async def test_a_part_of_the_packs_is_read(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    case = on_server(tmp_path, seaweed_s3)
    async with opened(case) as repository:
        packed = [
            await put_pack(repository, FIRST, {b"%02d" % number: b"%d" % number}, number=number)
            for number in range(1, 11)
        ]
        entries = [entry for each in packed for entry in each.entries.values()]
        await put_manifest(repository, FIRST, [ROOT, *entries], packs=[each.pack for each in packed])
    summary = await verify_section(*case, read_percent=20)
    assert (summary.damaged, summary.objects_read) == ((), 2)


async def test_a_pack_that_only_a_manifest_describes_is_not_looked_for(tmp_path: Path) -> None:
    """The base of a difference may describe packs of which nothing is needed any more."""
    case = on_files(tmp_path)
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, FILES)
        gone = msgspec.structs.replace(packed.pack, key="packs/000002.tar")
        await put_manifest(repository, FIRST, [ROOT, *packed.entries.values()], packs=[packed.pack, gone])
    assert (await verify_section(*case, read_percent=100)).damaged == ()


# Damage: action × place × kind --------------------------------------------------------------------


def place_of(packed: Packed, name: bytes) -> tuple[int, int]:
    """Where what a content lies in begins and ends in the stored pack, roughly where it is sealed."""
    extent = packed.entries[name].extent
    assert extent is not None
    chunk = 16400
    if not extent.encrypted:
        return extent.offset, extent.offset + extent.length
    return (
        72 + extent.offset // 16384 * chunk + extent.offset % 16384,
        72
        + (extent.offset + extent.length - 1) // 16384 * chunk
        + (extent.offset + extent.length - 1) % 16384,
    )


def lost_by(packed: Packed, stored_place: int) -> set[bytes]:
    """The files that one changed byte of the stored pack costs."""
    lost: set[bytes] = set()
    for name in NAMES:
        extent = packed.entries[name].extent
        assert extent is not None
        first, beyond = extent.offset, extent.offset + extent.length
        if extent.encrypted:
            number = (stored_place - 72) // 16400
            if first < (number + 1) * 16384 and beyond > number * 16384:
                lost.add(name)
        elif first <= stored_place < beyond:
            lost.add(name)
    return lost


@KINDS
@pytest.mark.parametrize("name", NAMES)
async def test_a_flipped_bit_costs_the_files_that_lie_there_and_no_others(
    tmp_path: Path, compressed: bool, encrypted: bool, name: bytes
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    first, _ = await two_snapshots(case, compressed=compressed)
    start, end = place_of(first, name)
    place = (start + end) // 2
    flip(tmp_path / "store" / first.key, place)
    summary = await verify_section(*case, read_percent=100)
    assert [damage.key for damage in summary.damaged] == [first.key]
    lost = set(summary.damaged[0].paths)
    if compressed and not encrypted:
        # Of a frame, what comes before the damage may still be whole.
        assert name in lost or lost_by(first, place) & lost
        assert lost <= lost_by(first, place)
    elif compressed:
        assert name in lost
        assert lost <= lost_by(first, place)
    else:
        assert lost == lost_by(first, place)
    assert summary.damaged[0].files == len(lost)
    assert summary.damaged[0].snapshots == ((FIRST,) if lost == {b"e-last"} else (FIRST, SECOND))


async def test_a_flipped_bit_of_a_header_is_damage_that_costs_no_file(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    first, _ = await two_snapshots(case, compressed=False)
    flip(tmp_path / "store" / first.key, 3)
    (damage,) = (await verify_section(*case, read_percent=100)).damaged
    assert (damage.key, damage.files, damage.snapshots) == (first.key, 0, ())
    assert "checksum differs" in damage.reason


@KINDS
async def test_a_missing_pack_costs_all_files_in_it(
    tmp_path: Path, compressed: bool, encrypted: bool
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    first, _ = await two_snapshots(case, compressed=compressed)
    (tmp_path / "store" / first.key).unlink()
    for percent in (0, 100):
        summary = await verify_section(*case, read_percent=percent)
        assert files_of(summary) == {first.key: set(NAMES)}
        assert summary.damaged[0].reason == "it is missing"
        assert summary.damaged[0].snapshots == (FIRST, SECOND)


@KINDS
@pytest.mark.parametrize("percent", [0, 100])
async def test_of_a_truncated_pack_what_comes_before_the_cut_is_left(
    tmp_path: Path, compressed: bool, encrypted: bool, percent: int
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    first, _ = await two_snapshots(case, compressed=compressed)
    path = tmp_path / "store" / first.key
    cut, _ = place_of(first, b"e-last")
    path.write_bytes(path.read_bytes()[: cut + 10])
    (damage,) = (await verify_section(*case, read_percent=percent)).damaged
    assert damage.key == first.key
    assert damage.reason == f"it has {cut + 10} bytes where {first.pack.size} belong"
    # A sealed pack of another size does not open at all.
    lost = set(NAMES) if encrypted else lost_by(first, cut + 10)
    assert set(damage.paths) == lost
    assert b"e-last" in lost


@KINDS
async def test_an_extended_pack_is_damaged(tmp_path: Path, compressed: bool, encrypted: bool) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    first, _ = await two_snapshots(case, compressed=compressed)
    path = tmp_path / "store" / first.key
    path.write_bytes(path.read_bytes() + b"x")
    summary = await verify_section(*case)
    assert files_of(summary) == {first.key: set(NAMES) if encrypted else set()}


@KINDS
async def test_two_packs_in_each_others_place_are_both_damaged(
    tmp_path: Path, compressed: bool, encrypted: bool
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    first, second = await two_snapshots(case, compressed=compressed)
    one, other = (tmp_path / "store" / each.key for each in (first, second))
    bodies = one.read_bytes(), other.read_bytes()
    one.write_bytes(bodies[1])
    other.write_bytes(bodies[0])
    summary = await verify_section(*case, read_percent=100)
    assert files_of(summary) == {first.key: set(NAMES), second.key: {b"new", b"e-last"}}


@pytest.mark.parametrize("server", ["seaweed_s3", "rclone_s3"])
@pytest.mark.parametrize("percent", [0, 100])
@KINDS
async def test_a_changed_pack_on_servers(
    tmp_path: Path,
    server: str,
    request: pytest.FixtureRequest,
    percent: int,
    compressed: bool,
    encrypted: bool,
) -> None:
    """Where the endpoint keeps checksums that alone shows it, and reading tells which file is lost."""
    endpoint: S3Endpoint = request.getfixturevalue(server)
    case = on_server(tmp_path, endpoint, encrypted=encrypted)
    first, second = await two_snapshots(case, compressed=compressed)
    start, end = place_of(first, b"d-large")
    place = (start + end) // 2
    async with opened(case) as repository:
        body = bytearray(await repository.store.get(first.key, limit=10**7))
        body[place] ^= 16
        await repository.store.put(first.key, bytes(body), sha256=hashlib.sha256(body).digest())
    summary = await verify_section(*case, read_percent=percent)
    (damage,) = summary.damaged
    assert damage.key == first.key
    assert b"d-large" in damage.paths
    assert set(damage.paths) <= lost_by(first, place)
    if server == "seaweed_s3" and not percent:
        assert summary.bytes_read == first.pack.size
    assert second.key not in files_of(summary)


async def test_without_a_key_a_sealed_pack_is_compared_as_stored(tmp_path: Path) -> None:
    async with opened(on_files(tmp_path, encrypted=True)) as repository:
        packed = await put_pack(repository, FIRST, FILES)
    case = on_files(tmp_path)
    async with opened(case) as repository:
        await put_manifest(repository, SECOND, [ROOT, *packed.entries.values()], packs=[packed.pack])
    summary = await verify_section(*case)
    assert summary.damaged == ()
    assert "encrypted, and compared as stored since the section has no key: 1 object" in summary.notes
    flip(tmp_path / "store" / packed.key, 5000)
    assert files_of(await verify_section(*case)) == {packed.key: set(NAMES)}


# What manifests say -------------------------------------------------------------------------------


async def test_manifests_that_disagree_about_a_pack_are_damage(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, FILES)
        entries = [ROOT, *packed.entries.values()]
        await put_manifest(repository, FIRST, entries, packs=[packed.pack])
        other = msgspec.structs.replace(packed.pack, checksum="AAAA")
        await put_manifest(repository, SECOND, entries, packs=[other])
    (damage,) = (await verify_section(*case)).damaged
    assert (damage.key, damage.files) == (packed.key, 0)
    assert "disagree" in damage.reason


async def test_a_pack_that_its_manifest_does_not_describe_is_damage_of_the_manifest(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, FILES)
        entries = [ROOT, *packed.entries.values()]
        await put_manifest(repository, FIRST, entries, packs=[packed.pack])
        await put_manifest(repository, SECOND, entries)
    (damage,) = (await verify_section(*case, read_percent=100)).damaged
    assert (damage.key, damage.snapshots) == (snapshot_key("home", SECOND), (SECOND,))
    assert f"does not describe the pack {FIRST}/packs/000001.tar" in damage.reason


async def test_nobodys_pack_is_read_all_the_same(tmp_path: Path) -> None:
    case = on_files(tmp_path, encrypted=True)
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, FILES)
        await put_manifest(repository, FIRST, [ROOT, *packed.entries.values()])
    flip(tmp_path / "store" / packed.key, place_of(packed, b"e-last")[1])
    found = files_of(await verify_section(*case, read_percent=100))
    assert found.keys() == {snapshot_key("home", FIRST), packed.key}
    assert found[packed.key] == {b"e-last"}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "sealed"])
async def test_a_content_beyond_its_packs_end_is_damage(tmp_path: Path, encrypted: bool) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, FILES)
        entry = packed.entries[b"a/one"]
        assert entry.extent is not None
        moved = msgspec.structs.replace(entry.extent, offset=packed.pack.size)
        entries = packed.entries | {b"a/one": msgspec.structs.replace(entry, extent=moved)}
        await put_manifest(repository, FIRST, [ROOT, *entries.values()], packs=[packed.pack])
    (damage,) = (await verify_section(*case)).damaged
    assert (damage.key, damage.paths) == (packed.key, (b"a/one",))
    assert "beyond its end" in damage.reason


async def test_entries_that_share_one_content_are_compared_once_and_all_named(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, FILES)
        twin = msgspec.structs.replace(packed.entries[b"d-large"], path=b"twin")
        wrong = msgspec.structs.replace(packed.entries[b"d-large"], path=b"wrong", sha256=bytes(32))
        await put_manifest(
            repository, FIRST, [ROOT, *packed.entries.values(), twin, wrong], packs=[packed.pack]
        )
    assert files_of(await verify_section(*case, read_percent=100)) == {packed.key: {b"wrong"}}
    flip(tmp_path / "store" / packed.key, place_of(packed, b"d-large")[0])
    found = files_of(await verify_section(*case, read_percent=100))
    assert found == {packed.key: {b"d-large", b"twin", b"wrong"}}


async def test_contents_of_one_frame_that_overlap_are_each_compared(tmp_path: Path) -> None:
    """Also of a range that begins within another: hostile manifests may say anything."""
    case = on_files(tmp_path)
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, FILES)
        whole = FILES[b"d-large"]
        extent = packed.entries[b"d-large"].extent
        assert whole is not None
        assert extent is not None
        inner = []
        for number in range(8):
            # Eight side by side are more than are followed; those that are, are right.
            part = whole[100 * number : 80_000]
            place = msgspec.structs.replace(extent, offset=extent.offset + 100 * number, length=len(part))
            inner.append(
                msgspec.structs.replace(
                    packed.entries[b"d-large"],
                    path=b"inner-%d" % number,
                    size=len(part),
                    sha256=hashlib.sha256(part).digest(),
                    extent=place,
                )
            )
        await put_manifest(repository, FIRST, [ROOT, *packed.entries.values(), *inner], packs=[packed.pack])
    found = files_of(await verify_section(*case, read_percent=100))[packed.key]
    assert found == {b"inner-3", b"inner-4", b"inner-5", b"inner-6", b"inner-7"}


async def test_a_manifest_that_calls_a_plain_pack_sealed_is_damage(tmp_path: Path) -> None:
    case = on_files(tmp_path, encrypted=True)
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, FILES)
        entry = packed.entries[b"c-text"]
        assert entry.extent is not None
        plain = msgspec.structs.replace(entry, extent=msgspec.structs.replace(entry.extent, encrypted=False))
        entries = packed.entries | {b"c-text": plain}
        await put_manifest(repository, FIRST, [ROOT, *entries.values()], packs=[packed.pack])
    assert files_of(await verify_section(*case)) == {packed.key: {b"c-text"}}


async def test_many_small_contents_are_compared_in_pages(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    files: dict[bytes, bytes | None] = {b"f%05d" % number: b"%d" % number for number in range(3000)}
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, files, compressed=True, files_a_frame=1500)
        await put_manifest(repository, FIRST, [ROOT, *packed.entries.values()], packs=[packed.pack])
        assert (await verify_section(*case, read_percent=100)).damaged == ()
        # Of the second frame, so that a page ends in the middle of both.
        entry = packed.entries[b"f02999"]
        wrong = msgspec.structs.replace(entry, sha256=bytes(32))
        entries: dict[bytes, Entry] = packed.entries | {b"f02999": wrong}
        await put_manifest(repository, SECOND, [ROOT, *entries.values()], packs=[packed.pack])
    summary = await verify_section(*case, read_percent=100)
    assert files_of(summary) == {packed.key: {b"f02999"}}
    assert summary.damaged[0].snapshots == (SECOND,)


async def test_a_pack_of_folders_alone_is_missed_too(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        packed = await put_pack(repository, FIRST, {b"a": None})
        await put_manifest(repository, FIRST, [ROOT, *packed.entries.values()], packs=[packed.pack])
        assert packed.entries[b"a"].kind is Kind.FOLDER
    assert (await verify_section(*case, read_percent=100)).damaged == ()
    (tmp_path / "store" / packed.key).unlink()
    (damage,) = (await verify_section(*case)).damaged
    assert (damage.key, damage.files, damage.snapshots) == (packed.key, 0, (FIRST,))


def flip(path: Path, place: int) -> None:
    body = bytearray(path.read_bytes())
    body[place] ^= 16
    with path.open("r+b") as file:
        file.write(body)
