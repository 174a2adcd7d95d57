"""What an interrupted run left behind: gone on with where both sides agree, aborted otherwise."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.errors import AccessDeniedError, StoreError
from asyncbackup.leftovers import abort_unused, take_up_uploads
from asyncbackup.repository.open import Repository, open_repository
from asyncbackup.resume import PartRecord, ResumableUpload
from asyncbackup.store.base import Store, UploadId
from tests.workbench import Workbench

RUN = "20260101T000000Z-0000"
PREFIX = f"home/data/{RUN}/"
BODIES = {1: b"a" * 100, 2: b"b" * 100, 3: b"c" * 50}
SIZE = 250


class Leftovers:
    """A repository in a folder, a catalog, and uploads begun in both, in one, or in the other."""

    def __init__(self, repository: Repository, catalog: Catalog) -> None:
        self.repository = repository
        self.catalog = catalog
        self.store: Store = repository.store

    async def begin(
        self,
        path: bytes = b"f",
        *,
        parts: tuple[int, ...] = (1, 2),
        sent: tuple[int, ...] | None = None,
        journaled: bool = True,
        time_ns: int = 1,
    ) -> ResumableUpload:
        """An upload of which the journal knows ``parts`` and the store holds ``sent``."""
        key = "files/" + path.decode()
        upload_id = await self.store.create_upload(PREFIX + key, metadata={})
        records = []
        for number in sorted({*parts, *(parts if sent is None else sent)}):
            digest = hashlib.sha256(BODIES[number]).digest()
            receipt = await self.store.upload_part(
                PREFIX + key, upload_id, number, BODIES[number], sha256=digest
            )
            if number in parts:
                record = PartRecord(number=number, size=receipt.size, etag=receipt.etag, sha256=digest)
                records.append(record)
        upload = ResumableUpload(
            path=path,
            run=RUN,
            key=key,
            upload_id=upload_id,
            part_size=100,
            size=SIZE,
            mtime_ns=time_ns,
            ctime_ns=time_ns,
            parts=tuple(records),
        )
        if journaled:
            await self.catalog.uploads.begun(upload)
            for record in records:
                await self.catalog.uploads.part_sent(upload_id, record)
        return upload

    async def take_up(self) -> dict[bytes, ResumableUpload]:
        return await take_up_uploads(self.repository, self.catalog)

    async def unfinished(self) -> set[str]:
        return {upload.upload_id async for page in self.store.list_uploads("home/") for upload in page}

    async def journaled(self) -> set[str]:
        return {upload.upload_id for upload in await self.catalog.uploads.all()}

    def without(self, **methods: object) -> None:
        """Let the store refuse some of its methods."""
        store = _Refusing(self.store, methods)
        self.repository = msgspec.structs.replace(self.repository, store=store)


class _Refusing:
    def __init__(self, store: Store, methods: dict[str, object]) -> None:
        self._store = store
        self._methods = methods

    def __getattr__(self, name: str) -> object:
        return self._methods.get(name) or getattr(self._store, name)


async def _leftovers(base: Path, *, encrypted: bool) -> AsyncIterator[Leftovers]:
    (base / "destination").mkdir()
    bench = Workbench(base, f"file://{base}/destination", encrypted=encrypted)
    await bench.initialise()
    async with AsyncExitStack() as stack:
        repository = await stack.enter_async_context(open_repository(bench.settings, bench.section))
        database = bench.settings.database_path("home")
        catalog = await stack.enter_async_context(
            Catalog.open(database, section="home", destination=bench.section.destination)
        )
        yield Leftovers(repository, catalog)


@pytest.fixture
async def leftovers(tmp_path: Path) -> AsyncIterator[Leftovers]:
    async for leftovers in _leftovers(tmp_path, encrypted=False):
        yield leftovers


@pytest.fixture
async def sealed_leftovers(tmp_path: Path) -> AsyncIterator[Leftovers]:
    async for leftovers in _leftovers(tmp_path, encrypted=True):
        yield leftovers


async def test_an_upload_that_both_sides_know_is_gone_on_with(leftovers: Leftovers) -> None:
    upload = await leftovers.begin()
    assert await leftovers.take_up() == {b"f": upload}
    assert await leftovers.unfinished() == await leftovers.journaled() == {upload.upload_id}


async def test_only_parts_that_the_endpoint_holds_count(leftovers: Leftovers) -> None:
    upload = await leftovers.begin(parts=(1, 2))
    lost = PartRecord(number=3, size=50, etag="gone", sha256=b"x" * 32)
    await leftovers.catalog.uploads.part_sent(upload.upload_id, lost)
    assert await leftovers.take_up() == {b"f": upload}


@pytest.mark.parametrize("changes", [{"etag": "another"}, {"size": 99}])
async def test_a_part_that_differs_does_not_count(
    leftovers: Leftovers, changes: dict[str, str | int]
) -> None:
    upload = await leftovers.begin(parts=(1, 2))
    differs = msgspec.structs.replace(upload.parts[1], **changes)
    await leftovers.catalog.uploads.part_sent(upload.upload_id, differs)
    (found,) = (await leftovers.take_up()).values()
    assert [part.number for part in found.parts] == [1]


async def test_an_upload_that_the_journal_does_not_know_is_aborted(leftovers: Leftovers) -> None:
    await leftovers.begin(journaled=False)
    manifest = "home/snapshots/20260101T000000Z-0000.jsonl.zst"
    await leftovers.store.create_upload(manifest, metadata={})
    assert await leftovers.take_up() == {}
    assert await leftovers.unfinished() == set()


async def test_uploads_of_other_sections_are_left_alone(leftovers: Leftovers) -> None:
    key = "work/data/20260101T000000Z-0000/files/f"
    other = await leftovers.store.create_upload(key, metadata={})
    await leftovers.take_up()
    found = [upload async for page in leftovers.store.list_uploads("work/") for upload in page]
    assert [upload.upload_id for upload in found] == [other]


async def test_without_a_part_there_is_nothing_to_go_on_with(leftovers: Leftovers) -> None:
    await leftovers.begin(parts=())
    assert await leftovers.take_up() == {}
    assert await leftovers.unfinished() == await leftovers.journaled() == set()


async def test_an_upload_that_the_endpoint_forgot_is_forgotten(leftovers: Leftovers) -> None:
    upload = await leftovers.begin(parts=(1, 2, 3))
    await leftovers.store.abort_upload(PREFIX + "files/f", UploadId(upload.upload_id))
    assert await leftovers.take_up() == {}
    assert await leftovers.journaled() == set()


async def test_an_upload_of_which_only_the_last_answer_was_lost_is_complete(leftovers: Leftovers) -> None:
    upload = await leftovers.begin(parts=(1, 2, 3))
    key, upload_id = PREFIX + "files/f", UploadId(upload.upload_id)
    parts = await leftovers.store.list_parts(key, upload_id)
    await leftovers.store.complete_upload(key, upload_id, parts)
    assert await leftovers.take_up() == {b"f": upload}
    assert await leftovers.store.get(key, limit=1000) == b"".join(BODIES.values())


async def test_an_object_of_another_size_is_not_that_upload(leftovers: Leftovers) -> None:
    upload = await leftovers.begin(parts=(1, 2, 3))
    key = PREFIX + "files/f"
    await leftovers.store.abort_upload(key, UploadId(upload.upload_id))
    await leftovers.store.put(key, b"other", sha256=hashlib.sha256(b"other").digest())
    assert await leftovers.take_up() == {}
    assert await leftovers.journaled() == set()


async def test_of_two_uploads_of_one_path_one_is_kept(leftovers: Leftovers) -> None:
    uploads = [await leftovers.begin(time_ns=number) for number in (1, 2)]
    kept = await leftovers.take_up()
    assert kept[b"f"] in uploads
    assert await leftovers.unfinished() == await leftovers.journaled() == {kept[b"f"].upload_id}


async def test_sealed_uploads_are_never_gone_on_with(sealed_leftovers: Leftovers) -> None:
    await sealed_leftovers.begin(parts=(), sent=(1, 2))
    assert await sealed_leftovers.take_up() == {}
    assert await sealed_leftovers.unfinished() == await sealed_leftovers.journaled() == set()


async def test_where_uploads_may_not_be_listed_the_journal_is_enough(
    leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    good, empty = await leftovers.begin(b"f"), await leftovers.begin(b"g", parts=())

    def denied(prefix: str) -> None:
        raise AccessDeniedError("ListMultipartUploads", prefix, "denied")

    leftovers.without(list_uploads=denied)
    assert await leftovers.take_up() == {b"f": good}
    assert "cannot be looked for" in caplog.text
    assert await leftovers.unfinished() == await leftovers.journaled() == {good.upload_id}
    assert empty.upload_id not in await leftovers.journaled()


async def test_where_parts_may_not_be_listed_the_upload_is_begun_again(leftovers: Leftovers) -> None:
    await leftovers.begin()

    async def denied(key: str, upload_id: UploadId) -> None:
        raise AccessDeniedError("ListParts", key, "denied")

    leftovers.without(list_parts=denied)
    assert await leftovers.take_up() == {}
    assert await leftovers.unfinished() == await leftovers.journaled() == set()


async def test_what_nobody_went_on_with_is_aborted_in_the_end(leftovers: Leftovers) -> None:
    for path in (b"f", b"g"):
        await leftovers.begin(path)
    assert len(await leftovers.take_up()) == 2
    await abort_unused(leftovers.repository, leftovers.catalog)
    assert await leftovers.unfinished() == await leftovers.journaled() == set()


async def test_what_could_not_be_aborted_is_remembered(
    leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    upload = await leftovers.begin()

    async def fail(key: str, upload_id: UploadId) -> None:
        raise StoreError("AbortMultipartUpload", key, "no route to host")

    leftovers.without(abort_upload=fail)
    await abort_unused(leftovers.repository, leftovers.catalog)
    assert "could not abort" in caplog.text
    assert await leftovers.journaled() == {upload.upload_id}
