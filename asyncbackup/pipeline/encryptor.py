"""The encryptor: seals bodies in a bounded executor; present only where a section is encrypted.

Small bodies are sealed on the loop itself, which takes less than giving them to
a thread and taking the interpreter's lock from it again; larger ones together
in one thread hop. The parts of one upload are one message and sealed in their
order; the message is longer than its plaintext, so what exceeds a part is
carried over into the next, and every part but the last has the same size. What
was sealed is let go at once: beside its plaintext stands only what is just
being sealed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.flow.buffers import SpareBuffers
from asyncbackup.flow.channel import EndOfChannel, Receiver, Sender
from asyncbackup.format.envelope import UNKNOWN_SIZE, Sealer, sealed_size
from asyncbackup.pipeline.payload import (
    AbandonUpload,
    LargeUpload,
    PackPayload,
    PartPayload,
    Payload,
    UploadEnd,
    WholePayload,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.format.keyslots import RepositoryKey
    from asyncbackup.pipeline.transfer_settings import TransferSettings
    from asyncbackup.store.base import Buffer

BATCH_PAYLOADS = 16
HERE_BYTES = 256 * 1024
"""Bodies that have no more together are sealed on the loop, in a tenth of a millisecond or two."""
HOP_BYTES = 4 * 1024 * 1024
"""Bodies that are sealed in one hop have at most so many bytes together."""
PIECE_BYTES = 256 * 1024
"""A large body is sealed in such pieces, each of them hashed while it is still in the processor's cache."""
KEPT_PACKS = 1
"""Buffers of a sealed pack that are used again, where the endpoint takes packs as fast as they come."""


class _Message:
    """The sealing of one multipart upload.

    ``waiting`` holds its payloads in the order in which they were received,
    whichever task received them; each task that holds ``turn`` takes the first.
    ``part`` is the buffer of the part that is being filled, ``filled`` bytes of
    it, and ``digest`` theirs; without one, ``carry`` is what it will begin with.
    """

    __slots__ = (
        "carry",
        "digest",
        "filled",
        "leased",
        "number",
        "part",
        "sealer",
        "taken",
        "turn",
        "waiting",
    )

    def __init__(self, sealer: Sealer) -> None:
        self.sealer = sealer
        self.carry = sealer.start()
        self.part: memoryview | None = None
        self.filled = 0
        self.digest = hashlib.sha256()
        self.leased = 0
        self.number = 0
        self.taken = 0
        self.turn = asyncio.Lock()
        self.waiting: deque[PartPayload | UploadEnd | AbandonUpload] = deque()


