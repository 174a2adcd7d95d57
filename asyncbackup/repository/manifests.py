"""Manifests at the destination: reading a snapshot's entries, its header, its trailer.

Writing one is :class:`~asyncbackup.repository.manifest_upload.ManifestUpload`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

from asyncbackup.errors import FormatError
from asyncbackup.format.manifest import Deleted, ManifestHeader, ManifestTrailer, TreeItem
from asyncbackup.format.manifest_order import Tally
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.repository.manifest_upload import ManifestReceipt, ManifestUpload
from asyncbackup.repository.overlay import overlay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from asyncbackup.model import Entry, Pack
    from asyncbackup.repository.open import Repository

__all__ = ["ManifestReceipt", "ManifestUpload", "read_header", "read_manifest", "read_trailer"]


async def read_manifest(
    repository: Repository,
    run: str,
    *,
    on_packs: Callable[[list[Pack]], Awaitable[None]] | None = None,
    on_header: Callable[[ManifestHeader], None] | None = None,
) -> AsyncGenerator[list[Entry], None]:
    """Every entry of a snapshot in the order of (folder, name), in batches of some thousand at most.

    A snapshot that is a difference is laid over the ones it rests on, all of
    them read at the same time, so memory stays the same whatever their sizes.
    That the entries were all is known when the iteration ended without an
    error; close the iterator (``contextlib.aclosing``) when leaving it early.
    ``on_packs`` is given the packs that its manifests describe; some may come
    twice, and some may hold nothing of this snapshot. ``on_header`` is given the
    header of the snapshot's own manifest, before any entry.

    Raises as :class:`~asyncbackup.repository.manifest_stream.ManifestStream` does.
    """
    async with ManifestStream(repository, run, on_packs=on_packs) as stream:
        if on_header is not None:
            on_header(stream.header)
        if stream.header.base is None:
            async with aclosing(_entries(stream)) as entries:
                async for batch in entries:
                    yield batch
            return
    async with aclosing(_read_chain(repository, run, on_packs)) as entries:
        async for batch in entries:
            yield batch


async def _read_chain(
    repository: Repository, run: str, on_packs: Callable[[list[Pack]], Awaitable[None]] | None
) -> AsyncGenerator[list[Entry], None]:
    async with AsyncExitStack() as stack:

        async def opened(run: str) -> ManifestStream:
            stream = ManifestStream(repository, run, in_windows=True, on_packs=on_packs)
            return await stack.enter_async_context(stream)

        chain = [await opened(run)]
        while (base := chain[-1].header.base) is not None:
            above = chain[-1]
            below = await opened(base)
            if below.header.depth >= above.header.depth:
                raise FormatError(
                    f"{above.key}: depth {above.header.depth} does not fit its base {base}, "
                    f"which has depth {below.header.depth}"
                )
            chain.append(below)
        newest = chain[0]
        entries = await stack.enter_async_context(aclosing(_entries(chain.pop())))
        while chain:
            changes = await stack.enter_async_context(aclosing(chain.pop().items()))
            entries = await stack.enter_async_context(aclosing(overlay(entries, changes)))
        tally = Tally()
        async for batch in entries:
            for entry in batch:
                tally.count(entry)
            yield batch
        _check_totals(tally, newest)


async def read_header(repository: Repository, run: str) -> ManifestHeader:
    """The header of one manifest; no more of it is read than that takes.

    A plain manifest of an encrypted section is read to its end: what vouches
    for it is a digest of all of it. Raises as ``read_manifest`` does.
    """
    async with ManifestStream(repository, run) as stream:
        if repository.seals and not stream.sealed:
            async with aclosing(stream.items()) as items:
                async for _ in items:
                    pass
        return stream.header


async def read_trailer(repository: Repository, run: str) -> ManifestTrailer:
    """The trailer of one manifest (the totals of its snapshot, and what was not saved).

    The whole manifest is read for it, those it rests on are not. Raises as
    ``read_manifest`` does.
    """
    async with ManifestStream(repository, run) as stream, aclosing(stream.items()) as items:
        async for _ in items:
            pass
        assert stream.trailer is not None
        return stream.trailer


async def _entries(stream: ManifestStream) -> AsyncGenerator[list[Entry], None]:
    async with aclosing(stream.items()) as batches:
        async for batch in batches:
            yield _only_entries(batch, stream.key)


def _only_entries(batch: list[TreeItem], key: str) -> list[Entry]:
    entries = [item for item in batch if not isinstance(item, Deleted)]
    if len(entries) != len(batch):
        raise FormatError(f"{key}: it deletes entries of a base that it does not have")
    return entries


def _check_totals(tally: Tally, stream: ManifestStream) -> None:
    """Raises ``FormatError`` unless a snapshot that was put together is what its trailer says."""
    trailer = stream.trailer
    assert trailer is not None, "a merged stream ends when all its parts have"
    found = (tally.files, tally.folders, tally.symlinks, tally.bytes)
    if found != (trailer.files, trailer.folders, trailer.symlinks, trailer.bytes):
        raise FormatError(
            f"{stream.key}: with the snapshots it rests on it does not add up to what its last line says"
        )
