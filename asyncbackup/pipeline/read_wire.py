"""What travels between the process that reads and the one that sends (docs/design.md, "Processes beside").

Messages are MessagePack. Contents stay where they were read to, in memory that both processes see; a
message says where. What was made of a content (frames) travels in the message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.model import Change, Entry, Extent, Failure, Pending, UploadReceipt
from asyncbackup.pipeline.payload import CopyPayload, PackItem, WholePayload
from asyncbackup.pipeline.results import Unchanged
from asyncbackup.pipeline.small_reader import Arena, SmallResults
from asyncbackup.pipeline.transfer_settings import ReadSettings

if TYPE_CHECKING:
    from asyncbackup.store.base import Buffer


class ReadRequest(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="read"):
    """A batch to be read to ``offset`` of the shared memory, where ``room_bytes`` are free. ``settings``
    are given with the first one of a transfer; what is asked about the batch later names its ``number``."""

    number: int
    offset: int
    room_bytes: int
    changes: list[Change]
    settings: ReadSettings | None = None


class WireBody(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """``length`` bytes from ``offset`` of the batch's memory, or ``inline`` where ``offset`` is -1."""

    offset: int
    length: int
    inline: bytes = b""


class WireWhole(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A :class:`WholePayload` that is no stand-in."""

    entry: Entry
    pending: Pending
    key: str
    metadata: dict[str, str]
    body: WireBody
    body_sha256: bytes
    encrypted: bool
    leased: int
    bytes_read: int
    compression: str


class WireItem(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A :class:`PackItem`."""

    entry: Entry
    pending: Pending
    body: WireBody
    bytes_read: int
    known: Extent | None
    link_to: bytes
    whole: WireWhole | None


class ReadReply(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a batch gave, as :class:`SmallResults`, and how long the reader waited for the disk."""

    waited_seconds: float = 0.0
    wholes: list[WireWhole] = []
    copies: list[CopyPayload] = []
    items: list[WireItem] = []
    receipts: list[UploadReceipt] = []
    unchanged: list[Unchanged] = []
    failures: list[Failure] = []
    grown: list[Change] = []


def reply_of(results: SmallResults, arena: Arena, *, waited_seconds: float) -> ReadReply:
    """What to answer with."""
    reply = ReadReply(waited_seconds, [], [], [], [], [], [], results.grown)
    for payload in results.payloads:
        match payload:
            case WholePayload():
                reply.wholes.append(_wire_whole(payload, arena))
            case CopyPayload():
                reply.copies.append(payload)
            case _:
                raise TypeError(f"small files lead to no {type(payload).__name__}")
    for item in results.items:
        whole = None if item.whole is None else _wire_whole(item.whole, arena)
        body = _wire_body(item.body, arena)
        reply.items.append(
            WireItem(item.entry, item.pending, body, item.bytes_read, item.known, item.link_to, whole)
        )
    for outcome in results.outcomes:
        match outcome:
            case UploadReceipt():
                reply.receipts.append(outcome)
            case Unchanged():
                reply.unchanged.append(outcome)
            case Failure():
                reply.failures.append(outcome)
            case _:
                raise TypeError(f"small files lead to no {type(outcome).__name__}")
    return reply


def results_of(reply: ReadReply, view: memoryview) -> SmallResults:
    """What :func:`reply_of` was given; ``view`` is the batch's memory."""
    results = SmallResults()
    results.payloads = [_whole(whole, view) for whole in reply.wholes]
    results.payloads += reply.copies
    results.items = [
        PackItem(
            entry=item.entry,
            pending=item.pending,
            body=_body(item.body, view),
            bytes_read=item.bytes_read,
            known=item.known,
            link_to=item.link_to,
            whole=None if item.whole is None else _whole(item.whole, view),
        )
        for item in reply.items
    ]
    results.outcomes = [*reply.receipts, *reply.unchanged, *reply.failures]
    results.grown = reply.grown
    return results


def _wire_whole(payload: WholePayload, arena: Arena) -> WireWhole:
    return WireWhole(
        payload.entry,
        payload.pending,
        payload.key,
        dict(payload.metadata),
        _wire_body(payload.body, arena),
        payload.body_sha256,
        payload.encrypted,
        payload.leased,
        payload.bytes_read,
        payload.compression,
    )


def _whole(whole: WireWhole, view: memoryview) -> WholePayload:
    return WholePayload(
        entry=whole.entry,
        pending=whole.pending,
        key=whole.key,
        metadata=whole.metadata,
        body=_body(whole.body, view),
        body_sha256=whole.body_sha256,
        encrypted=whole.encrypted,
        leased=whole.leased,
        bytes_read=whole.bytes_read,
        compression=whole.compression,
    )


def _wire_body(body: Buffer, arena: Arena) -> WireBody:
    offset = arena.offset_of(body)
    return WireBody(offset, len(body)) if offset >= 0 else WireBody(-1, len(body), bytes(body))


def _body(body: WireBody, view: memoryview) -> Buffer:
    return body.inline if body.offset < 0 else view[body.offset : body.offset + body.length]
