"""The uploader: receipts, refusals, the budget, multipart uploads and their journal."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from asyncbackup.errors import (
    CatalogError,
    ObjectMissingError,
    ObjectRefusedError,
    StoreError,
    UnsupportedError,
)
from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.flow.stop import StopRequest
from asyncbackup.format.envelope import sealed_size
from asyncbackup.format.keys import long_key, long_path_key
from asyncbackup.format.keyslots import new_master_key
from asyncbackup.format.metadata import decode_metadata
from asyncbackup.model import Entry, Extent, Failure, Kind, Pending, RunCounters, UploadReceipt
from asyncbackup.pipeline import uploader as uploader_module
from asyncbackup.pipeline.payload import (
    AbandonUpload,
    CopyPayload,
    LargeUpload,
    PartPayload,
    Payload,
    UploadEnd,
    WholePayload,
)
from asyncbackup.pipeline.uploader import Uploader
from asyncbackup.resume import PartRecord, ResumableUpload
from asyncbackup.store.base import UploadId
from tests.unit.flow.turns import settle
from tests.unit.pipeline.readings import RUN, transfer_settings
from tests.unit.pipeline.stores import MemoryJournal, MemoryStore

if TYPE_CHECKING:
    from asyncbackup.pipeline.results import Outcome
    from asyncbackup.store.base import Store

PREFIX = f"home/data/{RUN}/"
EARLIER = "20260101T000000Z-0000"
PART = 100


class Bench:
    """An uploader on a store in memory. ``leased`` bytes were taken for every payload."""

    def __init__(self, *, sealed: bool = False, copies: bool = True, tasks: int = 3) -> None:
        self.store = MemoryStore(copies=copies)
        self.journal = MemoryJournal(self.store)
        self.budget = ByteBudget(1_000_000)
        self.counters = RunCounters()
        self.stop = StopRequest()
        self.tasks = tasks
        self.outcomes: list[Outcome] = []
        self.uploader = Uploader(
            transfer_settings(b"/", key=new_master_key() if sealed else None),
            cast("Store", self.store),
            self.budget,
            self.journal,
            self.counters,
            self.stop,
        )
        self.payloads: Sender[Payload]
        self.payloads, self._received = open_channel("payloads", 100)

    async def send(self, *payloads: Payload) -> None:
        for payload in payloads:
            if not isinstance(payload, UploadEnd | CopyPayload):
                await self.budget.acquire(payload.leased)
            await self.payloads.send(payload)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The uploader's tasks; the payloads end with the block. Cleans up like a transfer does."""
        outcomes_in: Sender[Outcome]
        outcomes: Receiver[Outcome]
        outcomes_in, outcomes = open_channel("outcomes", 1000)
        try:
            async with asyncio.TaskGroup() as group:
                with self._received, outcomes_in:
                    for _ in range(self.tasks):
                        group.create_task(self.uploader.run(self._received.clone(), outcomes_in.clone()))
                with self.payloads:
                    yield
        finally:
            await self.uploader.aclose()
            while len(outcomes):
                self.outcomes += await outcomes.receive_some(1000)

    async def upload(self, *payloads: Payload) -> Bench:
        async with self.running():
            await self.send(*payloads)
        return self

    @property
    def receipts(self) -> dict[bytes, UploadReceipt]:
        return {o.entry.path: o for o in self.outcomes if isinstance(o, UploadReceipt)}

    @property
    def failures(self) -> list[Failure]:
        return [o for o in self.outcomes if isinstance(o, Failure)]


def entry(path: bytes = b"d/f", size: int = 7) -> Entry:
    return Entry(
        path=path,
        kind=Kind.FILE,
        mode=0o100644,
        size=size,
        mtime_ns=5,
        ctime_ns=6,
        uid=1,
        gid=2,
        nlink=1,
        sha256=hashlib.sha256(path).digest(),
    )


def whole(path: bytes = b"d/f", body: bytes = b"content", *, encrypted: bool = False) -> WholePayload:
    return WholePayload(
        entry=entry(path, len(body)),
        pending=Pending.NEW,
        key="files/" + path.decode(),
        metadata={"mtime": "5"},
        body=body,
        body_sha256=hashlib.sha256(body).digest(),
        encrypted=encrypted,
        leased=len(body),
        bytes_read=len(body),
    )


