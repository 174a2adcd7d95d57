"""Compressed objects, and those with hidden names: every damage is found, and nothing sound is blamed."""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard

from asyncbackup.format.keys import data_prefix
from asyncbackup.model import ZSTD, Entry, Extent, Kind
from asyncbackup.store.checksums import single_checksum
from asyncbackup.verify.section import verify_section
from tests.pipeline.pack_fixtures import ROOT, put_manifest, seal
from tests.pipeline.repository_fixtures import FIRST, MTIME_NS, SECOND, repository_at, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.repository.open import Repository
    from asyncbackup.verify.summary import VerifySummary
    from tests.servers import S3Endpoint

Case = tuple["Settings", "SectionSettings"]

CONTENT = b"a line of text that shrinks\n" * 4000 + os.urandom(40_000)

KINDS = pytest.mark.parametrize(
    ("compressed", "encrypted", "hidden"),
    [
        pytest.param(True, False, False, id="zstd"),
        pytest.param(False, True, False, id="sealed"),
        pytest.param(True, True, False, id="zstd-sealed"),
        pytest.param(False, True, True, id="hidden"),
        pytest.param(True, True, True, id="zstd-hidden"),
    ],
)


@asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Repository]:
    async with repository_at(*case) as repository:
        yield repository


def on_files(tmp_path: Path, *, encrypted: bool = False) -> Case:
    (tmp_path / "store").mkdir(exist_ok=True)
    return settings_for(tmp_path, f"file://{tmp_path}/store", encrypted=encrypted)


async def put_object(
    repository: Repository,
    path: bytes,
    content: bytes,
    *,
    compressed: bool,
    hidden: bool,
    checksum: bool = True,
    kind: Kind = Kind.FILE,
) -> Entry:
    """One object as docs/format.md has it, in frames of 50,000 bytes where compressed; its entry."""
    name = path.decode()
    key = f"hidden/{hashlib.sha256(path).hexdigest()}" if hidden else f"files/{name}"
    head = msgspec.json.encode({"asyncbackup-path": name}) if hidden else b""
    plain = struct.pack(">I", len(head)) + head + content if hidden else content
    skip = 4 + len(head) if hidden else 0
    body = plain
    if compressed:
        cuts = range(0, max(len(plain), 1), 50_000)
        body = b"".join(zstandard.ZstdCompressor().compress(plain[cut : cut + 50_000]) for cut in cuts)
    full_key = f"{data_prefix(repository.section)}{FIRST}/{key}"
    encrypted = repository.key is not None
    stored = seal(repository, full_key, body) if encrypted else body
    digest = hashlib.sha256(stored).digest()
    await repository.store.put(full_key, stored, sha256=digest)
    extent = Extent(
        run=FIRST,
        key=key,
        length=len(stored) if kind is Kind.FILE else 0,
        checksum=single_checksum(digest) if checksum else "",
        encrypted=encrypted,
        compression=ZSTD if compressed else "",
        skip=skip,
    )
    return Entry(
        path=path,
        kind=kind,
        mode=0o100640 if kind is Kind.FILE else 0o040750,
        size=len(content),
        mtime_ns=MTIME_NS,
        sha256=hashlib.sha256(content).digest() if kind is Kind.FILE else b"",
        extent=extent,
    )


async def put_two(case: Case, *, compressed: bool, hidden: bool, checksum: bool = True) -> list[Entry]:
    async with opened(case) as repository:
        entries = [
            await put_object(
                repository, path, content, compressed=compressed, hidden=hidden, checksum=checksum
            )
            for path, content in ((b"a", CONTENT), (b"b", CONTENT[::-1]), (b"empty", b""))
        ]
        await put_manifest(repository, FIRST, [ROOT, *entries])
        return entries


def path_of(tmp_path: Path, entry: Entry) -> Path:
    assert entry.extent is not None
    return tmp_path / "store/home/data" / FIRST / entry.extent.key


def paths(summary: VerifySummary) -> list[tuple[bytes, ...]]:
    return sorted(damage.paths for damage in summary.damaged)


