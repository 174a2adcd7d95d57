"""The encryptor: seals bodies in a bounded executor; present only where a section is encrypted.

Small bodies are sealed together in one thread hop. The parts of one upload
are one message and sealed in their order; the message is longer than its
plaintext, so what exceeds a part is carried over into the next, and every part
but the last has the same size.
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
    CopyPayload,
    LargeUpload,
    PackPayload,
    PartPayload,
    Payload,
    UploadEnd,
    WholePayload,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.format.keyslots import RepositoryKey
    from asyncbackup.pipeline.transfer_settings import TransferSettings

BATCH_PAYLOADS = 64
KEPT_PACKS = 1
"""Buffers of a sealed pack that are used again, where the endpoint takes packs as fast as they come."""


class _Message:
    """The sealing of one multipart upload.

    ``waiting`` holds its payloads in the order in which they were received,
    whichever task received them; each task that holds ``turn`` takes the first.
    """

    __slots__ = ("carry", "leased", "number", "sealer", "taken", "turn", "waiting")

    def __init__(self, sealer: Sealer) -> None:
        self.sealer = sealer
        self.carry = bytearray(sealer.start())
        self.leased = 0
        self.number = 0
        self.taken = 0
        self.turn = asyncio.Lock()
        self.waiting: deque[PartPayload | UploadEnd | AbandonUpload] = deque()


class Encryptor:
    """Seals payloads. ``run`` is called by several tasks at once."""

    def __init__(self, settings: TransferSettings, key: RepositoryKey, gate: ThreadGate) -> None:
        self._settings = settings
        self._key = key
        self._gate = gate
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
                # While this task waits for more it must not hold on to what it has passed on.
                del items

    async def _seal(self, items: Sequence[Payload], sealed: Sender[Payload]) -> None:
        wholes = [item for item in items if isinstance(item, WholePayload) and item.encrypted]
        packs = [item for item in items if isinstance(item, PackPayload)]
        # Lined up before anything is waited for, or another task might overtake.
        messages = [
            self._line_up(item) for item in items if isinstance(item, PartPayload | UploadEnd | AbandonUpload)
        ]
        for item in items:
            if isinstance(item, CopyPayload) or (isinstance(item, WholePayload) and not item.encrypted):
                await sealed.send(item)
        if wholes:
            await sealed.send_all(await self._gate.run(self._seal_wholes, wholes))
        for pack in packs:
            await sealed.send(await self._gate.run(self._seal_pack, pack))
        for message in messages:
            await self._seal_next(message, sealed)

    def _seal_wholes(self, wholes: Sequence[WholePayload]) -> list[WholePayload]:
        done: list[WholePayload] = []
        for payload in wholes:
            sealer = self._sealer(payload.key, UNKNOWN_SIZE if payload.skip else len(payload.body))
            body = bytearray(sealer.start())
            body += sealer.update(payload.body)
            body += sealer.finalize()
            done.append(
                msgspec.structs.replace(payload, body=body, body_sha256=hashlib.sha256(body).digest())
            )
        return done

    def _seal_pack(self, pack: PackPayload) -> PackPayload:
        sealer = self._sealer(pack.underway.key, pack.size)
        pieces = [pack.body] if isinstance(pack.body, bytes | bytearray | memoryview) else pack.body
        # One buffer for all of it, with room for what an update could give at most.
        view = self.sealed_packs.take(sealed_size(pack.size) + sealer.room_for(0))
        head = sealer.start()
        view[: len(head)] = head
        filled = len(head)
        for piece in pieces:
            filled += sealer.update_into(piece, view[filled:])
        tail = sealer.finalize()
        view[filled : filled + len(tail)] = tail
        filled += len(tail)
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
                    await sealed.send_all(await self._gate.run(_seal_part, message, item))
                case UploadEnd():
                    if item.part_count != message.taken:
                        raise RuntimeError(f"the end of {item.upload.key!r} came before its parts")
                    await sealed.send_all(await self._gate.run(_seal_end, message, item.upload))
                    await sealed.send(msgspec.structs.replace(item, part_count=message.number))
                case AbandonUpload():
                    await sealed.send(msgspec.structs.replace(item, leased=item.leased + message.leased))


def _seal_part(message: _Message, part: PartPayload) -> list[PartPayload]:
    message.carry += message.sealer.update(part.body)
    message.leased += part.leased
    return _cut(message, part.upload)


def _seal_end(message: _Message, upload: LargeUpload) -> list[PartPayload]:
    message.carry += message.sealer.finalize()
    parts = _cut(message, upload)
    if message.carry:
        parts.append(_next_part(message, upload, len(message.carry)))
    return parts


def _cut(message: _Message, upload: LargeUpload) -> list[PartPayload]:
    parts: list[PartPayload] = []
    while len(message.carry) >= upload.part_size:
        parts.append(_next_part(message, upload, upload.part_size))
    return parts


def _next_part(message: _Message, upload: LargeUpload, size: int) -> PartPayload:
    """The first ``size`` bytes of what was sealed. It takes along all that was leased so far:
    what is carried over is shorter than a chunk."""
    body = message.carry[:size]
    del message.carry[:size]
    message.number += 1
    leased, message.leased = message.leased, 0
    return PartPayload(
        upload=upload,
        number=message.number,
        body=body,
        sha256=hashlib.sha256(body).digest(),
        leased=leased,
    )