def large(
    size: int, *, path: bytes = b"d/large", sealed: bool = False, resumed: ResumableUpload | None = None
) -> LargeUpload:
    return LargeUpload(
        entry=entry(path, size),
        pending=Pending.NEW,
        run=resumed.run if resumed else RUN,
        key="files/" + path.decode(),
        part_size=PART,
        stored_size=sealed_size(size) if sealed else size,
        sealed=sealed,
        resumed=resumed,
    )


def parts(upload: LargeUpload, *numbers: int) -> list[PartPayload]:
    found = []
    for number in numbers:
        body = bytes([number]) * min(PART, upload.stored_size - (number - 1) * PART)
        found.append(
            PartPayload(
                upload=upload,
                number=number,
                body=body,
                sha256=hashlib.sha256(body).digest(),
                leased=len(body),
            )
        )
    return found


def end(upload: LargeUpload, count: int) -> UploadEnd:
    return UploadEnd(upload=upload, entry=upload.entry, part_count=count, bytes_read=upload.entry.size)


def refusal(operation: str = "PutObject") -> ObjectRefusedError:
    return ObjectRefusedError(operation, "k", "its name is too long", code="KeyTooLongError")


def outage(operation: str = "PutObject") -> StoreError:
    return StoreError(operation, "k", "no route to host", retryable=True)


async def failing(bench: Bench, *payloads: Payload) -> BaseException:
    with pytest.raises(ExceptionGroup) as caught:
        await bench.upload(*payloads)
    (error,) = caught.value.exceptions
    assert bench.store.all_used()
    return error


# Single objects


async def test_a_whole_body_becomes_an_object_and_a_receipt() -> None:
    bench = await Bench().upload(whole())
    assert bench.store.objects == {PREFIX + "files/d/f": b"content"}
    assert bench.store.metadata[PREFIX + "files/d/f"] == {"mtime": "5"}
    receipt = bench.receipts[b"d/f"]
    assert receipt.entry.extent == Extent(run=RUN, key="files/d/f", length=7)
    assert (receipt.pending, receipt.bytes_read, receipt.bytes_uploaded) == (Pending.NEW, 7, 7)
    assert bench.counters.bytes_uploaded == 7
    assert bench.budget.in_use_bytes == 0


async def test_an_encrypted_body_is_receipted_with_the_checksum_of_what_was_stored() -> None:
    payload = msgspec.structs.replace(whole(encrypted=True), bytes_read=3)
    bench = await Bench(sealed=True).upload(payload)
    extent = bench.receipts[b"d/f"].entry.extent
    assert extent is not None
    assert (extent.encrypted, extent.length) == (True, 7)
    assert extent.checksum != ""


async def test_as_many_requests_at_once_as_there_are_tasks() -> None:
    bench = Bench(tasks=3)
    bench.store.held["put"] = asyncio.Event()
    async with bench.running():
        await bench.send(*(whole(b"%d" % number) for number in range(9)))
        await settle()
        assert bench.store.under_way == 3
        assert bench.budget.in_use_bytes == 63
        bench.store.held["put"].set()
    assert bench.store.most_under_way == 3
    assert len(bench.receipts) == 9


async def test_bytes_come_back_when_the_request_ends_not_when_the_receipt_is_taken() -> None:
    bench = Bench()
    async with bench.running():
        await bench.send(whole())
        await settle()
        assert bench.budget.in_use_bytes == 0


async def test_a_refused_object_is_a_failure_of_its_file_alone() -> None:
    bench = Bench(tasks=1)
    bench.store.faults["put"] = [refusal()]
    await bench.upload(whole(b"a"), whole(b"b"))
    assert bench.store.all_used()
    assert set(bench.receipts) == {b"b"}
    (failure,) = bench.failures
    assert (failure.path, failure.reason, failure.kind) == (
        b"a",
        "the endpoint refuses its object: its name is too long",
        Kind.FILE,
    )
    assert bench.budget.in_use_bytes == 0
    assert bench.counters.bytes_uploaded == 7


