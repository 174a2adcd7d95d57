"""Folders in which nothing has changed, told by the digest of their listing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncbackup.pipeline.listing import FolderChunk

NOTED_AT_ONCE = 1024


class KnownListings(Protocol):
    """What is asked of the catalog's digests of listings, and told."""

    async def usable(self) -> bool: ...

    async def find(self, folders: Sequence[bytes]) -> dict[bytes, bytes]: ...

    async def note(self, listings: Sequence[tuple[bytes, bytes]]) -> None: ...


class UnchangedFolders:
    """Tells them by the digests that are known, if ``use``, and has those of others noted, if ``note``."""

    def __init__(self, listings: KnownListings, *, use: bool = True, note: bool = True) -> None:
        self._listings = listings
        self._use = use
        self._note = note
        self._found: list[tuple[bytes, bytes]] = []

    async def begin(self) -> None:
        """To be called before anything else is."""
        self._use = self._use and await self._listings.usable()

    async def told_apart(
        self, chunks: Sequence[FolderChunk]
    ) -> tuple[Sequence[FolderChunk], Sequence[FolderChunk]]:
        """Those of the chunks, some thousand folders at the most, whose digests are known, and all others."""
        if not self._use or not chunks:
            return (), chunks
        known = await self._listings.find([chunk.folder for chunk in chunks])
        unchanged: list[FolderChunk] = []
        others: list[FolderChunk] = []
        for chunk in chunks:
            digest = known.get(chunk.folder)
            same = digest is not None and chunk.whole and chunk.digest() == digest
            (unchanged if same else others).append(chunk)
        return unchanged, others

    async def add(self, chunks: Iterable[FolderChunk]) -> None:
        """Folders as a whole that turned out to be as their rows say."""
        if self._note:
            digests = ((chunk.folder, chunk.digest()) for chunk in chunks if chunk.whole)
            self._found += [(folder, digest) for folder, digest in digests if digest]
            if len(self._found) >= NOTED_AT_ONCE:
                await self.finish()

    async def finish(self) -> None:
        """Have everything noted that was added."""
        found, self._found = self._found, []
        if found:
            await self._listings.note(found)
