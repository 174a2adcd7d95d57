"""Small files written by a process beside this one (docs/design.md, "Processes beside"): both sides."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.selection import SelectedEntry, State
from asyncbackup.errors import TargetError
from asyncbackup.flow.pace import timed
from asyncbackup.flow.side_calls import SettledCalls, answer_calls, open_side_calls
from asyncbackup.flow.side_process import SideProcess, fork_side_process
from asyncbackup.repository.side_parser import ParseRequest, ParseWorker, encode_reply
from asyncbackup.restore.builder import Builder, Written
from asyncbackup.restore.content import Content
from asyncbackup.restore.metadata import Privileges
from asyncbackup.restore.outcome import ContentError, Outcome
from asyncbackup.restore.overwrite import Overwrite
from asyncbackup.restore.tree import TargetTree

if TYPE_CHECKING:
    import mmap
    import socket
    from collections.abc import AsyncIterator, Sequence

    from asyncbackup.flow.shared_slots import Slot
    from asyncbackup.flow.side_calls import SideCalls

SLOT_BYTES = 4 * 1024 * 1024
"""The contents of a batch, or of a part of a span; no small file is larger."""
SLOTS = 4


class WriteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a :class:`Builder` is made of. ``root`` is a path that leads to the very folder that this
    process has open, whatever stands at the target's path by now; ``place`` is its device and inode."""

    root: str
    place: tuple[int, int]
    target: str
    privileges: Privileges
    overwrite: Overwrite
    token: str


class WriteRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A file to be written: its content is the ``size`` bytes from ``offset`` of the memory. Where
    ``content`` is given, it is still to be checked."""

    row: SelectedEntry
    offset: int
    size: int
    content: Content | None


class WriteRequest(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="write"):
    """Files to be written. ``settings`` are given with the first one of a restore, ``last`` says that the
    target is to be let go of."""

    rows: list[WriteRow]
    settings: WriteSettings | None = None
    last: bool = False


class WrittenRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An :class:`Outcome`, without its row. With ``damaged`` the reason is what was found to differ."""

    id: int
    state: State
    reason: str
    bytes_written: int
    notes: dict[str, int]
    damaged: bool = False


class WriteReply(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What became of the files, in any order, and how long the disk was waited for. ``target_error`` is
    what every other file would meet as well; what was done before it is told all the same."""

    waited_seconds: float
    rows: list[WrittenRow]
    target_error: str = ""


def fork_writer() -> SideProcess | None:
    """The process, not yet asked anything; ``None`` where there is none. See :func:`fork_side_process`."""
    return fork_side_process(serve_writes, memory_bytes=SLOTS * SLOT_BYTES)


class SideWriter(SettledCalls[WriteSettings, WriteReply]):
    """Writes batches in the other process, one after another; contents are put into what :meth:`take` or
    :meth:`room` gives. Made by :func:`open_side_writer`."""

    def __init__(self, calls: SideCalls, settings: WriteSettings) -> None:
        super().__init__(calls, settings, WriteReply)
        self._rooms = asyncio.Semaphore(SLOTS)

    @asynccontextmanager
    async def room(self) -> AsyncIterator[Slot | None]:
        """A whole slot, for as long as the block; waits until one is free among those given so.

        ``None`` where all are in use otherwise, or the process is gone.
        """
        async with self._rooms:
            yield self.take(SLOT_BYTES)

    async def end(self) -> None:
        """Let the process let go of the target: nothing more is written."""
        if self.settled:
            await self.call(lambda settings: WriteRequest([], settings, last=True))

    async def write(self, rows: Sequence[WriteRow]) -> tuple[Written, float] | None:
        """What became of files whose contents are in the memory, and for how many seconds the disk was
        waited for; ``None`` where they are to be written here, those that were written once more.

        Raises ``TargetError``.
        """
        reply = await self.call(lambda settings: WriteRequest(list(rows), settings))
        if reply is None:
            return None
        if reply.target_error:
            raise TargetError(reply.target_error)
        by_id = {row.row.id: row.row for row in rows}
        written = Written()
        for told in reply.rows:
            row = by_id[told.id]
            if told.damaged:
                written.damaged.append((row, ContentError(told.reason, damaged=True)))
            else:
                outcome = Outcome(
                    row=row,
                    state=told.state,
                    reason=told.reason,
                    bytes_written=told.bytes_written,
                    notes=told.notes,
                )
                written.outcomes.append(outcome)
        return written, reply.waited_seconds


@asynccontextmanager
async def open_side_writer(
    process: SideProcess | None, builder: Builder, *, target: str
) -> AsyncIterator[SideWriter | None]:
    """What writes through the process as ``builder`` would; ``None`` where there is no process."""
    status = os.fstat(builder.tree.descriptor)
    settings = WriteSettings(
        place=(status.st_dev, status.st_ino),
        root=own_path(builder.tree.descriptor),
        target=target,
        privileges=builder.privileges,
        overwrite=builder.overwrite,
        token=builder.token,
    )
    async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="small files are written") as calls:
        if calls is None:
            yield None
            return
        writer = SideWriter(calls, settings)
        try:
            yield writer
        finally:
            await writer.end()


def own_path(descriptor: int) -> str:
    """Where another process finds what this one has open."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def serve_writes(sock: socket.socket, memory: mmap.mmap) -> None:
    """What the process does: parse manifests, and write batch after batch, as it is asked to. Blocks."""
    decoder: msgspec.msgpack.Decoder[WriteRequest | ParseRequest]
    decoder = msgspec.msgpack.Decoder(WriteRequest | ParseRequest)
    encoder = msgspec.msgpack.Encoder()
    parser = ParseWorker()
    builder: Builder | None = None

    def answer(request: bytearray, view: memoryview) -> bytes:
        nonlocal builder
        asked = decoder.decode(request)
        if isinstance(asked, ParseRequest):
            return encode_reply(encoder, parser.answer(asked))
        if asked.settings is not None:
            builder = _builder(asked.settings)
        assert builder is not None, "the first request has the settings"
        reply = _write(builder, asked.rows, view)
        if asked.last:
            builder.tree.close()
        return encoder.encode(reply)

    answer_calls(sock, memory, answer)


def _builder(settings: WriteSettings) -> Builder:
    root = os.open(settings.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    status = os.fstat(root)
    if (status.st_dev, status.st_ino) != settings.place:
        # /proc may be that of another namespace of processes, where the number is somebody else's.
        os.close(root)
        raise ValueError(f"{settings.root} does not lead to the target")
    return Builder(
        TargetTree(root),
        target=settings.target,
        privileges=settings.privileges,
        overwrite=settings.overwrite,
        token=settings.token,
    )


def _write(builder: Builder, rows: Sequence[WriteRow], view: memoryview) -> WriteReply:
    written = Written()

    def write() -> str:
        """Why no other file could be written either; empty where nothing says so."""
        try:
            for row in rows:
                builder.write_given(row.row, row.content, view[row.offset : row.offset + row.size], written)
        except TargetError as error:
            return str(error)
        return ""

    target_error, waited_seconds = timed(write)
    told = [WrittenRow(o.row.id, o.state, o.reason, o.bytes_written, o.notes) for o in written.outcomes]
    told += [
        WrittenRow(row.id, State.TODO, damage.reason, 0, {}, damaged=True) for row, damage in written.damaged
    ]
    return WriteReply(waited_seconds, told, target_error)
