"""Folders in which nothing has changed, told by the digest of their listing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from asyncbackup.catalog.listings import ListingsToNote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncbackup.pipeline.listing import FolderChunk


class KnownListings(Protocol):
    """What is asked of the catalog's digests of listings, and told."""

    async def usable(self) -> bool: ...

    async def find(self, folders: Sequence[bytes]) -> dict[bytes, bytes]: ...

    async def note(self, listings: Sequence[tuple[bytes, bytes]]) -> None: ...


class UnchangedFolders:
    """Tells them by the digests that are known, and has those of others noted, unless ``read_only``."""

    def __init__(self, listings: KnownListings, *, read_only: bool = False) -> None:
        self._listings = listings
        self._read_only = read_only
        self._to_note = ListingsToNote(listings.note)
        self._usable = False

    async def begin(self) -> None:
        """Begin to tell folders apart; without it none is known to be unchanged."""
        self._usable = await self._listings.usable()

    async def told_apart(
        self, chunks: Sequence[FolderChunk]
    ) -> tuple[Sequence[FolderChunk], Sequence[FolderChunk]]:
        """Those of the chunks, some hundred folders at the most, whose digests are known, and all others."""
        if not self._usable or not chunks:
            return (), chunks
        known = await self._listings.find([chunk.folder for chunk in chunks])
        unchanged: list[FolderChunk] = []
        others: list[FolderChunk] = []
        for chunk in chunks:
            digest = known.get(chunk.folder)
            same = digest is not None and chunk.whole and chunk.digest() == digest
            (unchanged if same else others).append(chunk)
        return unchanged, others

    async def note(self, chunks: Iterable[FolderChunk]) -> None:
        """Have folders noted, in time, that turned out to be as their rows say."""
        for chunk in chunks:
            if chunk.whole and not self._read_only:
                await self._to_note.add(chunk.folder, chunk.digest())

    async def finish(self) -> None:
        """Have those noted that still wait."""
        await self._to_note.finish()
