"""The journal of multipart uploads."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.resume import PartRecord, ResumableUpload
from tests.unit.catalog.entries import IDENTITY, RUN


def upload(upload_id: str, path: bytes = b"d/large", *, time_ns: int = 5) -> ResumableUpload:
    return ResumableUpload(
        path=path,
        run=RUN,
        key="files/" + path.hex(),
        upload_id=upload_id,
        part_size=5 * 2**20,
        size=2**40,
        mtime_ns=time_ns,
        ctime_ns=time_ns + 1,
    )


def part(number: int, *, etag: str = "e") -> PartRecord:
    return PartRecord(number=number, size=5 * 2**20, etag=f"{etag}{number}", sha256=bytes([number]) * 32)


async def test_what_is_noted_is_there_after_closing(database: Path) -> None:
    async with Catalog.create(database, IDENTITY) as catalog:
        await catalog.uploads.begun(upload("one"))
        for number in (3, 1, 10, 2):
            await catalog.uploads.part_sent("one", part(number))
    async with Catalog.open(database, section="home", destination=IDENTITY.destination) as catalog:
        parts = tuple(part(number) for number in (1, 2, 3, 10))
        assert await catalog.uploads.all() == [msgspec.structs.replace(upload("one"), parts=parts)]


async def test_a_part_sent_again_replaces_the_earlier_one(catalog: Catalog) -> None:
    await catalog.uploads.begun(upload("one"))
    await catalog.uploads.part_sent("one", part(1, etag="old"))
    await catalog.uploads.part_sent("one", part(1, etag="new"))
    (found,) = await catalog.uploads.all()
    assert found.parts == (part(1, etag="new"),)


async def test_an_ended_upload_is_forgotten_with_its_parts(catalog: Catalog) -> None:
    await catalog.uploads.begun(upload("one"))
    await catalog.uploads.part_sent("one", part(1))
    await catalog.uploads.begun(upload("two", b"other"))
    await catalog.uploads.part_sent("two", part(2))
    await catalog.uploads.ended("one")
    await catalog.uploads.ended("never begun")
    (found,) = await catalog.uploads.all()
    assert (found.path, found.parts) == (b"other", (part(2),))
    await catalog.uploads.begun(upload("one"))
    assert {u.upload_id: u.parts for u in await catalog.uploads.all()} == {"one": (), "two": (part(2),)}


async def test_two_versions_of_one_path_are_both_remembered(catalog: Catalog) -> None:
    """The newer one is gone on with; the older one has to be aborted, so it must not be forgotten."""
    await catalog.uploads.begun(upload("old", time_ns=1))
    await catalog.uploads.part_sent("old", part(1))
    await catalog.uploads.begun(upload("new", time_ns=2))
    assert {u.upload_id: len(u.parts) for u in await catalog.uploads.all()} == {"old": 1, "new": 0}


@pytest.mark.parametrize("time_ns", [-1, 2**63, 10**22])
async def test_times_of_any_year_are_kept(catalog: Catalog, time_ns: int) -> None:
    await catalog.uploads.begun(upload("one", time_ns=time_ns))
    assert await catalog.uploads.all() == [upload("one", time_ns=time_ns)]
