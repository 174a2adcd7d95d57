"""Small files are written many at a time, and nobody waits for the bytes of a batch that is not full."""

from __future__ import annotations

import asyncio

import pytest

from asyncbackup.catalog.selection import Role, SelectedEntry, State
from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.channel import Receiver, open_channel
from asyncbackup.restore.batches import BATCH_BYTES, BATCH_FILES, Batches
from asyncbackup.restore.builder import FetchedFile
from asyncbackup.restore.content import Content
from tests.unit.flow.turns import settle
from tests.unit.restore.backup import file_entry


def file_of(size: int) -> FetchedFile:
    content = Content("home/data/x", 0, size, size)
    row = SelectedEntry(1, State.TODO, Role.FILE, False, None, file_entry("f", size=size))
    return FetchedFile(row, content, [bytes(size)])


class Writers:
    def __init__(self, *, limit_bytes: int) -> None:
        self.budget = ByteBudget(limit_bytes)
        self._receiver: Receiver[list[FetchedFile]]
        sender, self._receiver = open_channel("batches", 10)
        self.batches = Batches(sender, self.budget)

    async def received(self) -> list[int]:
        """How many files each batch has that was sent by now."""
        return [len(await self._receiver.receive()) for _ in range(len(self._receiver))]


@pytest.mark.parametrize(("size", "count"), [(10, BATCH_FILES), (BATCH_BYTES // 4, 4)])
async def test_a_batch_is_sent_when_it_is_full(size: int, count: int) -> None:
    writers = Writers(limit_bytes=100 * BATCH_BYTES)
    for _ in range(2 * count + 1):
        assert await writers.batches.lease(size) == size
        await writers.batches.add(file_of(size))
    assert await writers.received() == [count, count]
    await writers.batches.send()
    await writers.batches.send()
    assert await writers.received() == [1]


async def test_whoever_waits_for_bytes_first_sends_on_what_holds_them() -> None:
    writers = Writers(limit_bytes=100)
    for _ in range(3):
        await writers.batches.lease(30)
        await writers.batches.add(file_of(30))
    assert await writers.received() == []
    waiting = asyncio.create_task(writers.batches.lease(30))
    await settle()
    assert await writers.received() == [3]
    assert not waiting.done()
    writers.budget.release(30)
    assert await waiting == 30


async def test_a_file_that_comes_while_somebody_waits_is_sent_on_at_once() -> None:
    writers = Writers(limit_bytes=100)
    await writers.batches.lease(80)
    waiting = asyncio.create_task(writers.budget.acquire(50))
    await settle()
    await writers.batches.add(file_of(80))
    assert await writers.received() == [1]
    writers.budget.release(80)
    assert await waiting == 50
