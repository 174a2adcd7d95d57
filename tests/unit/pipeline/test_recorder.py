"""The recorder: rows in the right order, figures that add up, failures that are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.errors import CatalogError
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.model import Entry, Failure, Kind, Pending, RunCounters, UploadReceipt
from asyncbackup.pipeline import recorder as recorder_module
from asyncbackup.pipeline.recorder import Recorder
from asyncbackup.pipeline.results import Buried, Outcome, Revived, Unchanged
from tests.unit.catalog.entries import IDENTITY, entry, fill, pending_of
from tests.unit.flow.turns import settle


class Sink:
    """Notes the calls. ``hold`` makes saving wait; ``saved`` is set by it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.hold: asyncio.Event | None = None
        self.saved = asyncio.Event()

    async def save(self, entries: Iterable[tuple[Entry, Pending]]) -> None:
        self.calls.append(("save", len(list(entries))))
        self.saved.set()
        if self.hold is not None:
            await self.hold.wait()

    async def bury(self, paths: Iterable[tuple[bytes, bool]]) -> int:
        self.calls.append(("bury", len(found := list(paths))))
        return len(found)

    async def revive(self, paths: Iterable[bytes]) -> None:
        self.calls.append(("revive", len(list(paths))))


def receipt(path: bytes, pending: Pending = Pending.NEW, *, kind: Kind = Kind.FILE) -> UploadReceipt:
    return UploadReceipt(entry=entry(path, kind), pending=pending, bytes_read=10, bytes_uploaded=5)


def channel() -> tuple[Sender[Outcome], Receiver[Outcome]]:
    return open_channel("outcomes", 100_000)


async def record(recorder: Recorder, *outcomes: Outcome) -> None:
    sender, receiver = channel()
    with sender:
        await sender.send_all(outcomes)
    await recorder.run(receiver)


async def test_figures_of_every_outcome() -> None:
    counters = RunCounters()
    recorder = Recorder(Sink(), counters)
    failed = Failure(path=b"f", reason="cannot read")
    unlisted = Failure(path=b"d", reason="cannot list", kind=Kind.FOLDER)
    await record(
        recorder,
        receipt(b"1"),
        receipt(b"2"),
        receipt(b"3", Pending.CHANGED),
        receipt(b"4", kind=Kind.FOLDER),
        receipt(b"5", kind=Kind.SYMLINK),
        Unchanged(entry=entry(b"6"), pending=Pending.COMMITTED, bytes_read=7),
        Unchanged(entry=entry(b"7"), pending=Pending.NEW, bytes_read=7),
        Unchanged(entry=entry(b"8"), pending=Pending.CHANGED, bytes_read=7),
        failed,
        unlisted,
        Buried(path=b"9", subtree=True),
        Revived(path=b"10"),
    )
    assert (counters.files_new, counters.files_changed, counters.files_unchanged) == (3, 2, 1)
    assert (counters.files_failed, counters.files_deleted, counters.bytes_read) == (1, 1, 71)
    assert recorder.failures == [failed, unlisted]


async def test_burials_come_before_what_takes_their_place() -> None:
    sink = Sink()
    await record(
        Recorder(sink, RunCounters()), receipt(b"a"), Revived(path=b"r"), Buried(path=b"a", subtree=True)
    )
    assert sink.calls == [("bury", 1), ("revive", 1), ("save", 1)]


async def test_what_arrives_while_one_transaction_is_written_makes_the_next() -> None:
    sink = Sink()
    sink.hold = asyncio.Event()
    sender, receiver = channel()
    task = asyncio.create_task(Recorder(sink, RunCounters()).run(receiver))
    first = recorder_module.BATCH_OUTCOMES
    await sender.send_all(receipt(b"%d" % number) for number in range(first))
    await settle()
    await sender.send_all(receipt(b"%d" % number) for number in range(first, first + 30))
    sink.hold.set()
    sender.close()
    await task
    assert sink.calls == [("save", first), ("save", 30)]


async def test_no_transaction_is_larger_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "BATCH_OUTCOMES", 10)
    sink = Sink()
    await record(Recorder(sink, RunCounters()), *(receipt(b"%d" % number) for number in range(25)))
    assert sink.calls == [("save", 10), ("save", 10), ("save", 5)]


async def test_a_few_receipts_wait_a_moment_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "GATHER_SECONDS", 3600.0)
    sink = Sink()
    sender, receiver = channel()
    task = asyncio.create_task(Recorder(sink, RunCounters()).run(receiver))
    for number in range(10):
        await sender.send(receipt(b"%d" % number))
        await settle()
    assert sink.calls == []
    sender.close()
    await task
    assert sink.calls == [("save", 10)]


async def test_where_few_requests_are_under_way_fewer_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder_module, "GATHER_SECONDS", 3600.0)
    sink = Sink()
    sender, receiver = channel()
    task = asyncio.create_task(Recorder(sink, RunCounters(), gather=2).run(receiver))
    await sender.send_all((receipt(b"0"), receipt(b"1")))
    await sink.saved.wait()
    sender.close()
    await task
    assert sink.calls == [("save", 2)]


async def test_a_few_receipts_do_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "GATHER_SECONDS", 0.001)
    sink = Sink()
    sender, receiver = channel()
    task = asyncio.create_task(Recorder(sink, RunCounters()).run(receiver))
    await sender.send(receipt(b"0"))
    await sink.saved.wait()
    sender.close()
    await task
    assert sink.calls == [("save", 1)]


async def test_without_outcomes_nothing_is_written() -> None:
    sink = Sink()
    await record(Recorder(sink, RunCounters()))
    await record(Recorder(sink, RunCounters()), Failure(path=b"f", reason="cannot read"))
    assert sink.calls == []


async def test_of_very_many_failures_all_are_counted_and_some_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "KEPT_FAILURES", 3)
    counters = RunCounters()
    recorder = Recorder(Sink(), counters)
    await record(recorder, *(Failure(path=b"%d" % number, reason="x") for number in range(10)))
    assert counters.files_failed == 10
    assert [failure.path for failure in recorder.failures] == [b"0", b"1", b"2"]


async def test_a_catalog_that_cannot_be_written_ends_the_run() -> None:
    class Full(Sink):
        async def save(self, entries: Iterable[tuple[Entry, Pending]]) -> None:
            raise CatalogError("no space left")

    with pytest.raises(CatalogError):
        await record(Recorder(Full(), RunCounters()), receipt(b"a"))


async def test_with_a_real_catalog_a_folder_that_became_a_file(tmp_path: Path) -> None:
    async with Catalog.create(tmp_path / "home.sqlite3", IDENTITY) as catalog:
        await fill(catalog, b"", b"x/", b"x/a", b"x/b/", b"x/b/c", b"x-y", b"back")
        await catalog.entries.bury([(b"back", False)])
        counters = RunCounters()
        await record(
            Recorder(catalog.entries, counters),
            Buried(path=b"x", subtree=True),
            Revived(path=b"back"),
            receipt(b"x", Pending.CHANGED),
            Unchanged(entry=entry(b"x-y"), pending=Pending.COMMITTED, bytes_read=1),
        )
        assert await pending_of(catalog) == {
            b"": Pending.COMMITTED,
            b"back": Pending.CHANGED,
            b"x": Pending.CHANGED,
            b"x-y": Pending.COMMITTED,
            b"x/a": Pending.DELETED,
            b"x/b": Pending.DELETED,
            b"x/b/c": Pending.DELETED,
        }
        assert counters.files_deleted == 2
        saved = await catalog.entries.get(b"x")
        assert saved is not None
        assert saved.kind is Kind.FILE
