"""What the packer holds of the byte budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.flow.stop import StopRequest
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.model import Entry, Extent, Kind, Pending
from asyncbackup.pipeline.holdings import Holdings
from asyncbackup.pipeline.packer import Packer
from asyncbackup.pipeline.payload import PackBatch, PackItem, PackPayload, Payload
from asyncbackup.pipeline.reader import MEMBER_BYTES
from tests.unit.pipeline.readings import MIB, transfer_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asyncbackup.pipeline.results import Outcome

EXTENT = Extent(run="20260101T000000Z-0000", key="packs/000001.tar", length=7, offset=512)


class NothingKnown:
    """A catalog without contents."""

    async def find(self, digests: Sequence[bytes], *, encrypted: bool) -> dict[bytes, Extent]:
        return {}

    async def is_empty(self) -> bool:
        return True

    async def holds_size(self, size: int) -> bool:
        return False


def moved(number: int) -> PackItem:
    entry = Entry(path=b"new/%06d" % number, kind=Kind.FILE, mode=0o100644, size=7, sha256=b"s" * 32)
    return PackItem(entry=entry, pending=Pending.NEW, known=EXTENT)


def fresh(number: int, size: int) -> PackItem:
    body = b"%d " % number * (size // 2)
    entry = Entry(
        path=b"new/%06d" % number,
        kind=Kind.FILE,
        mode=0o100644,
        size=len(body),
        sha256=b"%032d" % number,
    )
    return PackItem(entry=entry, pending=Pending.NEW, body=body, bytes_read=len(body))


async def packed(tmp_path: Path, batches: Sequence[list[PackItem]], *, zstd_level: int) -> list[PackPayload]:
    """The packs of some batches; what they hold of the budget is what all of it is in use for."""
    settings = msgspec.structs.replace(
        transfer_settings(tmp_path, memory_limit_bytes=64 * MIB),
        packed=True,
        pack_size_bytes=MIB,
        zstd_level=zstd_level,
    )
    budget = ByteBudget(settings.memory_limit_bytes)
    gate = ThreadGate("pack", 2)
    packer = Packer(settings, Holdings(NothingKnown(), encrypted=False), budget, gate, StopRequest())
    batches_in: Sender[PackBatch]
    batches_in, batches_out = open_channel("batches", 1000)
    payloads_in: Sender[Payload]
    payloads: Receiver[Payload]
    payloads_in, payloads = open_channel("payloads", 1000)
    outcomes_in: Sender[Outcome]
    outcomes: Receiver[Outcome]
    outcomes_in, outcomes = open_channel("outcomes", 100_000)
    with batches_in:
        for items in batches:
            leased = sum(len(item.body) + MEMBER_BYTES for item in items)
            await budget.acquire(leased)
            await batches_in.send(PackBatch(items=items, leased=leased))
    try:
        await packer.run(batches_out, payloads_in, outcomes_in)
    finally:
        gate.close()
    found: list[PackPayload] = []
    with payloads, outcomes:
        async for payload in payloads:
            assert isinstance(payload, PackPayload)
            found.append(payload)
    assert budget.in_use_bytes == sum(pack.leased for pack in found)
    return found


@pytest.mark.parametrize("zstd_level", [0, 1])
async def test_packs_of_references_hold_what_their_lines_have(tmp_path: Path, zstd_level: int) -> None:
    """A moved tree makes nothing else; packs that wait to be sent must not be free of charge."""
    batches = [[moved(256 * batch + number) for number in range(256)] for batch in range(40)]
    packs = await packed(tmp_path, batches, zstd_level=zstd_level)
    assert len(packs) > 1
    lines = sum(pack.leased for pack in packs)
    assert lines > 10_240 * 100
    assert all(pack.leased >= pack.size * 0.9 for pack in packs)


@pytest.mark.parametrize("zstd_level", [0, 1])
@pytest.mark.parametrize("size", [10, 500])
async def test_packs_of_members_hold_no_less_than_they_have(
    tmp_path: Path, zstd_level: int, size: int
) -> None:
    """Small batches that are appended, and such that frames are made of, in turns."""
    batches = []
    for batch in range(60):
        count = 256 if batch % 3 else 5
        batches.append([fresh(1000 * batch + number, size) for number in range(count)])
    packs = await packed(tmp_path, batches, zstd_level=zstd_level)
    assert all(pack.leased >= pack.size * 0.9 for pack in packs)
    assert sum(len(pack.underway.extents) for pack in packs) == sum(map(len, batches))