async def test_every_other_error_of_the_store_ends_the_run_and_gives_the_bytes_back() -> None:
    bench = Bench(tasks=1)
    bench.store.faults["put"] = [outage()]
    assert isinstance(await failing(bench, whole()), StoreError)
    assert bench.receipts == {}
    assert bench.budget.in_use_bytes == 0


async def test_a_path_longer_than_key_and_metadata_gets_an_object_of_its_own() -> None:
    path = b"\xff" * 900
    payload = msgspec.structs.replace(whole(), entry=entry(path), key=long_key(path))
    bench = await Bench().upload(payload)
    assert bench.store.objects[PREFIX + long_path_key(path)] == path
    assert bench.receipts[path].entry.extent == Extent(run=RUN, key=long_key(path), length=7)


async def test_a_long_path_that_fits_the_metadata_gets_none() -> None:
    path = b"x" * 300
    payload = msgspec.structs.replace(whole(), entry=entry(path), key=long_key(path))
    bench = await Bench().upload(payload)
    assert list(bench.store.objects) == [PREFIX + long_key(path)]


# Uploads in parts


async def test_parts_are_joined_in_their_order_whatever_the_order_of_sending() -> None:
    bench = Bench(tasks=1)
    upload = large(250)
    await bench.upload(*parts(upload, 2, 3, 1), end(upload, 3))
    content = b"\x01" * 100 + b"\x02" * 100 + b"\x03" * 50
    assert bench.store.objects == {PREFIX + "files/d/large": content}
    receipt = bench.receipts[b"d/large"]
    extent = receipt.entry.extent
    assert extent is not None
    assert (extent.length, extent.part_size, extent.run) == (250, PART, RUN)
    assert extent.checksum.endswith("-3")
    assert (receipt.bytes_read, receipt.bytes_uploaded) == (250, 250)
    assert bench.counters.bytes_uploaded == 250
    assert bench.budget.in_use_bytes == 0


async def test_the_journal_knows_an_upload_before_its_first_part_and_every_part_after_it() -> None:
    bench = Bench(tasks=1)
    upload = large(250)
    await bench.upload(*parts(upload, 1, 2, 3), end(upload, 3))
    assert bench.store.log == [
        "create large",
        "begun u1",
        "part 1",
        "sent 1",
        "part 2",
        "sent 2",
        "part 3",
        "sent 3",
        "complete large",
        "ended u1",
    ]
    assert bench.journal.records == {}


async def test_the_journal_has_what_a_later_run_compares() -> None:
    bench = Bench(tasks=1)
    upload = large(250)
    bench.store.faults["complete"] = [outage("CompleteMultipartUpload")]
    await failing(bench, *parts(upload, 1, 2, 3), end(upload, 3))
    assert bench.journal.records["u1"] == ResumableUpload(
        path=b"d/large",
        run=RUN,
        key="files/d/large",
        upload_id="u1",
        part_size=PART,
        size=250,
        mtime_ns=5,
        ctime_ns=6,
    )
    assert bench.journal.parts["u1"] == [
        PartRecord(number=p.number, size=len(p.body), etag=f"e{p.number}", sha256=p.sha256)
        for p in parts(upload, 1, 2, 3)
    ]
    assert "u1" in bench.store.uploads, "left for the next run"


async def test_parts_that_wait_for_the_upload_to_begin_begin_it_once() -> None:
    bench = Bench(tasks=3)
    bench.store.held["create"] = asyncio.Event()
    upload = large(250)
    async with bench.running():
        await bench.send(*parts(upload, 1, 2, 3), end(upload, 3))
        await settle()
        bench.store.held["create"].set()
    assert bench.store.requests["create"] == 1
    assert len(bench.receipts) == 1


async def test_an_upload_is_completed_after_its_last_part_although_its_end_came_earlier() -> None:
    bench = Bench(tasks=4)
    bench.store.held["part"] = asyncio.Event()
    upload = large(250)
    async with bench.running():
        await bench.send(*parts(upload, 1, 2, 3), end(upload, 3))
        await settle()
        assert bench.store.requests["complete"] == 0
        bench.store.held["part"].set()
    assert bench.store.requests["complete"] == 1
    assert len(bench.outcomes) == 1