class Encryptor:
    """Seals payloads, parts into ``buffers``. ``run`` is called by several tasks at once."""

    def __init__(
        self, settings: TransferSettings, key: RepositoryKey, gate: ThreadGate, buffers: SpareBuffers
    ) -> None:
        self._settings = settings
        self._key = key
        self._gate = gate
        self._buffers = buffers
        self._messages: dict[LargeUpload, _Message] = {}
        self.sealed_packs = SpareBuffers(keep=KEPT_PACKS)

    async def run(self, payloads: Receiver[Payload], sealed: Sender[Payload]) -> None:
        """Work until the payloads end."""
        with payloads, sealed:
            while True:
                try:
                    items = await payloads.receive_some(BATCH_PAYLOADS)
                except EndOfChannel:
                    return
                await self._seal(items, sealed)

    async def _seal(self, items: list[Payload], sealed: Sender[Payload]) -> None:
        """Seal ``items`` and empty the list: nothing shall hold a body on that was passed on."""
        wholes: list[WholePayload] = []
        packs: list[PackPayload] = []
        others: list[Payload] = []
        messages: list[_Message] = []
        # Lined up before anything is waited for, or another task might overtake.
        for item in items:
            match item:
                case PartPayload() | UploadEnd() | AbandonUpload():
                    messages.append(self._line_up(item))
                case PackPayload():
                    packs.append(item)
                case WholePayload() if item.encrypted:
                    wholes.append(item)
                case _:
                    others.append(item)
        items.clear()
        del item
        await sealed.send_all(others)
        wholes.reverse()
        while wholes:
            await self._seal_some(wholes, sealed)
        packs.reverse()
        while packs:
            await sealed.send(await self._gate.run(self._seal_pack, packs.pop()))
        for message in messages:
            await self._seal_next(message, sealed)

    async def _seal_some(self, wholes: list[WholePayload], sealed: Sender[Payload]) -> None:
        """Seal as many of the last of ``wholes`` as one hop takes, and take them out."""
        batch = [wholes.pop()]
        size = len(batch[0].body)
        while wholes and size + len(wholes[-1].body) <= HOP_BYTES:
            size += len(wholes[-1].body)
            batch.append(wholes.pop())
        if size <= HERE_BYTES:
            done = self._seal_wholes(batch)
        else:
            done = await self._gate.run(self._seal_wholes, batch)
        del batch
        await sealed.send_all(done)

    def _seal_wholes(self, wholes: Sequence[WholePayload]) -> list[WholePayload]:
        done: list[WholePayload] = []
        for payload in wholes:
            size = len(payload.body)
            sealer = self._sealer(payload.key, UNKNOWN_SIZE if payload.skip else size)
            body = bytearray(sealed_size(size) + sealer.room_for(0))
            with memoryview(body) as view:
                filled = _seal_into(view, sealer, [payload.body])
            stored = memoryview(body)[:filled]
            done.append(
                msgspec.structs.replace(payload, body=stored, body_sha256=hashlib.sha256(stored).digest())
            )
        return done

    def _seal_pack(self, pack: PackPayload) -> PackPayload:
        sealer = self._sealer(pack.underway.key, pack.size)
        pieces = [pack.body] if isinstance(pack.body, bytes | bytearray | memoryview) else pack.body
        # One buffer for all of it, with room for what an update could give at most.
        view = self.sealed_packs.take(sealed_size(pack.size) + sealer.room_for(0))
        filled = _seal_into(view, sealer, pieces)
        stored = view[:filled]
        return msgspec.structs.replace(
            pack, body=stored, size=filled, body_sha256=hashlib.sha256(stored).digest()
        )

    def _sealer(self, key: str, size: int) -> Sealer:
        settings = self._settings
        return Sealer(
            self._key,
            repository=settings.repository,
            section=settings.section,
            object_key=settings.object_key(key),
            size=size,
        )

    def _line_up(self, item: PartPayload | UploadEnd | AbandonUpload) -> _Message:
        upload = item.upload
        message = self._messages.get(upload)
        if message is None:
            size = UNKNOWN_SIZE if upload.compression or upload.head else upload.entry.size
            message = _Message(self._sealer(upload.key, size))
            self._messages[upload] = message
        message.waiting.append(item)
        if not isinstance(item, PartPayload):
            del self._messages[upload]  # nothing comes after an end
        return message

    async def _seal_next(self, message: _Message, sealed: Sender[Payload]) -> None:
        async with message.turn:
            item = message.waiting.popleft()
            match item:
                case PartPayload():
                    message.taken += 1
                    if item.number != message.taken:
                        # Sealed, it would be authentic, and the file another.
                        raise RuntimeError(f"part {item.number} of {item.upload.key!r} came out of order")
                    parts = await self._gate.run(self._seal_part, message, item)
                    del item
                    await sealed.send_all(parts)
                case UploadEnd():
                    if item.part_count != message.taken:
                        raise RuntimeError(f"the end of {item.upload.key!r} came before its parts")
                    await sealed.send_all(await self._gate.run(self._seal_end, message, item.upload))
                    await sealed.send(msgspec.structs.replace(item, part_count=message.number))
                case AbandonUpload():
                    await sealed.send(msgspec.structs.replace(item, leased=item.leased + message.leased))

    def _seal_part(self, message: _Message, part: PartPayload) -> list[PartPayload]:
        message.leased += part.leased
        parts: list[PartPayload] = []
        # What one piece becomes is always less than a part, so no more than that is carried over.
        piece_size = min(PIECE_BYTES, part.upload.part_size // 4)
        with memoryview(part.body) as body:
            for begin in range(0, len(body), piece_size):
                with body[begin : begin + piece_size] as piece:
                    buffer = self._buffer(message, part.upload)
                    count = message.sealer.update_into(piece, buffer[message.filled :])
                parts += self._count(message, part.upload, count)
        return parts

    def _seal_end(self, message: _Message, upload: LargeUpload) -> list[PartPayload]:
        tail = message.sealer.finalize()
        buffer = self._buffer(message, upload)
        buffer[message.filled : message.filled + len(tail)] = tail
        parts = self._count(message, upload, len(tail))
        if message.carry:
            self._buffer(message, upload)
        if message.filled:
            parts.append(self._cut(message, upload, message.filled))
        return parts

    def _buffer(self, message: _Message, upload: LargeUpload) -> memoryview:
        """The buffer of the message's part, with room for one piece more than the part has."""
        if message.part is None:
            room = upload.part_size + message.sealer.room_for(PIECE_BYTES)
            message.part = self._buffers.take(room)
            carry, message.carry = message.carry, b""
            message.part[: len(carry)] = carry
            message.filled = len(carry)
            message.digest = hashlib.sha256(carry)
        return message.part

    def _count(self, message: _Message, upload: LargeUpload, count: int) -> list[PartPayload]:
        """``count`` bytes more were sealed; the part that they made whole, if they did."""
        buffer = message.part
        assert buffer is not None
        begin = message.filled
        message.filled += count
        message.digest.update(buffer[begin : min(message.filled, upload.part_size)])
        return [self._cut(message, upload, upload.part_size)] if message.filled >= upload.part_size else []

    def _cut(self, message: _Message, upload: LargeUpload, size: int) -> PartPayload:
        """The first ``size`` bytes of the buffer. They take along all that was leased so far: what is
        carried over is shorter than a piece."""
        buffer = message.part
        assert buffer is not None
        message.carry = bytes(buffer[size : message.filled])
        message.part, message.filled = None, 0
        message.number += 1
        leased, message.leased = message.leased, 0
        return PartPayload(
            upload=upload,
            number=message.number,
            body=buffer[:size],
            sha256=message.digest.digest(),
            leased=leased,
        )


def _seal_into(view: memoryview, sealer: Sealer, pieces: Iterable[Buffer]) -> int:
    """Seal a whole object into ``view``; returns how many bytes it has."""
    head = sealer.start()
    view[: len(head)] = head
    filled = len(head)
    for piece in pieces:
        filled += sealer.update_into(piece, view[filled:])
    tail = sealer.finalize()
    view[filled : filled + len(tail)] = tail
    return filled + len(tail)
