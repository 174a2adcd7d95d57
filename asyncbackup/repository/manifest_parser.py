"""From a manifest's plaintext to its items, a chunk at a time: in threads here, or in a process beside."""

from __future__ import annotations

from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from asyncbackup.format.manifest import ManifestReader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.format.manifest import Item, ManifestHeader, ManifestTrailer

# A batch of the reader is at most 256 KiB of JSON lines, some 700 entries; four of them
# outweigh the hop to a thread (50 to 100 µs) by far.
BATCHES_PER_HOP = 4


class ManifestParser(Protocol):
    """Parses one manifest, and raises ``FormatError`` as a :class:`ManifestReader` does."""

    @property
    def header(self) -> ManifestHeader | None:
        """Known with the first items, or at the end of a manifest without any."""
        ...

    @property
    def trailer(self) -> ManifestTrailer | None:
        """Known at the end."""
        ...

    def items(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[list[Item], None]:
        """The items of a manifest whose plaintext comes in ``chunks``; closes them."""
        ...


class Parsing(Protocol):
    """What makes parsers that work elsewhere."""

    def parser(self, name: str, *, alone: bool) -> ManifestParser | None:
        """A parser of the manifest that errors call ``name``; ``None`` where it is to be parsed here.

        One that is not read ``alone`` is parsed no further ahead than it is asked for.
        """
        ...


class ParserLostError(Exception):
    """Whoever was parsing is gone. Nothing is wrong with the manifest: it is to be read once more."""


class ThreadParser:
    """Parses in the repository's threads."""

    def __init__(self, name: str, threads: ThreadGate) -> None:
        self.trailer: ManifestTrailer | None = None
        self._reader = ManifestReader(name=name)
        self._threads = threads

    @property
    def header(self) -> ManifestHeader | None:
        return self._reader.header

    async def items(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[list[Item], None]:
        """As :meth:`ManifestParser.items`."""
        async with aclosing(chunks):
            async for chunk in chunks:
                batches = self._reader.batches(chunk)
                while (items := await self._threads.run(take_some, batches)) is not None:
                    yield items
        self.trailer = self._reader.finish()


async def items_from(
    parser: ManifestParser, chunks: AsyncGenerator[bytes, None], *, skip: int
) -> AsyncGenerator[list[Item], None]:
    """The parser's items without the first ``skip``."""
    async with aclosing(parser.items(chunks)) as batches:
        async for items in batches:
            if skip < len(items):
                yield items[skip:] if skip else items
            skip = max(0, skip - len(items))


def take_some(batches: Iterator[list[Item]], count: int = BATCHES_PER_HOP) -> list[Item] | None:
    """Up to ``count`` batches as one, ``None`` at the end. What they raise is raised here."""
    taken = list(islice(batches, count))
    if not taken:
        return None
    return taken[0] if len(taken) == 1 else [item for batch in taken for item in batch]
