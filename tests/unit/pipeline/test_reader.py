"""The reader: large files part by part within the budget, files that move, stops and resumed uploads."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.flow.buffers import SpareBuffers
from asyncbackup.flow.stop import StopRequest
from asyncbackup.model import Action, Entry, Extent, UploadReceipt
from asyncbackup.pipeline import attributes
from asyncbackup.pipeline.large_reader import open_large
from asyncbackup.pipeline.payload import AbandonUpload, PartPayload, Payload, UploadEnd, WholePayload
from asyncbackup.pipeline.reader import KEPT_CHANGING, READ_ATTEMPTS
from asyncbackup.pipeline.results import Unchanged
from asyncbackup.resume import PartRecord, ResumableUpload
from tests.unit.flow.turns import settle
from tests.unit.pipeline.readings import MIB, RUN, Reading, see, transfer_settings, upload

if TYPE_CHECKING:
    from asyncbackup.pipeline.transfer_settings import TransferSettings

PART = 5 * MIB
EARLIER = "20260101T000000Z-0000"


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


class Meddling(Reading):
    """Does something when a payload was taken, in order; the next is asked for afterwards."""

    def __init__(self, root: Path, *actions: Callable[[], object], **settings: object) -> None:
        super().__init__(transfer_settings(root, **settings))  # type: ignore[arg-type]
        self.actions = list(actions)

    async def took(self, payload: Payload) -> None:
        if self.actions:
            self.actions.pop(0)()
        await super().took(payload)


def kinds(payloads: list[Payload]) -> list[str]:
    """``1``, ``2``, … for parts, ``end``, ``abandon``, ``whole``."""
    words = {UploadEnd: "end", AbandonUpload: "abandon", WholePayload: "whole"}
    return [str(p.number) if isinstance(p, PartPayload) else words[type(p)] for p in payloads]


def ended(reading: Reading) -> UploadEnd:
    end = reading.payloads[-1]
    assert isinstance(end, UploadEnd)
    return end


def content_of(reading: Reading) -> bytes:
    return b"".join(bytes(p.body) for p in reading.payloads if isinstance(p, PartPayload))


def large(root: Path, size: int = 12 * MIB + 3, name: str = "large") -> bytes:
    content = os.urandom(size)
    (root / name).write_bytes(content)
    return content


def append(path: Path, data: bytes = b"!") -> None:
    with path.open("ab") as file:
        file.write(data)


class Dropping(Reading):
    """Takes payloads as an uploader does, which lets go of their bodies."""

    def __init__(self, settings: TransferSettings) -> None:
        super().__init__(settings)
        self.content = hashlib.sha256()
        self.made = 0

    async def took(self, payload: Payload) -> None:
        if isinstance(payload, PartPayload):
            self.content.update(payload.body)
        await super().took(payload)
        self.payloads.clear()
        self.made = self.buffers.made


# Large files


@pytest.mark.parametrize(
    ("size", "parts"),
    [(PART + 1, [PART, 1]), (2 * PART, [PART, PART]), (12 * MIB, [PART, PART, 2 * MIB])],
)
async def test_a_large_file_comes_in_parts(tmp_path: Path, size: int, parts: list[int]) -> None:
    content = large(tmp_path, size)
    reading = await Reading(transfer_settings(tmp_path)).read(upload(see(tmp_path, b"large")))
    assert kinds(reading.payloads) == [*map(str, range(1, len(parts) + 1)), "end"]
    sent = [p for p in reading.payloads if isinstance(p, PartPayload)]
    assert [len(part.body) for part in sent] == [part.leased for part in sent] == parts
    assert content_of(reading) == content
    for part in sent:
        assert part.sha256 == hashlib.sha256(part.body).digest()
    end = ended(reading)
    assert (end.entry.sha256, end.entry.size) == (hashlib.sha256(content).digest(), size)
    assert (end.part_count, end.bytes_read) == (len(parts), size)
    assert len({part.upload for part in sent} | {end.upload}) == 1
    assert (end.upload.part_size, end.upload.stored_size, end.upload.run) == (PART, size, RUN)
    assert reading.budget.in_use_bytes == 0


async def test_a_large_file_is_read_into_memory_that_is_used_again(tmp_path: Path) -> None:
    content = large(tmp_path, 40 * PART)
    reading = Dropping(transfer_settings(tmp_path))
    await reading.read(upload(see(tmp_path, b"large")))
    assert reading.content.digest() == hashlib.sha256(content).digest()
    # One is being taken, one waits in the channel, one for a place there, and one is being read.
    assert 1 <= reading.buffers.made <= 4
    reading.buffers.take(PART)
    assert reading.buffers.made > reading.made, "nothing is kept once no large file is read"


async def test_a_file_of_exactly_one_part_is_sent_whole(tmp_path: Path) -> None:
    large(tmp_path, PART)
    reading = await Reading(transfer_settings(tmp_path)).read(upload(see(tmp_path, b"large")))
    assert kinds(reading.payloads) == ["whole"]


async def test_no_part_is_read_before_its_bytes_are_granted(tmp_path: Path) -> None:
    large(tmp_path, 20 * MIB)

    class Keeping(Reading):
        async def took(self, payload: Payload) -> None:
            assert self.budget.in_use_bytes <= 10 * MIB
            if isinstance(payload, PartPayload):
                await settle()  # the reader goes on as far as the budget lets it
                assert self.budget.in_use_bytes <= 10 * MIB
                self.budget.release(payload.leased)

    reading = Keeping(transfer_settings(tmp_path, memory_limit_bytes=10 * MIB))
    await reading.read(upload(see(tmp_path, b"large")))
    assert kinds(reading.payloads) == ["1", "2", "3", "4", "end"]
    assert reading.budget.peak_bytes == 10 * MIB


async def test_a_file_over_what_the_budget_can_cut_is_a_failure_that_says_so(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10_000 * 6 * MIB)
    reading = Reading(transfer_settings(tmp_path, memory_limit_bytes=PART))
    await reading.read(upload(see(tmp_path, b"huge")))
    assert reading.payloads == []
    assert "raise memory_limit" in reading.failures[b"huge"]


@pytest.mark.parametrize(
    ("meddle", "reason"),
    [
        (append, "longer"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "shorter"),
        (lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)), "kept changing"),
        (lambda path: path.chmod(path.stat().st_mode ^ 0o100), "kept changing"),
    ],
    ids=["grows", "shrinks", "is touched", "is chmodded"],
)
async def test_a_file_that_changes_between_its_parts_is_given_up_and_read_again(
    tmp_path: Path, meddle: Callable[[Path], object], reason: str
) -> None:
    large(tmp_path)
    path = tmp_path / "large"
    reading = Meddling(tmp_path, lambda: meddle(path))
    await reading.read(upload(see(tmp_path, b"large")))
    assert reading.failures == {}
    gave_up = kinds(reading.payloads).index("abandon")
    again = kinds(reading.payloads)[gave_up + 1 :]
    assert again[0] == "1"
    assert again[-1] == "end"
    end = ended(reading)
    assert end.entry.sha256 == hashlib.sha256(path.read_bytes()).digest()
    assert end.entry.mode == path.stat().st_mode
    abandoned = reading.payloads[gave_up]
    assert isinstance(abandoned, AbandonUpload)
    assert abandoned.upload is not end.upload
    assert reading.budget.in_use_bytes == 0

    always = Meddling(tmp_path, *[lambda: meddle(path)] * 50)
    await always.read(upload(see(tmp_path, b"large")))
    assert kinds(always.payloads).count("abandon") == READ_ATTEMPTS
    assert "end" not in kinds(always.payloads)
    assert reason in always.failures[b"large"]
    assert always.budget.in_use_bytes == 0


@pytest.mark.parametrize("size", [0, 1, PART])
async def test_a_large_file_that_shrank_before_it_was_opened_is_sent_whole(tmp_path: Path, size: int) -> None:
    """A log that was truncated, for example: an upload of no part at all would be refused."""
    large(tmp_path)
    change = upload(see(tmp_path, b"large"))
    os.truncate(tmp_path / "large", size)
    reading = await Reading(transfer_settings(tmp_path)).read(change)
    assert kinds(reading.payloads) == ["whole"]
    assert reading.wholes[b"large"].entry.size == size
    assert reading.failures == {}
    assert reading.budget.in_use_bytes == 0


@pytest.mark.parametrize("size", [100, PART + 1])
async def test_a_small_file_that_grew_is_read_with_the_room_it_needs(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(b"x")
    change = upload(see(tmp_path, b"f"))
    large(tmp_path, size, "f")
    reading = await Reading(transfer_settings(tmp_path)).read(change)
    assert kinds(reading.payloads) == (["whole"] if size == 100 else ["1", "2", "end"])
    assert reading.failures == {}
    assert reading.budget.in_use_bytes == 0


async def test_a_small_file_that_grows_before_every_reading_is_a_failure_in_the_end(tmp_path: Path) -> None:
    """A busy log: it grows whenever the reader has asked for the bytes that it had."""
    path = tmp_path / "log"
    path.write_bytes(b"x")
    reading = Reading(transfer_settings(tmp_path))
    real, readings = reading.budget.acquire, 0

    async def acquire(size_bytes: int) -> int:
        nonlocal readings
        readings += 1
        append(path)
        return await real(size_bytes)

    object.__setattr__(reading.reader, "_budget", BudgetThatTells(reading.budget, acquire))
    await reading.read(upload(see(tmp_path, b"log")))
    assert reading.failures == {b"log": KEPT_CHANGING}
    assert readings == READ_ATTEMPTS
    assert reading.budget.in_use_bytes == 0


class BudgetThatTells:
    """A budget with another ``acquire``."""

    def __init__(self, budget: object, acquire: object) -> None:
        self._budget = budget
        self.acquire = acquire

    def __getattr__(self, name: str) -> object:
        return getattr(self._budget, name)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda path: None, "No such file"),
        (os.mkfifo, "no regular file any more"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to("/dev/zero"), "symbolic links"),
    ],
    ids=["vanished", "FIFO", "folder", "symlink"],
)
async def test_another_thing_in_place_of_a_large_file_is_a_failure_and_never_blocks(
    tmp_path: Path, how: Callable[[Path], object], reason: str
) -> None:
    large(tmp_path)
    change = upload(see(tmp_path, b"large"))
    (tmp_path / "large").unlink()
    how(tmp_path / "large")
    reading = await Reading(transfer_settings(tmp_path)).read(change)
    assert reason in reading.failures[b"large"]
    assert reading.payloads == []
    assert reading.budget.in_use_bytes == 0


async def test_a_large_file_keeps_its_attributes(tmp_path: Path) -> None:
    large(tmp_path)
    os.setxattr(tmp_path / "large", "user.a", b"1")
    reading = await Reading(transfer_settings(tmp_path)).read(upload(see(tmp_path, b"large")))
    assert ended(reading).entry.xattrs == ((b"user.a", b"1"),)


async def test_a_racy_ctime_of_a_large_file_is_saved_as_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 10**18)
    large(tmp_path)
    reading = await Reading(transfer_settings(tmp_path)).read(upload(see(tmp_path, b"large")))
    assert ended(reading).entry.ctime_ns == 0


async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    large(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    await Meddling(tmp_path, *[lambda: append(tmp_path / "large")] * 20).read(upload(see(tmp_path, b"large")))
    assert len(os.listdir("/proc/self/fd")) == before


# Rechecking


def saved(root: Path, name: bytes, content: bytes) -> Entry:
    """The row of an earlier run that saved the file as it is now, and does not know its ctime."""
    seen = see(root, name)
    return Entry(
        path=name,
        kind=seen.kind,
        mode=seen.mode,
        size=len(content),
        mtime_ns=seen.mtime_ns,
        ctime_ns=0,
        uid=seen.uid,
        gid=seen.gid,
        nlink=1,
        owner=attributes.owner_name(seen.uid),
        group=attributes.group_name(seen.gid),
        sha256=hashlib.sha256(content).digest(),
        extent=Extent(run=EARLIER, key="files/large", length=len(content)),
    )


async def test_a_large_file_found_the_same_is_not_sent(tmp_path: Path) -> None:
    content = large(tmp_path)
    row = saved(tmp_path, b"large", content)
    reading = Reading(transfer_settings(tmp_path))
    await reading.read(upload(see(tmp_path, b"large"), action=Action.RECHECK, known=row))
    (outcome,) = reading.outcomes
    assert isinstance(outcome, Unchanged)
    assert outcome.bytes_read == len(content)
    assert outcome.entry.ctime_ns == see(tmp_path, b"large").ctime_ns
    assert reading.payloads == []
    assert reading.budget.in_use_bytes == 0


async def test_a_large_file_with_other_content_is_sent(tmp_path: Path) -> None:
    row = saved(tmp_path, b"large", large(tmp_path))
    content = large(tmp_path)
    reading = Reading(transfer_settings(tmp_path))
    await reading.read(upload(see(tmp_path, b"large"), action=Action.RECHECK, known=row))
    assert kinds(reading.payloads) == ["1", "2", "3", "end"]
    assert content_of(reading) == content
    assert reading.outcomes == []


async def test_a_large_file_of_another_size_is_not_read_twice(tmp_path: Path) -> None:
    row = saved(tmp_path, b"large", large(tmp_path))
    change = upload(see(tmp_path, b"large"), action=Action.RECHECK, known=row)
    large(tmp_path, 11 * MIB)
    reading = Reading(transfer_settings(tmp_path))
    await reading.read(change)
    assert kinds(reading.payloads) == ["1", "2", "3", "end"]


async def test_a_large_file_with_other_attributes_and_the_same_content_is_recorded_only(
    tmp_path: Path,
) -> None:
    row = saved(tmp_path, b"large", large(tmp_path))
    os.setxattr(tmp_path / "large", "user.a", b"1")
    reading = Reading(transfer_settings(tmp_path))
    await reading.read(upload(see(tmp_path, b"large"), action=Action.RECHECK, known=row))
    (outcome,) = reading.outcomes
    assert isinstance(outcome, UploadReceipt)
    assert outcome.entry.extent == row.extent
    assert outcome.entry.xattrs == ((b"user.a", b"1"),)


# Going on with an earlier upload


def journal(root: Path, content: bytes, numbers: tuple[int, ...], **changes: object) -> ResumableUpload:
    seen = see(root, b"large")
    parts = tuple(
        PartRecord(
            number=number,
            size=len(body := content[(number - 1) * PART : number * PART]),
            etag=f"e{number}",
            sha256=hashlib.sha256(body).digest(),
        )
        for number in numbers
    )
    upload = ResumableUpload(
        path=b"large",
        run=EARLIER,
        key="files/large",
        upload_id="u1",
        part_size=PART,
        size=len(content),
        mtime_ns=seen.mtime_ns,
        ctime_ns=seen.ctime_ns,
        parts=parts,
    )
    return msgspec.structs.replace(upload, **changes)


async def gone_on(root: Path, record: ResumableUpload, **settings: object) -> Reading:
    how = transfer_settings(root, resumable={b"large": record}, **settings)  # type: ignore[arg-type]
    return await Reading(how).read(upload(see(root, b"large")))


@pytest.mark.parametrize(
    ("done", "sent"), [((), "123"), ((1,), "23"), ((2,), "13"), ((1, 2), "3"), ((1, 2, 3), "")]
)
async def test_only_missing_parts_are_sent(tmp_path: Path, done: tuple[int, ...], sent: str) -> None:
    content = large(tmp_path)
    reading = await gone_on(tmp_path, journal(tmp_path, content, done))
    assert kinds(reading.payloads) == [*sent, "end"]
    end = ended(reading)
    assert (end.part_count, end.entry.sha256) == (3, hashlib.sha256(content).digest())
    assert (end.upload.run, end.upload.key, end.upload.upload_id) == (EARLIER, "files/large", "u1")
    assert set(end.upload.parts) == set(done)
    assert reading.budget.in_use_bytes == 0


async def test_the_part_size_of_the_earlier_upload_is_kept(tmp_path: Path) -> None:
    content = large(tmp_path)
    reading = await gone_on(tmp_path, journal(tmp_path, content, (1,)), part_size_bytes=6 * MIB)
    assert kinds(reading.payloads) == ["2", "3", "end"]
    assert ended(reading).upload.part_size == PART


@pytest.mark.parametrize("changes", [{"size": 1}, {"mtime_ns": 1}, {"ctime_ns": 1}])
async def test_an_upload_of_another_version_is_not_gone_on_with(
    tmp_path: Path, changes: dict[str, int]
) -> None:
    content = large(tmp_path)
    reading = await gone_on(tmp_path, journal(tmp_path, content, (1,), **changes))
    assert kinds(reading.payloads) == ["1", "2", "3", "end"]
    assert ended(reading).upload.upload_id is None


async def test_parts_larger_than_the_budget_of_today_are_not_gone_on_with(tmp_path: Path) -> None:
    content = large(tmp_path, 24 * MIB)
    record = journal(tmp_path, content, (), part_size=11 * MIB)
    reading = await gone_on(tmp_path, record, memory_limit_bytes=10 * MIB)
    assert reading.failures == {}
    assert kinds(reading.payloads) == ["1", "2", "3", "4", "5", "end"]
    assert ended(reading).upload.upload_id is None


async def test_a_part_that_differs_from_what_was_sent_begins_the_upload_again(tmp_path: Path) -> None:
    """Its times are the same, its content is not: a write whose times were put back."""
    content = large(tmp_path)
    record = journal(tmp_path, bytes([content[0] ^ 1]) + content[1:], (1, 2))
    reading = await gone_on(tmp_path, record)
    assert kinds(reading.payloads) == ["abandon", "1", "2", "3", "end"]
    abandoned = reading.payloads[0]
    assert isinstance(abandoned, AbandonUpload)
    assert abandoned.upload.upload_id == "u1", "it is aborted"
    assert ended(reading).upload.upload_id is None
    assert content_of(reading) == content


# Stopping, refusing, cancelling


async def test_a_stop_reads_nothing_more_and_drains_the_changes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    stop = StopRequest()
    stop.request()
    reading = Reading(transfer_settings(tmp_path), stop=stop)
    await reading.run([[upload(see(tmp_path, b"a"))], [upload(see(tmp_path, b"b"))]])
    assert reading.payloads == []
    assert reading.outcomes == []


async def test_a_stop_in_a_large_file_ends_after_the_part_and_is_no_failure(tmp_path: Path) -> None:
    large(tmp_path, 30 * MIB)
    stop = StopRequest()

    class Stopping(Reading):
        async def took(self, payload: Payload) -> None:
            stop.request()
            await super().took(payload)

    reading = Stopping(transfer_settings(tmp_path), stop=stop)
    await reading.read(upload(see(tmp_path, b"large")))
    assert kinds(reading.payloads)[:1] == ["1"]
    assert len(reading.payloads) <= 3, "what was read already may come"
    assert "end" not in kinds(reading.payloads)
    assert "abandon" not in kinds(reading.payloads), "the next run goes on with it"
    assert reading.outcomes == []
    assert reading.budget.in_use_bytes == 0


async def test_a_stop_does_not_wait_until_what_was_sent_before_is_read_again(tmp_path: Path) -> None:
    content = large(tmp_path, 30 * MIB)
    stop = StopRequest()
    record = journal(tmp_path, content, (1, 2, 3, 4, 5))
    reading = Reading(transfer_settings(tmp_path, resumable={b"large": record}), stop=stop)
    real, blocks = reading.budget.acquire, 0

    async def acquire(size_bytes: int) -> int:
        nonlocal blocks
        blocks += 1
        if blocks == 2:
            stop.request()
        return await real(size_bytes)

    object.__setattr__(reading.reader, "_budget", BudgetThatTells(reading.budget, acquire))
    await reading.read(upload(see(tmp_path, b"large")))
    assert blocks == 2
    assert reading.payloads == []
    assert reading.outcomes == []


async def test_once_the_endpoint_refused_the_upload_the_rest_is_not_read(tmp_path: Path) -> None:
    large(tmp_path, 60 * MIB)

    class Refusing(Reading):
        async def took(self, payload: Payload) -> None:
            if isinstance(payload, PartPayload):
                payload.upload.abandoned = True  # as the uploader does, which also tells of it
            await super().took(payload)

    reading = Refusing(transfer_settings(tmp_path))
    await reading.read(upload(see(tmp_path, b"large")))
    assert kinds(reading.payloads)[-1] == "abandon", "whoever seals the parts forgets the upload"
    assert len(reading.payloads) <= 4
    assert reading.outcomes == [], "it was told of once already"
    assert reading.budget.in_use_bytes == 0


async def test_a_refused_file_that_changes_as_well_is_not_read_again(tmp_path: Path) -> None:
    large(tmp_path, 15 * MIB)

    class Refusing(Reading):
        async def took(self, payload: Payload) -> None:
            if isinstance(payload, PartPayload) and payload.number == 1:
                await settle()  # the reader has sent the second part and waits for the bytes of the first
                payload.upload.abandoned = True
                os.truncate(tmp_path / "large", 11 * MIB)
            await super().took(payload)

    reading = Refusing(transfer_settings(tmp_path, memory_limit_bytes=10 * MIB))
    await reading.read(upload(see(tmp_path, b"large")))
    assert kinds(reading.payloads) == ["1", "2", "abandon"]
    assert reading.outcomes == []
    assert reading.budget.in_use_bytes == 0


class BusyThread:
    """The one thread in which files are opened and closed, kept busy: calls wait in line for it."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        executor = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        self.busy = executor.submit(self.go_on.wait, 30)


