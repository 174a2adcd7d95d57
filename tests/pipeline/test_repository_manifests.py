"""Manifests at a destination: written as they come, read as they come, never half there."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import (
    AuthenticationError,
    FormatError,
    KeyUnlockError,
    ObjectExistsError,
    ObjectMissingError,
)
from asyncbackup.format.envelope import UNKNOWN_SIZE
from asyncbackup.format.envelope import read_header as read_sealed_header
from asyncbackup.format.keys import snapshot_key
from asyncbackup.format.manifest import Deleted, ManifestHeader, ManifestTrailer, ManifestWriter
from asyncbackup.model import Entry, Extent, Failure, Kind, Pack
from asyncbackup.repository.manifest_stream import WINDOW_BYTES
from asyncbackup.repository.manifests import ManifestUpload, read_header, read_manifest, read_trailer
from asyncbackup.repository.remote import list_remote
from asyncbackup.repository.snapshots import list_snapshots, resolve_snapshot
from asyncbackup.store.checksums import single_checksum
from tests.pipeline.repository_fixtures import (
    FIRST,
    SECOND,
    THIRD,
    header_of,
    repository_at,
    save,
    settings_for,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from asyncbackup.repository.open import Repository
    from tests.servers import S3Endpoint

BOTH = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
PART_BYTES = 5 * 1024 * 1024


def entries_of(run: str, count: int, *, seed: int = 1) -> list[Entry]:
    """The root and ``count`` files in one folder, with digests that do not compress."""
    digests = random.Random(seed)
    folders = [Entry(path=path, kind=Kind.FOLDER, mode=0o040755) for path in (b"", b"f")]
    return folders + [
        Entry(
            path=b"f/%07d" % number,
            kind=Kind.FILE,
            mode=0o100644,
            size=number,
            sha256=digests.randbytes(32),
            extent=Extent(run=run, key=f"files/f/{number:07d}", length=number),
        )
        for number in range(count)
    ]


async def everything(repository: Repository, run: str) -> list[Entry]:
    async with aclosing(read_manifest(repository, run)) as batches:
        return [entry async for batch in batches for entry in batch]


async def upload(
    repository: Repository, header: ManifestHeader, entries: list[Entry], *, part_bytes: int = PART_BYTES
) -> tuple[int, str]:
    async with ManifestUpload(repository, header, part_bytes=part_bytes) as manifest:
        for start in range(0, len(entries), 1000):
            await manifest.add(entries[start : start + 1000])
        return await manifest.commit(ManifestTrailer(finished_ns=2))


@asynccontextmanager
async def file_repository(
    tmp_path: Path, *, encrypted: bool = False, concurrency: int = 4
) -> AsyncIterator[Repository]:
    (tmp_path / "store").mkdir(exist_ok=True)
    settings, section = settings_for(
        tmp_path, f"file://{tmp_path}/store", encrypted=encrypted, concurrency=concurrency
    )
    async with repository_at(settings, section) as repository:
        yield repository


def manifest_path(tmp_path: Path, run: str) -> Path:
    return tmp_path / "store" / snapshot_key("home", run)


@BOTH
async def test_a_small_manifest_is_one_put(tmp_path: Path, encrypted: bool) -> None:
    async with file_repository(tmp_path, encrypted=encrypted) as repository:
        entries = entries_of(FIRST, 3000)
        before = repository.store.requests.copy()
        size, checksum = await upload(repository, header_of(repository, FIRST), entries)
        assert repository.store.requests - before == {"PutObject": 1}
        stored = manifest_path(tmp_path, FIRST).read_bytes()
        assert (size, checksum) == (len(stored), single_checksum(hashlib.sha256(stored).digest()))
        assert stored.startswith(b"ASBKENC") == encrypted
        if encrypted:
            assert read_sealed_header(stored[:16], "") != UNKNOWN_SIZE
        assert await everything(repository, FIRST) == entries


@BOTH
async def test_a_large_manifest_goes_up_in_equal_parts(tmp_path: Path, encrypted: bool) -> None:
    async with file_repository(tmp_path, encrypted=encrypted) as repository:
        entries = entries_of(FIRST, 20_000)
        before = repository.store.requests.copy()
        size, checksum = await upload(repository, header_of(repository, FIRST), entries, part_bytes=100_000)
        stored = manifest_path(tmp_path, FIRST).read_bytes()
        count = -(-len(stored) // 100_000)
        assert count > 3
        assert repository.store.requests - before == {
            "CreateMultipartUpload": 1,
            "UploadPart": count,
            "CompleteMultipartUpload": 1,
        }
        assert size == len(stored)
        assert checksum.endswith(f"-{count}")
        assert checksum == (await repository.store.head(snapshot_key("home", FIRST))).checksum
        if encrypted:
            assert read_sealed_header(stored[:16], "") == UNKNOWN_SIZE
        assert await everything(repository, FIRST) == entries


@pytest.mark.parametrize("server", ["rclone_s3", "seaweed_s3"])
@BOTH
async def test_on_servers(
    tmp_path: Path, server: str, request: pytest.FixtureRequest, encrypted: bool
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server)
    settings, section = settings_for(
        tmp_path, f"s3://{endpoint.fresh_bucket()}/p", s3=endpoint.settings(), encrypted=encrypted
    )
    async with repository_at(settings, section) as repository:
        small = entries_of(FIRST, 500)
        large = entries_of(SECOND, 160_000)
        await upload(repository, header_of(repository, FIRST), small)
        size, checksum = await upload(repository, header_of(repository, SECOND), large)
        assert size > PART_BYTES
        kept = (await repository.store.head(snapshot_key("home", SECOND))).checksum
        assert kept in ("", checksum)
        assert await everything(repository, FIRST) == small
        assert await everything(repository, SECOND) == large
        found = await list_snapshots(repository)
        assert [snapshot.id for snapshot in found] == [FIRST, SECOND]
        assert found[1].size == size
        assert await resolve_snapshot(repository, "latest") == SECOND
        assert [page async for page in repository.store.list_uploads("")] == []


@pytest.mark.parametrize("failure", ["error", "cancelled", "left without a commit"])
@pytest.mark.parametrize("when", ["before the first part", "between parts"])
@BOTH
async def test_what_is_not_committed_leaves_nothing(
    tmp_path: Path, failure: str, when: str, encrypted: bool
) -> None:
    async with file_repository(tmp_path, encrypted=encrypted) as repository:
        count = 100 if when == "before the first part" else 20_000
        begun = asyncio.Event()

        async def write() -> None:
            header = header_of(repository, FIRST)
            async with ManifestUpload(repository, header, part_bytes=100_000) as manifest:
                await manifest.add(entries_of(FIRST, count))
                begun.set()
                if failure == "error":
                    raise FormatError("on purpose")
                if failure == "cancelled":
                    await asyncio.Event().wait()

        task = asyncio.create_task(write())
        await begun.wait()
        if failure == "cancelled":
            task.cancel()
        done, _ = await asyncio.wait({task})
        assert (failure == "cancelled") == done.pop().cancelled()
        assert task.cancelled() or str(task.exception()) in ("None", "on purpose")
        uploads = repository.store.requests["CreateMultipartUpload"]
        assert uploads == repository.store.requests["AbortMultipartUpload"] == int(count > 100)
        assert [page async for page in repository.store.list_uploads("")] == []
        assert await list_snapshots(repository) == []
        assert "UploadPart" not in repository.store.requests or count > 100


async def test_a_bad_entry_is_refused_and_nothing_appears(tmp_path: Path) -> None:
    async with file_repository(tmp_path) as repository:
        entries = entries_of(FIRST, 100)
        with pytest.raises(FormatError, match="order"):
            await upload(repository, header_of(repository, FIRST), entries[::-1])
        assert await list_snapshots(repository) == []


async def test_a_manifest_is_never_overwritten(tmp_path: Path) -> None:
    async with file_repository(tmp_path) as repository:
        await upload(repository, header_of(repository, FIRST), entries_of(FIRST, 10))
        with pytest.raises(ObjectExistsError):
            await upload(repository, header_of(repository, FIRST), entries_of(FIRST, 11))
        assert len(await everything(repository, FIRST)) == 12


async def test_header_and_trailer(tmp_path: Path) -> None:
    async with file_repository(tmp_path, encrypted=True) as repository:
        header = header_of(repository, FIRST)
        failures = (Failure(path=b"gone", reason="it vanished"),)
        async with ManifestUpload(repository, header) as manifest:
            await manifest.add(entries_of(FIRST, 1500))
            await manifest.commit(ManifestTrailer(finished_ns=7, failures=failures))
        assert await read_header(repository, FIRST) == header
        trailer = await read_trailer(repository, FIRST)
        assert (trailer.files, trailer.folders, trailer.symlinks) == (1500, 2, 0)
        assert (trailer.bytes, trailer.finished_ns) == (sum(range(1500)), 7)
        assert trailer.failures == failures


async def test_an_empty_snapshot_reads_as_one(tmp_path: Path) -> None:
    async with file_repository(tmp_path) as repository:
        await upload(repository, header_of(repository, FIRST), [])
        assert await everything(repository, FIRST) == []
        assert (await read_header(repository, FIRST)).snapshot == FIRST


async def test_leaving_early_closes_the_object(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    settings, section = settings_for(
        tmp_path, f"s3://{seaweed_s3.fresh_bucket()}", s3=seaweed_s3.settings(), concurrency=1
    )
    async with repository_at(settings, section) as repository:
        await upload(repository, header_of(repository, FIRST), entries_of(FIRST, 50_000))
        # With one request at a time, a reader left open would make the next one wait for ever.
        async with asyncio.timeout(60):
            for _ in range(3):
                async with aclosing(list_remote(repository, FIRST)) as batches:
                    assert (await anext(batches))[0].path == b""


# Differences to an earlier snapshot ---------------------------------------------------------------


async def write_difference(
    repository: Repository,
    header: ManifestHeader,
    changed: list[Entry],
    deleted: list[bytes],
    totals: ManifestTrailer,
) -> None:
    """A manifest with a base, made with the format's own writer."""
    writer = ManifestWriter(header)
    text = b""
    pending = sorted([*((entry.path, entry) for entry in changed), *((path, None) for path in deleted)])
    for path, entry in pending:
        text += writer.add_deleted([path]) if entry is None else writer.add([entry])
    text += writer.finish(totals)
    key = snapshot_key(repository.section, header.snapshot)
    await repository.store.put(key, text, sha256=hashlib.sha256(text).digest())