@KINDS
@pytest.mark.parametrize("checksum", [True, False])
async def test_a_sound_object_is_sound(
    tmp_path: Path, compressed: bool, encrypted: bool, hidden: bool, checksum: bool
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    await put_two(case, compressed=compressed, hidden=hidden, checksum=checksum)
    summary = await verify_section(*case, read_percent=100)
    assert (summary.damaged, summary.objects_read) == ((), 3)


@KINDS
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 1.0])
async def test_a_flipped_bit_is_found_wherever_it_is(
    tmp_path: Path, compressed: bool, encrypted: bool, hidden: bool, place: float
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    entries = await put_two(case, compressed=compressed, hidden=hidden)
    path = path_of(tmp_path, entries[0])
    body = bytearray(path.read_bytes())
    body[int((len(body) - 1) * place)] ^= 8
    path.write_bytes(body)
    assert paths(await verify_section(*case, read_percent=100)) == [(b"a",)]


@KINDS
@pytest.mark.parametrize("action", ["truncate", "extend", "delete", "swap"])
async def test_other_damage_is_found(
    tmp_path: Path, compressed: bool, encrypted: bool, hidden: bool, action: str
) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    entries = await put_two(case, compressed=compressed, hidden=hidden)
    one, other = path_of(tmp_path, entries[0]), path_of(tmp_path, entries[1])
    body = one.read_bytes()
    if action == "truncate":
        one.write_bytes(body[:-1])
    elif action == "extend":
        one.write_bytes(body + b"x")
    elif action == "delete":
        one.unlink()
    else:
        one.write_bytes(other.read_bytes())
        other.write_bytes(body)
    for percent in (0, 100):
        summary = await verify_section(*case, read_percent=percent)
        assert paths(summary) == ([(b"a",), (b"b",)] if action == "swap" else [(b"a",)])


@KINDS
async def test_where_checksums_are_kept_nothing_is_read(
    tmp_path: Path, seaweed_s3: S3Endpoint, compressed: bool, encrypted: bool, hidden: bool
) -> None:
    case = settings_for(
        tmp_path,
        f"s3://{seaweed_s3.fresh_bucket()}/p",
        s3=seaweed_s3.settings(),
        encrypted=encrypted,
    )
    await put_two(case, compressed=compressed, hidden=hidden)
    summary = await verify_section(*case)
    assert (summary.damaged, summary.objects_read) == ((), 0)


async def test_frames_that_hold_less_than_the_content_are_damage(tmp_path: Path) -> None:
    """Without a checksum in the manifest nothing but expanding them shows it."""
    case = on_files(tmp_path)
    async with opened(case) as repository:
        entry = await put_object(repository, b"a", CONTENT, compressed=True, hidden=False, checksum=False)
        longer = CONTENT + b"more"
        claims = msgspec.structs.replace(entry, size=len(longer), sha256=hashlib.sha256(longer).digest())
        await put_manifest(repository, FIRST, [ROOT, claims])
    assert paths(await verify_section(*case, read_percent=100)) == [(b"a",)]


async def test_a_frame_that_is_none_is_damage(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        entry = await put_object(repository, b"a", CONTENT, compressed=False, hidden=False, checksum=False)
        assert entry.extent is not None
        wrong = msgspec.structs.replace(entry, extent=msgspec.structs.replace(entry.extent, compression=ZSTD))
        await put_manifest(repository, FIRST, [ROOT, wrong])
    (damage,) = (await verify_section(*case, read_percent=100)).damaged
    assert damage.reason.startswith("cannot be expanded")


@pytest.mark.parametrize("how", ["sound", "flipped", "emptied", "missing"])
async def test_a_hidden_folder_is_an_object_to_be_opened(tmp_path: Path, how: str) -> None:
    """The length in its extent tells nothing."""
    case = on_files(tmp_path, encrypted=True)
    async with opened(case) as repository:
        entry = await put_object(repository, b"a", b"", compressed=False, hidden=True, kind=Kind.FOLDER)
        await put_manifest(repository, FIRST, [ROOT, entry])
    path = path_of(tmp_path, entry)
    if how == "flipped":
        body = bytearray(path.read_bytes())
        body[-1] ^= 1
        path.write_bytes(body)
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    assert paths(await verify_section(*case, read_percent=100)) == ([] if how == "sound" else [(b"a",)])


async def test_manifests_that_disagree_about_how_a_content_is_stored_are_damage(tmp_path: Path) -> None:
    case = on_files(tmp_path)
    async with opened(case) as repository:
        entry = await put_object(repository, b"a", CONTENT, compressed=True, hidden=False)
        assert entry.extent is not None
        await put_manifest(repository, FIRST, [ROOT, entry])
        moved = msgspec.structs.replace(entry, extent=msgspec.structs.replace(entry.extent, skip=1))
        await put_manifest(repository, SECOND, [ROOT, moved])
    (damage,) = (await verify_section(*case, read_percent=100)).damaged
    assert "manifests disagree" in damage.reason
