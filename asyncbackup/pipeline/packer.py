"""The packer: batches of small entries in, packs out; present only where a section is packed.

One task, one open pack: where everything lies is then plain, and beside it
others read, make frames (``framing.py``), seal and send. A content that the
section holds already is not packed again; the entry becomes a reference in the
pack's comments.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from asyncbackup.format.frames import FrameCompressor
from asyncbackup.format.keys import pack_key
from asyncbackup.format.pack_builder import BuiltPack, PackBuilder, likeness
from asyncbackup.model import ZSTD, Entry, Extent, Failure, Kind, UploadReceipt
from asyncbackup.pipeline.framing import Framing, Member
from asyncbackup.pipeline.payload import PackBatch, PackItem, PackPayload, Payload
from asyncbackup.pipeline.side_packer import FrameRoom
from asyncbackup.pipeline.underway import PackUnderway, Sharer, Underway

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncbackup.flow.budget import ByteBudget
    from asyncbackup.flow.channel import Receiver, Sender
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.pipeline.framing import Made
    from asyncbackup.pipeline.holdings import Holdings
    from asyncbackup.pipeline.results import Outcome
    from asyncbackup.pipeline.side_packer import SidePacker
    from asyncbackup.pipeline.transfer_settings import TransferSettings

MEMBERS_PER_PACK = 8192
"""Until a pack is acknowledged about 2 KB of memory belong to each of its members: of the tiniest files
40,000 would fit. A batch is never divided, so a pack may have some more."""
PATH_BYTES_PER_PACK = 8 * 1024 * 1024
"""And the paths of its members: ten thousand folders deep they have tens of kilobytes each."""
WORTH_A_FRAME_BYTES = 256 * 1024
"""Of less, a frame of its own is not worth it: it is appended to the one that is open."""
MOST_BYTES = 4 * 1024 * 1024
"""Nor is it made beside others if it has more: a pack must not exceed its size by much."""
MOST_JOBS = 4
CONTENT_NOT_SAVED = "the content under another name of it could not be saved"


class _Job(NamedTuple):
    """Members whose frames are being made. ``leased`` is what they took from the budget."""

    members: Sequence[Member]
    leased: int
    task: asyncio.Task[Made]


class _OpenPack:
    """A pack that is being built. ``entries`` are its members, by index."""

    __slots__ = ("builder", "copies", "entries", "firsts", "jobs", "leased", "path_bytes", "room", "underway")

    def __init__(self, key: str, builder: PackBuilder, *, compression: str) -> None:
        self.builder = builder
        self.underway = PackUnderway(key, compression)
        self.entries: list[Entry] = []
        self.firsts: dict[bytes, int] = {}
        """Members with further names, by path, that a link may be made to."""
        self.copies: dict[bytes, list[int]] = {}
        """Of a content that several members have, for want of likeness, all of these."""
        self.leased = 0
        """What the pack holds of the budget, the jobs apart."""
        self.jobs: deque[_Job] = deque()
        self.path_bytes = 0
        self.room = FrameRoom()


class Packer:
    """Builds packs. ``run`` is called by one task."""

    def __init__(
        self,
        settings: TransferSettings,
        holdings: Holdings,
        budget: ByteBudget,
        gate: ThreadGate,
        stop: StopRequest,
        side: SidePacker | None = None,
    ) -> None:
        """``side`` makes frames of what it has read, if it is there."""
        self._side = side
        self._settings = settings
        self._holdings = holdings
        self._budget = budget
        self._gate = gate
        self._stop = stop
        self._built = 0
        self._leased = self._kept = 0
        """What all members so far took from the budget, and what of it they kept once they were packed."""
        self._compressor = FrameCompressor(level=settings.zstd_level) if settings.zstd_level else None

    async def run(
        self, batches: Receiver[PackBatch], payloads: Sender[Payload], outcomes: Sender[Outcome]
    ) -> None:
        """Work until the batches end; once a stop is requested, take them and pack nothing."""
        with batches, payloads, outcomes:
            async with asyncio.TaskGroup() as group:
                framing = Framing(self._gate, group, self._side, zstd_level=self._settings.zstd_level)
                pack = self._open()
                async for batch in batches:
                    if self._stop.requested:
                        self._budget.release(batch.leased + sum(_whole_lease(item) for item in batch.items))
                        continue
                    await self._pack(batch, pack, framing, payloads, outcomes)
                    if self._is_full(pack):
                        await self._finish(pack, payloads)
                        pack = self._open()
                await self._settle(pack)
                if self._stop.requested or pack.builder.empty:
                    self._budget.release(pack.leased)
                else:
                    await self._finish(pack, payloads)

    def _is_full(self, pack: _OpenPack) -> bool:
        # What is still being made is taken to shrink as much as what was made.
        coming = sum(job.leased for job in pack.jobs)
        if coming and self._leased:
            coming = coming * self._kept // self._leased
        return (
            pack.builder.size + coming >= self._settings.pack_size_bytes
            or len(pack.entries) >= MEMBERS_PER_PACK
            or pack.path_bytes >= PATH_BYTES_PER_PACK
        )

    def _open(self) -> _OpenPack:
        level = self._settings.zstd_level
        return _OpenPack(
            pack_key(self._built + 1, compressed=level > 0),
            PackBuilder(zstd_level=level, compressor=self._compressor),
            compression=ZSTD if level else "",
        )

    async def _pack(
        self,
        batch: PackBatch,
        pack: _OpenPack,
        framing: Framing,
        payloads: Sender[Payload],
        outcomes: Sender[Outcome],
    ) -> None:
        held = await self._holdings.find(
            [item.entry.sha256 for item in batch.items if item.known is None and item.entry.size]
        )
        members: list[Member] = []
        references: list[Entry] = []
        for position, item in enumerate(batch.items):
            if (extent := item.known or self._held(item, held)) is not None:
                self._budget.release(_whole_lease(item))
                entry = msgspec.structs.replace(item.entry, extent=extent)
                references.append(entry)
                await outcomes.send(
                    UploadReceipt(entry=entry, pending=item.pending, bytes_read=item.bytes_read)
                )
            elif item.link_to and item.link_to in pack.firsts:
                members.append(Member(item.entry, position, link_to=item.link_to))
                pack.entries.append(item.entry)
                self._wait(pack.underway, item, pack.firsts[item.link_to])
            elif item.entry.size and (recent := self._recent(item, pack)) is not None:
                self._budget.release(_whole_lease(item))
                await self._share(item, position, *recent, pack, members, references, outcomes)
            elif item.whole is not None:
                underway = Underway()
                self._holdings.expect(item.entry.sha256, underway)
                await payloads.send(msgspec.structs.replace(item.whole, underway=underway))
            elif item.link_to and item.entry.size:
                await outcomes.send(Failure(path=item.entry.path, reason=CONTENT_NOT_SAVED))
            else:
                self._append(item, position, pack, members)
        pack.path_bytes += sum(len(entry.path) for entry in references)
        pack.path_bytes += sum(len(member.entry.path) for member in members)
        while pack.jobs and pack.jobs[0].task.done():
            await self._settle(pack, down_to=len(pack.jobs) - 1)
        leased = batch.leased
        if references:
            before = pack.builder.size
            await self._gate.run(_add_references, pack.builder, references)
            # What their lines have belongs to the pack, out of what was taken for their headers.
            taken = min(leased, pack.builder.size - before)
            leased -= taken
            pack.leased += taken
        if not members:
            self._budget.release(leased)
        elif WORTH_A_FRAME_BYTES <= leased <= min(MOST_BYTES, self._settings.pack_size_bytes // 4):
            await self._settle(pack, down_to=MOST_JOBS - 1)
            task = await framing.begin(members, batch.number, pack.room, most_bytes=batch.leased)
            pack.jobs.append(_Job(members, leased, task))
        else:
            await self._settle(pack)
            before = pack.builder.size
            await self._gate.run(_append_all, pack.builder, members)
            self._keep(pack, leased, pack.builder.size - before)

    async def _settle(self, pack: _OpenPack, *, down_to: int = 0) -> None:
        """Append what is being made, in its order, until no more than so many jobs are left."""
        while len(pack.jobs) > down_to:
            members, leased, task = pack.jobs.popleft()
            made = await task
            before = pack.builder.size
            # In a thread: a frame that was left open before is finished first.
            await self._gate.run(
                pack.builder.add_frames, [(member.entry, member.link_to) for member in members], *made
            )
            self._keep(pack, leased, pack.builder.size - before)
            del members, task, made

    def _keep(self, pack: _OpenPack, leased: int, grown: int) -> None:
        """From here on the pack holds what it grew by, compressed; the rest is free again."""
        # Where a frame was finished it has shrunk, by more than was leased if its headers had very long
        # paths.
        kept = max(min(leased, grown), -pack.leased)
        self._budget.release(leased - kept)
        pack.leased += kept
        self._leased += leased
        self._kept += kept

    def _held(self, item: PackItem, held: Mapping[bytes, Extent]) -> Extent | None:
        entry = item.entry
        return held.get(entry.sha256) if entry.kind is Kind.FILE and entry.size else None

    def _recent(self, item: PackItem, pack: _OpenPack) -> tuple[Underway, int] | None:
        """The content of this run that ``item`` may share; in the open pack, that of a member that is alike.

        A copy is a link there: who extracts it, perhaps as root, must not
        give the owner and mode of one file to another.
        """
        recent = self._holdings.recent(item.entry.sha256)
        if recent is None or recent[0] is not pack.underway:
            return recent
        _, newest = recent
        wanted = likeness(item.entry)
        for index in pack.copies.get(item.entry.sha256, (newest,)):
            if likeness(pack.entries[index]) == wanted:
                return pack.underway, index
        return recent if item.link_to else None

    def _append(self, item: PackItem, position: int, pack: _OpenPack, members: list[Member]) -> None:
        members.append(Member(item.entry, position, item.body))
        entry, index = item.entry, len(pack.entries)
        pack.entries.append(entry)
        self._wait(pack.underway, item, index)
        if entry.kind is Kind.FILE:
            if entry.size:
                earlier = self._holdings.recent(entry.sha256)
                if earlier is not None and earlier[0] is pack.underway:
                    pack.copies.setdefault(entry.sha256, [earlier[1]]).append(index)
                self._holdings.expect(entry.sha256, pack.underway, index)
            if entry.hardlink:
                pack.firsts[entry.path] = index

    async def _share(
        self,
        item: PackItem,
        position: int,
        underway: Underway,
        index: int,
        pack: _OpenPack,
        members: list[Member],
        references: list[Entry],
        outcomes: Sender[Outcome],
    ) -> None:
        """Let an entry share a content of this run, in the open pack or in something sent before."""
        if underway is pack.underway:
            # A link in the archive, so that whoever extracts it has the file; marked as a copy.
            members.append(Member(item.entry, position, link_to=pack.entries[index].path, copy=True))
            pack.entries.append(item.entry)
        elif underway.extents:
            extent = underway.extents[index]
            references.append(msgspec.structs.replace(item.entry, extent=extent))
        if (outcome := self._wait(underway, item, index)) is not None:
            await outcomes.send(outcome)

    def _wait(self, underway: Underway, item: PackItem, index: int) -> UploadReceipt | Failure | None:
        return underway.share(
            Sharer(entry=item.entry, pending=item.pending, bytes_read=item.bytes_read, index=index)
        )

    async def _finish(self, pack: _OpenPack, payloads: Sender[Payload]) -> None:
        await self._settle(pack)
        settings, underway = self._settings, pack.underway
        self._built += 1

        def extent(offset: int, length: int, skip: int) -> Extent:
            return Extent(
                run=settings.run,
                key=underway.key,
                offset=offset,
                length=length,
                skip=skip,
                encrypted=settings.sealed,
                compression=underway.compression,
            )

        def build() -> tuple[BuiltPack, tuple[Extent, ...]]:
            # Of what is sealed, only the sealed bytes' digest is sent along.
            built = pack.builder.finish(digest=not settings.sealed)
            return built, tuple(extent(p.offset, p.length, p.skip) for p in built.placements)

        built, underway.extents = await self._gate.run(build)
        await payloads.send(
            PackPayload(
                underway=underway,
                body=built.body,
                size=built.size,
                body_sha256=built.sha256,
                encrypted=settings.sealed,
                leased=pack.leased,
            )
        )


def _add_references(builder: PackBuilder, entries: Sequence[Entry]) -> None:
    for entry in entries:
        builder.add_reference(entry)


def _append_all(builder: PackBuilder, members: Sequence[Member]) -> None:
    for member in members:
        builder.add(member.entry, member.body, link_to=member.link_to, copy=member.copy)


def _whole_lease(item: PackItem) -> int:
    return item.whole.leased if item.whole is not None else 0