def totals_of(entries: list[Entry]) -> ManifestTrailer:
    files = [entry for entry in entries if entry.kind is Kind.FILE]
    return ManifestTrailer(
        finished_ns=1,
        files=len(files),
        folders=len(entries) - len(files),
        bytes=sum(entry.size for entry in files),
    )


async def write_chain(repository: Repository) -> list[Entry]:
    """Three snapshots, each the difference to the one before; returns what the last holds."""
    first = entries_of(FIRST, 30_000)
    await upload(repository, header_of(repository, FIRST), first)
    assert (await repository.store.head(snapshot_key("home", FIRST))).size > WINDOW_BYTES
    grown = [msgspec.structs.replace(entry, mtime_ns=5) for entry in first[2::1000]]
    header = msgspec.structs.replace(header_of(repository, SECOND), base=FIRST, depth=1)
    gone = [b"f/0000001", b"f/0029999"]
    held = {entry.path: entry for entry in [*first, *grown] if entry.path not in gone}
    await write_difference(repository, header, grown, gone, totals_of(list(held.values())))
    header = msgspec.structs.replace(header_of(repository, THIRD), base=SECOND, depth=2)
    back = next(entry for entry in first if entry.path == gone[0])
    new = msgspec.structs.replace(back, path=b"f/9")
    held.pop(b"f/0002000")
    held.update({entry.path: entry for entry in (back, new)})
    entries = [held[path] for path in sorted(held)]
    await write_difference(repository, header, [back, new], [b"f/0002000"], totals_of(entries))
    return entries