async def test_an_abandoned_upload_is_aborted_after_what_is_under_way() -> None:
    bench = Bench(tasks=3)
    bench.store.held["part"] = asyncio.Event()
    upload = large(250)
    async with bench.running():
        await bench.send(*parts(upload, 1, 2), AbandonUpload(upload=upload))
        await settle()
        assert bench.store.requests["abort"] == 0, "parts under way would bring it back"
        bench.store.held["part"].set()
    assert bench.store.log[-2:] == ["abort large", "ended u1"]
    assert bench.store.uploads == {}
    assert bench.outcomes == []
    assert bench.budget.in_use_bytes == 0


async def test_an_upload_abandoned_before_its_first_part_sends_nothing() -> None:
    bench = await Bench(tasks=1).upload(AbandonUpload(upload=large(250), leased=30))
    assert bench.store.log == []
    assert bench.budget.in_use_bytes == 0


@pytest.mark.parametrize("operation", ["create", "part", "complete"])
@pytest.mark.parametrize("tasks", [1, 4])
async def test_a_refused_upload_is_one_failure_and_aborted(operation: str, tasks: int) -> None:
    """However many of its parts were waiting or under way when it was refused."""
    bench = Bench(tasks=tasks)
    faults: Sequence[Exception] = [refusal()] * (4 if operation == "part" else 1)
    bench.store.faults[operation] = list(faults)
    bench.store.held[operation] = asyncio.Event()
    upload = large(350)
    async with bench.running():
        await bench.send(*parts(upload, 1, 2, 3, 4), end(upload, 4))
        await settle()
        bench.store.held[operation].set()
    assert [failure.path for failure in bench.failures] == [b"d/large"]
    assert bench.receipts == {}
    assert bench.store.uploads == {}
    assert bench.journal.records == {}
    assert bench.budget.in_use_bytes == 0
    assert bench.store.requests["abort"] == (0 if operation == "create" else 1)


async def test_a_file_read_twice_and_refused_twice_is_one_failure() -> None:
    bench = Bench(tasks=1)
    bench.store.faults["create"] = [refusal(), refusal()]
    first, second = large(250), large(250)
    await bench.upload(*parts(first, 1), AbandonUpload(upload=first), *parts(second, 1, 2, 3), end(second, 3))
    assert bench.store.all_used()
    assert len(bench.failures) == 1


async def test_an_upload_that_cannot_be_aborted_stays_in_the_journal() -> None:
    """So that it is tried again: at the end of the run, and by the next one."""
    for sealed in (False, True):
        bench = Bench(tasks=1, sealed=sealed)
        bench.store.faults["abort"] = [outage("AbortMultipartUpload")]
        upload = large(250, sealed=sealed)
        await bench.upload(*parts(upload, 1), AbandonUpload(upload=upload))
        assert bench.store.all_used()
        assert list(bench.journal.records) == ["u1"]
        assert bench.failures == []


@pytest.mark.parametrize("sealed", [False, True])
async def test_after_an_error_only_what_cannot_be_gone_on_with_is_aborted(sealed: bool) -> None:
    bench = Bench(tasks=1, sealed=sealed)
    bench.store.faults["part"] = [outage("UploadPart")]
    upload = large(250, sealed=sealed)
    await failing(bench, *parts(upload, 1))
    assert list(bench.store.uploads) == ([] if sealed else ["u1"])
    assert list(bench.journal.records) == ([] if sealed else ["u1"])
    assert bench.budget.in_use_bytes == 0


