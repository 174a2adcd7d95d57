"""The beginnings of sealed packs, each downloaded once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncbackup.format.range_opener import RangeOpener

PACKS_REMEMBERED = 64
"""Packs are read in their order, a few at a time."""


class PackHeads:
    """What opens sealed packs, made by ``fetch`` and kept for the last packs that were asked for.

    Of several tasks that ask for one pack at once, one fetches. What it raises
    is raised there alone; the others then try themselves.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[RangeOpener]]) -> None:
        self._fetch = fetch
        self._known: OrderedDict[str, RangeOpener] = OrderedDict()
        self._fetching: dict[str, asyncio.Event] = {}

    async def get(self, key: str) -> RangeOpener:
        """What opens the pack. Raises what fetching it raises."""
        while (opener := self._known.get(key)) is None:
            if (fetching := self._fetching.get(key)) is not None:
                await fetching.wait()
                continue
            self._fetching[key] = fetched = asyncio.Event()
            try:
                self._remember(key, await self._fetch(key))
            finally:
                del self._fetching[key]
                fetched.set()
        self._known.move_to_end(key)
        return opener

    def _remember(self, key: str, opener: RangeOpener) -> None:
        self._known[key] = opener
        if len(self._known) > PACKS_REMEMBERED:
            self._known.popitem(last=False)