async def test_differences_are_laid_over_their_base(tmp_path: Path) -> None:
    async with file_repository(tmp_path) as repository:
        wanted = await write_chain(repository)
        assert await everything(repository, THIRD) == wanted
        trailer = await read_trailer(repository, THIRD)
        assert (trailer.entries, trailer.deleted, trailer.files) == (2, 1, len(wanted) - 2)


async def test_a_difference_goes_up_like_any_manifest(tmp_path: Path) -> None:
    async with file_repository(tmp_path, encrypted=True) as repository:
        first = entries_of(FIRST, 300)
        await upload(repository, header_of(repository, FIRST), first)
        header = msgspec.structs.replace(header_of(repository, SECOND), base=FIRST, depth=1)
        changed = [msgspec.structs.replace(entry, mtime_ns=5) for entry in first[202:]]
        packs = [Pack(FIRST, f"packs/00000{number}.tar", number) for number in range(1, 4)]
        async with ManifestUpload(repository, header) as manifest:
            # In one call and mixed: as many as go to a thread, and few enough to be encoded on the spot.
            await manifest.add([Deleted(entry.path) for entry in first[2:102]])
            await manifest.add(
                [changed[0], Deleted(first[203].path), *changed[2:50], Deleted(first[252].path)]
            )
            await manifest.add(changed[51:])
            await manifest.add_packs(packs)
            held = [*first[:2], *first[102:202], changed[0], *changed[2:50], *changed[51:]]
            await manifest.commit(totals_of(held))
        assert await everything(repository, SECOND) == held
        seen: list[Pack] = []

        async def note(found: list[Pack]) -> None:
            seen.extend(found)

        async with aclosing(read_manifest(repository, SECOND, on_packs=note)) as batches:
            assert [entry async for batch in batches for entry in batch] == held
        assert seen == packs