@pytest.mark.parametrize("operation", ["create", "part", "complete"])
@pytest.mark.parametrize("sealed", [False, True])
async def test_cancelled_in_the_middle_of_an_upload(operation: str, sealed: bool) -> None:
    bench = Bench(tasks=3, sealed=sealed)
    bench.store.held[operation] = asyncio.Event()
    upload = large(150, sealed=sealed)
    count = -(-upload.stored_size // PART)

    async def run() -> None:
        async with bench.running():
            await bench.send(*parts(upload, *range(1, count + 1)), end(upload, count))
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await settle()
    assert bench.store.under_way > 0
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert list(bench.store.uploads) == ([] if sealed or operation == "create" else ["u1"])
    assert set(bench.journal.records) == set(bench.store.uploads)
    assert bench.budget.in_use_bytes <= sum(p.leased for p in parts(upload, *range(1, count + 1)))
    assert bench.receipts == {}


async def test_cancelled_while_the_journal_is_written_a_sealed_upload_is_aborted_all_the_same() -> None:
    bench = Bench(tasks=1, sealed=True)
    written = asyncio.Event()

    async def begun(upload: ResumableUpload) -> None:
        written.set()
        await asyncio.Event().wait()

    object.__setattr__(bench.journal, "begun", begun)
    upload = large(150, sealed=True)

    async def run() -> None:
        async with bench.running():
            await bench.send(*parts(upload, 1))
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await written.wait()
    task.cancel()
    await asyncio.wait({task})
    assert bench.store.uploads == {}


async def test_a_journal_that_cannot_be_written_ends_the_run() -> None:
    bench = Bench(tasks=1)

    async def fail(upload: ResumableUpload) -> None:
        raise CatalogError("no space left")

    object.__setattr__(bench.journal, "begun", fail)
    assert isinstance(await failing(bench, *parts(large(250), 1)), CatalogError)
    assert bench.store.requests["part"] == 0


async def test_a_requested_stop_begins_no_request_and_completes_nothing_halfway() -> None:
    bench = Bench(tasks=1)
    bench.store.held["part"] = asyncio.Event()
    upload = large(250)
    async with bench.running():
        await bench.send(*parts(upload, 1, 2, 3), end(upload, 3), whole())
        await settle()
        bench.stop.request()
        bench.store.held["part"].set()
    assert bench.store.requests["part"] == 1, "the one that was under way"
    assert bench.store.requests["complete"] == 0
    assert bench.outcomes == []
    assert [part.number for part in bench.journal.parts["u1"]] == [1]
    assert bench.budget.in_use_bytes == 0


# Going on


def resumable(*numbers: int, size: int = 250) -> ResumableUpload:
    upload = large(size)
    return ResumableUpload(
        path=b"d/large",
        run=EARLIER,
        key="files/d/large",
        upload_id="u0",
        part_size=PART,
        size=size,
        mtime_ns=5,
        ctime_ns=6,
        parts=tuple(
            PartRecord(number=p.number, size=len(p.body), etag=f"e{p.number}", sha256=p.sha256)
            for p in parts(upload, *numbers)
        ),
    )


async def gone_on(bench: Bench, *done: int) -> LargeUpload:
    upload = large(250, resumed=resumable(*done))
    bench.journal.records["u0"] = resumable(*done)
    missing = [number for number in (1, 2, 3) if number not in done]
    await bench.upload(*parts(upload, *missing), end(upload, 3))
    return upload


@pytest.mark.parametrize("done", [(), (1,), (1, 3), (1, 2, 3)])
async def test_an_upload_is_gone_on_with_under_the_run_that_began_it(done: tuple[int, ...]) -> None:
    bench = Bench(tasks=2)
    bench.store.uploads[upload_id := UploadId("u0")] = {
        p.number: bytes(p.body) for p in parts(large(250), *done)
    }
    await gone_on(bench, *done)
    assert upload_id not in bench.store.uploads
    assert bench.store.requests["create"] == 0
    assert bench.store.requests["part"] == 3 - len(done)
    assert list(bench.store.objects) == [f"home/data/{EARLIER}/files/d/large"]
    extent = bench.receipts[b"d/large"].entry.extent
    assert extent is not None
    assert (extent.run, extent.checksum[-2:]) == (EARLIER, "-3")
    assert bench.journal.records == {}


async def test_a_long_path_lies_beside_the_object_in_the_run_that_began_it() -> None:
    path = b"\xff" * 900
    record = msgspec.structs.replace(resumable(1, 2, 3), path=path, key=long_key(path))
    upload = large(250, resumed=record)
    upload.entry, upload.key = entry(path, 250), long_key(path)
    bench = Bench(tasks=1)
    bench.store.uploads[UploadId("u0")] = {1: b"", 2: b"", 3: b""}
    await bench.upload(end(upload, 3))
    assert bench.store.objects[f"home/data/{EARLIER}/{long_path_key(path)}"] == path


async def test_an_upload_that_the_endpoint_forgot_is_a_failure_and_not_tried_for_ever() -> None:
    bench = Bench(tasks=1)
    bench.store.faults["complete"] = [ObjectMissingError("CompleteMultipartUpload", "k", "no such upload")]
    await gone_on(bench, 1, 2, 3)
    (failure,) = bench.failures
    assert "run again" in failure.reason
    assert bench.journal.records == {}


async def test_one_of_this_run_that_is_gone_is_an_error() -> None:
    bench = Bench(tasks=1)
    bench.store.faults["complete"] = [ObjectMissingError("CompleteMultipartUpload", "k", "no such upload")]
    upload = large(250)
    assert isinstance(await failing(bench, *parts(upload, 1, 2, 3), end(upload, 3)), ObjectMissingError)


# Further names


def copy(path: bytes = b"g", *, source: Extent | None = None, key: str = "") -> CopyPayload:
    return CopyPayload(
        entry=entry(path),
        pending=Pending.NEW,
        key=key or "files/" + path.decode(),
        source=source or Extent(run=EARLIER, key="files/f", length=7),
        first_path=b"f",
    )


async def test_a_further_name_is_a_copy_inside_the_store() -> None:
    bench = Bench()
    bench.store.objects[f"home/data/{EARLIER}/files/f"] = b"content"
    await bench.upload(copy())
    assert bench.store.objects[PREFIX + "files/g"] == b"content"
    assert bench.receipts[b"g"].entry.extent == Extent(run=RUN, key="files/g", length=7)
    assert bench.receipts[b"g"].bytes_uploaded == 0


@pytest.mark.parametrize(
    ("how", "source"),
    [
        ({"copies": False}, Extent(run=EARLIER, key="files/f", length=7)),
        ({"sealed": True}, Extent(run=EARLIER, key="files/f", length=7, encrypted=True)),
        ({}, Extent(run=EARLIER, key="files/f", length=5 * 1024**3 + 1)),
        ({}, Extent(run=EARLIER, key="files/f", length=7, encrypted=True)),
    ],
    ids=["no copies", "sealed", "over 5 GiB", "a sealed source"],
)
async def test_where_nothing_can_be_copied_the_object_names_the_first(
    how: dict[str, bool], source: Extent
) -> None:
    bench = await Bench(**how).upload(copy(source=source))
    assert bench.store.log == ["put g"]
    assert bench.store.objects[PREFIX + "files/g"] == b""
    assert bench.receipts[b"g"].entry.extent == source
    decoded = decode_metadata(bench.store.metadata[PREFIX + "files/g"], key="files/g", stored_size=0)
    assert decoded.size == 7


async def test_an_endpoint_that_turns_out_not_to_copy_is_asked_once() -> None:
    bench = Bench(tasks=1)
    bench.store.faults["copy"] = [UnsupportedError("CopyObject", "k", "not implemented")]
    await bench.upload(copy(b"g"), copy(b"h"))
    assert bench.store.all_used()
    assert bench.store.requests["copy"] == 1
    assert bench.store.log == ["put g", "put h"]
    assert set(bench.receipts) == {b"g", b"h"}


@pytest.mark.parametrize("copies", [True, False])
async def test_a_refused_further_name_is_a_failure_of_its_own(copies: bool) -> None:
    bench = Bench(tasks=1, copies=copies)
    bench.store.faults["copy" if copies else "put"] = [refusal()]
    await bench.upload(copy())
    assert bench.store.all_used()
    assert [failure.path for failure in bench.failures] == [b"g"]


@pytest.mark.parametrize("copies", [True, False])
async def test_a_further_name_with_a_long_path_gets_its_path_object(copies: bool) -> None:
    path = b"\xff" * 900
    bench = Bench(copies=copies)
    bench.store.objects[f"home/data/{EARLIER}/files/f"] = b"content"
    await bench.upload(copy(path, key=long_key(path)))
    assert bench.store.objects[PREFIX + long_path_key(path)] == path
    assert set(bench.receipts) == {path}


async def test_a_missing_source_of_a_copy_is_an_error_of_the_repository() -> None:
    bench = Bench(tasks=1)
    bench.store.faults["copy"] = [ObjectMissingError("CopyObject", "k", "no such key")]
    assert isinstance(await failing(bench, copy()), ObjectMissingError)


def test_the_limit_of_copies_is_that_of_s3() -> None:
    assert uploader_module.MAX_COPY_BYTES == 5 * 1024**3
