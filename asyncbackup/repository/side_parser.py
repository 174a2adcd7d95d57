"""Manifests parsed by a process beside this one (docs/design.md, "Processes beside"): both sides.

The other process gets the opened plaintext, no key, and answers with the items. A request may bring
along some plaintext and takes some items, so that neither side ever holds more than a few chunks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import FormatError
from asyncbackup.flow.side_calls import open_side_calls
from asyncbackup.format.manifest import Deleted, Item, ManifestHeader, ManifestReader, ManifestTrailer
from asyncbackup.model import Entry, Pack
from asyncbackup.repository.manifest_parser import ParserLostError, take_some

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from asyncbackup.flow.side_calls import SideCalls
    from asyncbackup.flow.side_process import SideProcess

AHEAD = 4
"""Requests under way for one manifest that is read alone, once its first items came: others are answered
while the items of one are used."""
BATCHES_PER_REPLY = 2
"""Some 1,400 entries."""


class ParseRequest(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="parse"):
    """Some items of the manifest with this number, after taking ``data`` in. ``last`` says that nothing
    follows, and ``forget`` that nothing more will be asked."""

    number: int
    name: str
    data: bytes
    last: bool = False
    forget: bool = False


class ParsedDeleted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A deleted path, and behind how many entries of the answer it stands."""

    behind: int
    path: bytes


class ParseReply(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The items, packs last. ``more`` says that others are there already. ``error`` is what is wrong with
    the manifest; with ``refused`` something in it cannot be said here."""

    entries: list[Entry] = []
    deleted: list[ParsedDeleted] = []
    packs: list[Pack] = []
    more: bool = False
    header: ManifestHeader | None = None
    trailer: ManifestTrailer | None = None
    error: str = ""
    refused: bool = False


class SideParsing:
    """Makes parsers that ask the process."""

    def __init__(self, calls: SideCalls) -> None:
        self._calls = calls
        self._numbers = 0

    def parser(self, name: str, *, alone: bool) -> SideParser | None:
        """A parser, unless the process has failed."""
        if not self._calls.usable:
            return None
        self._numbers += 1
        return SideParser(self._calls, self._numbers, name, ahead=AHEAD if alone else 1)


class SideParser:
    """Parses one manifest. Raises :class:`ParserLostError` where the process does not."""

    def __init__(self, calls: SideCalls, number: int, name: str, *, ahead: int) -> None:
        self._ahead = ahead
        self.header: ManifestHeader | None = None
        self.trailer: ManifestTrailer | None = None
        self._calls = calls
        self._number = number
        self._name = name
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ParseReply)

    async def items(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[list[Item], None]:
        """As :meth:`~asyncbackup.repository.manifest_parser.ManifestParser.items`."""
        asked: deque[asyncio.Task[ParseReply]] = deque()
        more = ended = False
        ahead = 1  # whoever wants the header alone waits for no more than that takes
        try:
            async with aclosing(chunks):
                while True:
                    while len(asked) < ahead and not ended:
                        # What is there already comes first, or it would pile up on the other side.
                        data = b"" if more else await anext(chunks, None)
                        ended = data is None
                        asked.append(asyncio.create_task(self._ask(data or b"", last=ended)))
                        more = False
                    if not asked:
                        break
                    reply = await asked.popleft()
                    more, ahead = reply.more, self._ahead
                    if ended and more and not asked:
                        asked.append(asyncio.create_task(self._ask(b"", last=True)))
                    self.header = self.header or reply.header
                    if items := _items(reply):
                        yield items
                    self.trailer = reply.trailer
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            if self.trailer is None and self._calls.usable:
                with suppress(ParserLostError):
                    await self._ask(b"", forget=True)

    async def _ask(self, data: bytes, *, last: bool = False, forget: bool = False) -> ParseReply:
        request = ParseRequest(self._number, self._name, data, last, forget)
        answer = await self._calls.ask(self._encoder.encode(request))
        if answer is None:
            raise ParserLostError
        reply = self._decoder.decode(answer)
        if reply.refused:
            raise ParserLostError
        if reply.error:
            raise FormatError(reply.error)
        return reply


@asynccontextmanager
async def open_side_parsing(
    process: SideProcess | None, *, slot_bytes: int
) -> AsyncIterator[SideParsing | None]:
    """What has manifests parsed by the process, whose memory is divided so; ``None`` without one."""
    async with open_side_calls(process, slot_bytes=slot_bytes, what="manifests are read") as calls:
        yield None if calls is None else SideParsing(calls)


class ParseWorker:
    """Answers requests, those of several manifests among each other."""

    def __init__(self) -> None:
        self._manifests: dict[int, _Parse] = {}

    @property
    def open(self) -> int:
        """Manifests of which more may be asked."""
        return len(self._manifests)

    def answer(self, asked: ParseRequest) -> ParseReply:
        """What became of a request."""
        if asked.forget:
            self._manifests.pop(asked.number, None)
            return ParseReply()
        manifest = self._manifests.get(asked.number)
        if manifest is None:
            manifest = self._manifests[asked.number] = _Parse(asked.name)
        try:
            reply = manifest.take(asked.data, last=asked.last)
        except FormatError as error:
            self._manifests.pop(asked.number)
            return ParseReply(error=str(error))
        if reply.trailer is not None:
            del self._manifests[asked.number]
        return reply


def encode_reply(encoder: msgspec.msgpack.Encoder, reply: ParseReply) -> bytes:
    """The answer as it is sent: refused, where a time does not fit 64 bits."""
    try:
        return encoder.encode(reply)
    except OverflowError:
        return encoder.encode(ParseReply(refused=True))


class _Parse:
    def __init__(self, name: str) -> None:
        self._reader = ManifestReader(name=name)
        self._pieces: deque[bytes] = deque()
        self._batches: Iterator[list[Item]] = iter(())
        self._next: list[Item] | None = None

    def take(self, data: bytes, *, last: bool) -> ParseReply:
        if data:
            self._pieces.append(data)
        items = self._next if self._next is not None else self._some()
        self._next = self._some() if items is not None else None
        more = self._next is not None
        entries: list[Entry] = []
        deleted: list[ParsedDeleted] = []
        packs: list[Pack] = []
        for item in items or ():
            match item:
                case Entry():
                    entries.append(item)
                case Deleted():
                    deleted.append(ParsedDeleted(len(entries), item.path))
                case _:
                    packs.append(item)
        trailer = self._reader.finish() if last and not more else None
        return ParseReply(entries, deleted, packs, more, self._reader.header, trailer)

    def _some(self) -> list[Item] | None:
        while True:
            if (items := take_some(self._batches, BATCHES_PER_REPLY)) is not None:
                return items
            if not self._pieces:
                return None
            # Only now: those of the piece before must be used up.
            self._batches = self._reader.batches(self._pieces.popleft())


def _items(reply: ParseReply) -> list[Item]:
    items: list[Item]
    if not reply.deleted:
        items = [*reply.entries]
    else:
        items = []
        begin = 0
        for deleted in reply.deleted:
            items += reply.entries[begin : deleted.behind]
            items.append(Deleted(deleted.path))
            begin = deleted.behind
        items += reply.entries[begin:]
    items += reply.packs
    return items
