"""Which contents the section holds already: those that the catalog has, and those that this run sends.

What a pack that is still under way holds is remembered here, the most recent
digests only: by the time they are forgotten, the recorder has written them to
the catalog. A content that slips through is stored twice, which costs bytes and
nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.model import Extent
    from asyncbackup.pipeline.underway import Underway

KEPT_DIGESTS = 32_768
"""Twice what the recorder notes at a time, or several packs of tiny files. With their places they take some
14 MB: of a tree of small files the largest part of what a run holds."""


class KnownContents(Protocol):
    """What is asked of the catalog's contents."""

    async def find(self, digests: Sequence[bytes], *, encrypted: bool) -> dict[bytes, Extent]: ...

    async def is_empty(self) -> bool: ...

    async def holds_size(self, size: int) -> bool: ...


class Holdings:
    """Contents by digest. Only those stored as the section stores today (sealed or not) count."""

    def __init__(self, contents: KnownContents, *, encrypted: bool) -> None:
        self._contents = contents
        self._encrypted = encrypted
        self._recent: OrderedDict[bytes, tuple[Underway, int]] = OrderedDict()
        self._sizes: set[int] = set()
        self._asks: bool | None = None
        """Whether the catalog may know more than the recent ones; ``None`` until it was asked for any."""

    async def find(self, digests: Sequence[bytes]) -> dict[bytes, Extent]:
        """Where those of ``digests`` lie that are durable and not among the recent ones."""
        if self._asks is None:
            empty = await self._contents.is_empty()
            if self._asks is None:
                self._asks = not empty
        if not self._asks:
            return {}
        wanted = [digest for digest in set(digests) if digest not in self._recent]
        return await self._contents.find(wanted, encrypted=self._encrypted)

    def recent(self, digest: bytes) -> tuple[Underway, int] | None:
        """The object of this run that holds a content, and which of its contents that is."""
        return self._recent.get(digest)

    def expect(self, digest: bytes, underway: Underway, index: int = 0) -> None:
        """Note that an object of this run holds, or will hold, a content."""
        self._recent[digest] = (underway, index)
        while len(self._recent) > KEPT_DIGESTS:
            self._recent.popitem(last=False)
            self._asks = True

    def forget(self, digest: bytes) -> None:
        """Note that a content could not be stored after all."""
        self._recent.pop(digest, None)

    async def may_hold_size(self, size: int) -> bool:
        """Whether a large content of this size is known, of this run or an earlier one; from now on
        it is. Only then is it worth reading a file for its digest before it is sent."""
        known = size in self._sizes or await self._contents.holds_size(size)
        self._sizes.add(size)
        return known