async def test_a_chain_needs_no_more_requests_at_once_than_allowed(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    settings, section = settings_for(
        tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(), concurrency=1
    )
    async with repository_at(settings, section) as repository:
        wanted = await write_chain(repository)
        async with asyncio.timeout(60):
            assert await everything(repository, THIRD) == wanted


async def test_a_chain_whose_totals_do_not_add_up_is_refused(tmp_path: Path) -> None:
    async with file_repository(tmp_path) as repository:
        first = entries_of(FIRST, 10)
        await upload(repository, header_of(repository, FIRST), first)
        header = msgspec.structs.replace(header_of(repository, SECOND), base=FIRST, depth=1)
        await write_difference(repository, header, [], [b"f/0000001"], totals_of(first))
        with pytest.raises(FormatError, match="does not add up"):
            await everything(repository, SECOND)


async def test_a_chain_with_a_wrong_depth_or_a_missing_base_is_refused(tmp_path: Path) -> None:
    async with file_repository(tmp_path) as repository:
        first = entries_of(FIRST, 10)
        await upload(repository, header_of(repository, FIRST), first)
        for run, base in ((SECOND, FIRST), (THIRD, SECOND)):
            header = msgspec.structs.replace(header_of(repository, run), base=base, depth=1)
            await write_difference(repository, header, [], [], totals_of(first))
        with pytest.raises(FormatError, match="depth 1 does not fit its base"):
            await everything(repository, THIRD)
        manifest_path(tmp_path, FIRST).unlink()
        with pytest.raises(ObjectMissingError, match=FIRST):
            await everything(repository, SECOND)


async def said_of(repository: Repository) -> str:
    """What reading the first snapshot gives: the error's text, or that of its entries without their runs."""
    try:
        return str(without_runs(await everything(repository, FIRST)))
    except (FormatError, KeyUnlockError) as error:
        return str(error)


def without_runs(entries: list[Entry]) -> list[Entry]:
    return [msgspec.structs.replace(entry, extent=None) for entry in entries]


# Damage -------------------------------------------------------------------------------------------


@BOTH
async def test_every_truncation_and_every_changed_byte_is_noticed(tmp_path: Path, encrypted: bool) -> None:
    async with file_repository(tmp_path, encrypted=encrypted) as repository:
        await save(repository, FIRST, {b"a": b"1", b"b/c": b"2"})
        wanted = without_runs(await everything(repository, FIRST))
        path = manifest_path(tmp_path, FIRST)
        good = path.read_bytes()
        unnoticed = []
        for size in range(len(good)):
            path.write_bytes(good[:size])
            with pytest.raises(FormatError, match=FIRST):
                await everything(repository, FIRST)
        for place in range(len(good)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
            if FIRST not in (said := await said_of(repository)):
                assert said == str(wanted)
                unnoticed.append(place)
        # zstd's checksum is of the content; a few bits of its headers say nothing of that.
        assert len(unnoticed) <= (0 if encrypted else 4)
        for extra in (b"\0", good):
            path.write_bytes(good + extra)
            with pytest.raises(FormatError, match=FIRST):
                await everything(repository, FIRST)


@BOTH
async def test_a_manifest_in_anothers_place_is_refused(tmp_path: Path, encrypted: bool) -> None:
    async with file_repository(tmp_path, encrypted=encrypted) as repository:
        await save(repository, FIRST, {b"a": b"1"})
        await save(repository, SECOND, {b"a": b"2"})
        shutil.copy(manifest_path(tmp_path, FIRST), manifest_path(tmp_path, SECOND))
        with pytest.raises(AuthenticationError if encrypted else FormatError, match=SECOND):
            await everything(repository, SECOND)
        with pytest.raises(FormatError, match=SECOND):
            await read_header(repository, SECOND)


async def test_a_manifest_of_another_section_or_repository_is_refused(tmp_path: Path) -> None:
    async with file_repository(tmp_path) as repository:
        for change, said in (
            ({"section": "mail"}, "section 'mail'"),
            ({"repository": "0" * 32}, f"repository '{'0' * 32}'"),
        ):
            header = msgspec.structs.replace(header_of(repository, FIRST), **change)
            await write_manifest(repository, FIRST, [], header=header)
            with pytest.raises(FormatError, match=said):
                await everything(repository, FIRST)
            manifest_path(tmp_path, FIRST).unlink()


async def test_plain_and_encrypted_are_never_taken_for_each_other(tmp_path: Path) -> None:
    async with file_repository(tmp_path) as repository:
        await save(repository, FIRST, {b"a": b"1"})
    async with file_repository(tmp_path, encrypted=True) as repository:
        with pytest.raises(AuthenticationError, match=f"{FIRST}.* is not encrypted"):
            await everything(repository, FIRST)
        await save(repository, SECOND, {b"a": b"1"})
    async with file_repository(tmp_path) as repository:
        assert len(await everything(repository, FIRST)) == 2
        with pytest.raises(KeyUnlockError, match=f"{SECOND}.* is encrypted.*sections.home.encryption"):
            await everything(repository, SECOND)


async def test_other_objects_below_snapshots_are_passed_over(tmp_path: Path) -> None:
    async with file_repository(tmp_path) as repository:
        await save(repository, FIRST, {b"a": b"1"})
        for name in ("notes.txt", "20261101T080000Z-zzzz.jsonl.zst", ".jsonl.zst"):
            (manifest_path(tmp_path, FIRST).parent / name).write_bytes(os.urandom(10))
        assert [snapshot.id for snapshot in await list_snapshots(repository)] == [FIRST]