@pytest.mark.parametrize("moment", ["opening", "closing"])
async def test_cancelled_while_a_file_is_opened_or_closed_it_does_not_stay_open(
    tmp_path: Path, moment: str
) -> None:
    """A call that waits for its thread is dropped by a cancellation, one that runs goes on unheard."""
    large(tmp_path)
    reading = Reading(transfer_settings(tmp_path))
    before = open_files(tmp_path)
    if moment == "opening":
        thread = BusyThread()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with open_large(
            os.fsencode(tmp_path), see(tmp_path, b"large"), reading.gate, SpareBuffers(keep=1)
        ):
            entered.set()
            await leave.wait()

    task = asyncio.create_task(hold())
    if moment == "closing":
        await entered.wait()
        thread = BusyThread()
        leave.set()
    await settle()
    task.cancel()
    await settle()
    thread.go_on.set()
    await asyncio.wait({task})
    assert task.cancelled()
    assert entered.is_set() == (moment == "closing")
    assert open_files(tmp_path) == before == []
    reading.gate.close()


def open_files(root: Path) -> list[str]:
    """Files below ``root`` that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [target for target in found if target.startswith(str(root))]


# Batches


async def test_small_files_are_read_together_and_the_budget_comes_back(tmp_path: Path) -> None:
    names = [b"%03d" % number for number in range(100)]
    for name in names:
        (tmp_path / name.decode()).write_bytes(name * 100)
    reading = Reading(transfer_settings(tmp_path))
    await reading.read(*(upload(see(tmp_path, name)) for name in names))
    assert [p.entry.path for p in reading.payloads if isinstance(p, WholePayload)] == names
    assert reading.gate.hops == 1
    assert reading.budget.in_use_bytes == 0
    assert reading.budget.peak_bytes == 30_000


async def test_a_batch_is_cut_where_a_quarter_of_the_budget_is_reached(tmp_path: Path) -> None:
    names = [b"%03d" % number for number in range(8)]
    for name in names:
        (tmp_path / name.decode()).write_bytes(bytes(MIB))
    reading = Reading(transfer_settings(tmp_path, memory_limit_bytes=12 * MIB))
    await reading.read(*(upload(see(tmp_path, name)) for name in names))
    assert reading.gate.hops == 3, "3 + 3 + 2"
    assert len(reading.wholes) == 8


async def test_several_tasks_share_the_batches_and_every_entry_comes_once(tmp_path: Path) -> None:
    names = [b"%03d" % number for number in range(60)]
    for name in names:
        (tmp_path / name.decode()).write_bytes(name)
    large(tmp_path)
    changes = [upload(see(tmp_path, name)) for name in [*names, b"large"]]
    reading = Reading(transfer_settings(tmp_path))
    await reading.run([changes[begin : begin + 7] for begin in range(0, 61, 7)], tasks=4)
    assert set(reading.wholes) == set(names)
    assert len(reading.wholes) == len([p for p in reading.payloads if isinstance(p, WholePayload)])
    assert sum(isinstance(p, UploadEnd) for p in reading.payloads) == 1
    assert reading.budget.in_use_bytes == 0


async def test_files_that_vanish_give_their_bytes_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))
    (tmp_path / "b").write_bytes(bytes(1000))
    changes = [upload(see(tmp_path, name)) for name in (b"a", b"b")]
    (tmp_path / "a").unlink()
    os.truncate(tmp_path / "b", 10)
    reading = await Reading(transfer_settings(tmp_path)).read(*changes)
    assert set(reading.failures) == {b"a"}
    assert reading.wholes[b"b"].leased == 10
    assert reading.budget.in_use_bytes == 0
