"""Manifests parsed by the process beside, which is a thread here (``tests/side.py``): the same items, and
the same errors, whatever becomes of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import FormatError
from asyncbackup.format.manifest import Deleted, ManifestTrailer
from asyncbackup.model import Pack
from asyncbackup.repository import side_parser
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.repository.manifest_upload import ManifestUpload
from asyncbackup.repository.manifests import read_manifest
from asyncbackup.repository.side_parser import ParseWorker, open_side_parsing
from asyncbackup.restore.side_writer import SLOT_BYTES, SLOTS, serve_writes
from tests.pipeline.repository_fixtures import FIRST, SECOND, header_of
from tests.pipeline.test_repository_manifests import (
    BOTH,
    entries_of,
    everything,
    file_repository,
    manifest_path,
    totals_of,
    upload,
)
from tests.side import dying_side_thread, side_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.model import Entry
    from asyncbackup.repository.open import Repository

MEMORY_BYTES = SLOTS * SLOT_BYTES


@pytest.fixture
def process() -> Iterator[SideProcess]:
    with side_thread(serve_writes, memory_bytes=MEMORY_BYTES) as process:
        yield process


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[ParseWorker]:
    """The other sides."""
    made: list[ParseWorker] = []
    begin = ParseWorker.__init__

    def noting(self: ParseWorker) -> None:
        begin(self)
        made.append(self)

    monkeypatch.setattr(ParseWorker, "__init__", noting)
    return made


@asynccontextmanager
async def parsed_beside(repository: Repository, process: SideProcess) -> AsyncIterator[Repository]:
    async with open_side_parsing(process, slot_bytes=SLOT_BYTES) as parsing:
        assert parsing is not None
        yield msgspec.structs.replace(repository, parsing=parsing)


@BOTH
async def test_the_entries_are_those_that_are_parsed_here(
    tmp_path: Path, process: SideProcess, encrypted: bool
) -> None:
    async with file_repository(tmp_path, encrypted=encrypted) as repository:
        entries = entries_of(FIRST, 30_000)
        await upload(repository, header_of(repository, FIRST), entries)
        async with parsed_beside(repository, process) as beside:
            assert await everything(beside, FIRST) == entries
    assert not process.retired


async def test_a_difference_with_deleted_paths_and_packs(tmp_path: Path, process: SideProcess) -> None:
    async with file_repository(tmp_path) as repository:
        first = entries_of(FIRST, 20_000)
        await upload(repository, header_of(repository, FIRST), first)
        header = msgspec.structs.replace(header_of(repository, SECOND), base=FIRST, depth=1)
        changes: list[Entry | Deleted] = []
        held = first[:2]
        for number, entry in enumerate(first[2:]):
            if number % 3 == 0:
                changes.append(Deleted(entry.path))
            elif number % 3 == 1:
                held.append(msgspec.structs.replace(entry, mtime_ns=5))
                changes.append(held[-1])
            else:
                held.append(entry)
        packs = [Pack(FIRST, f"packs/{number:06}.tar", number) for number in range(1, 2000)]
        async with ManifestUpload(repository, header) as manifest:
            await manifest.add(changes)
            await manifest.add_packs(packs)
            await manifest.commit(totals_of(held))
        seen: list[Pack] = []

        async def note(found: list[Pack]) -> None:
            seen.extend(found)

        async with (
            parsed_beside(repository, process) as beside,
            aclosing(read_manifest(beside, SECOND, on_packs=note)) as batches,
        ):
            assert [entry async for batch in batches for entry in batch] == held
        assert {pack.key for pack in seen} == {pack.key for pack in packs}
    assert not process.retired


async def test_a_manifest_without_entries(tmp_path: Path, process: SideProcess) -> None:
    async with file_repository(tmp_path) as repository:
        async with ManifestUpload(repository, header_of(repository, FIRST)) as manifest:
            await manifest.commit(ManifestTrailer(finished_ns=2))
        async with parsed_beside(repository, process) as beside, ManifestStream(beside, FIRST) as stream:
            assert stream.header.snapshot == FIRST
            assert [batch async for batch in stream.items()] == []
            assert stream.trailer is not None
            assert stream.trailer.finished_ns == 2


@pytest.mark.parametrize("answers", [0, 1, 2, 5])
async def test_a_process_that_dies_costs_nothing(tmp_path: Path, answers: int) -> None:
    async with file_repository(tmp_path) as repository:
        entries = entries_of(FIRST, 30_000)
        await upload(repository, header_of(repository, FIRST), entries)
        with dying_side_thread(serve_writes, memory_bytes=MEMORY_BYTES, after=answers) as process:
            async with parsed_beside(repository, process) as beside:
                assert await everything(beside, FIRST) == entries
            assert process.retired


@pytest.mark.parametrize("where", [1 / 10, 1 / 2, 9 / 10])
@pytest.mark.parametrize("damage", ["flipped", "cut"])
async def test_damage_is_the_same_error(
    tmp_path: Path, workers: list[ParseWorker], process: SideProcess, where: float, damage: str
) -> None:
    async with file_repository(tmp_path) as repository:
        await upload(repository, header_of(repository, FIRST), entries_of(FIRST, 30_000))
        stored = manifest_path(tmp_path, FIRST)
        content = bytearray(stored.read_bytes())
        place = int(len(content) * where)
        if damage == "cut":
            del content[place:]
        else:
            content[place] ^= 1
        stored.write_bytes(content)
        with pytest.raises(FormatError) as here:
            await everything(repository, FIRST)
        async with parsed_beside(repository, process) as beside:
            with pytest.raises(FormatError) as there:
                await everything(beside, FIRST)
        assert str(there.value) == str(here.value)
    assert not process.retired
    assert [worker.open for worker in workers] == [0]


async def test_times_beyond_64_bits_are_parsed_here(tmp_path: Path, process: SideProcess) -> None:
    async with file_repository(tmp_path) as repository:
        entries = entries_of(FIRST, 10_000)
        entries[9_000] = msgspec.structs.replace(entries[9_000], mtime_ns=2**65)
        await upload(repository, header_of(repository, FIRST), entries)
        async with parsed_beside(repository, process) as beside:
            assert await everything(beside, FIRST) == entries
    assert not process.retired


async def test_what_is_left_early_is_forgotten(
    tmp_path: Path, workers: list[ParseWorker], process: SideProcess
) -> None:
    async with file_repository(tmp_path) as repository:
        await upload(repository, header_of(repository, FIRST), entries_of(FIRST, 30_000))
        async with parsed_beside(repository, process) as beside:
            async with ManifestStream(beside, FIRST) as stream:
                assert stream.header.snapshot == FIRST
            (worker,) = workers
            assert worker.open == 0


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_process_that_dies_unasked_does_not_disturb_who_leaves(
    tmp_path: Path, cancelled: bool
) -> None:
    """It is told to forget the manifest, and is gone: that is nobody's error."""
    async with file_repository(tmp_path) as repository:
        await upload(repository, header_of(repository, FIRST), entries_of(FIRST, 30_000))
        with dying_side_thread(serve_writes, memory_bytes=MEMORY_BYTES, after=1) as process:
            async with parsed_beside(repository, process) as beside:
                entered = asyncio.Event()

                async def look() -> None:
                    async with ManifestStream(beside, FIRST) as stream:
                        assert stream.header.snapshot == FIRST
                        entered.set()
                        if cancelled:
                            await asyncio.Event().wait()

                looking = asyncio.create_task(look())
                await entered.wait()
                if cancelled:
                    looking.cancel()
                await asyncio.wait({looking})
                assert looking.cancelled() == cancelled
            assert process.retired


@pytest.mark.parametrize("ahead", [1, 2, 8])
async def test_however_many_requests_are_under_way(
    tmp_path: Path, process: SideProcess, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(side_parser, "AHEAD", ahead)
    async with file_repository(tmp_path) as repository:
        entries = entries_of(FIRST, 20_000)
        await upload(repository, header_of(repository, FIRST), entries)
        async with parsed_beside(repository, process) as beside:
            assert await everything(beside, FIRST) == entries


async def test_what_shrank_a_lot_comes_in_many_answers(tmp_path: Path, process: SideProcess) -> None:
    """A few kilobytes of manifest, hundreds of thousands of entries: neither side holds them all."""
    async with file_repository(tmp_path) as repository:
        alike = [
            msgspec.structs.replace(entry, sha256=bytes(32)) if entry.sha256 else entry
            for entry in entries_of(FIRST, 60_000)
        ]
        await upload(repository, header_of(repository, FIRST), alike)
        async with parsed_beside(repository, process) as beside, ManifestStream(beside, FIRST) as stream:
            sizes = [len(batch) async for batch in stream.items()]
        assert sum(sizes) == len(alike)
        assert max(sizes) < 10_000
