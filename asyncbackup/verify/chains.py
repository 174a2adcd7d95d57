"""The manifests that snapshots rest on, each read as seldom as can be.

Of a snapshot that is a difference its own lines are enough, if the snapshot it
is a difference to is verified as well: what it needs beside them that one needs
too. If that one is forgotten only the merged view counts, down to the first
manifest of the chain that is of a verified snapshot: a prune may have deleted
what a forgotten snapshot needed alone.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

from asyncbackup.catalog.sums import Sums
from asyncbackup.errors import FormatError, ObjectMissingError
from asyncbackup.format.keys import snapshot_key
from asyncbackup.format.manifest import Deleted
from asyncbackup.format.manifest_order import Tally
from asyncbackup.model import RunId
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.repository.overlay import overlay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from asyncbackup.format.manifest import TreeItem
    from asyncbackup.model import Entry, Pack
    from asyncbackup.repository.open import Repository

OTHER_SUMS = "with what it rests on it does not add up to what its last line says"


class DamagedManifestError(FormatError):
    """The manifest at ``key`` is missing or damaged, and with it every snapshot that rests on it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


class Chains:
    """Reads snapshots in the order of their ids. ``revisions`` are the newest ones of their manifests."""

    def __init__(self, repository: Repository, revisions: Mapping[RunId, int]) -> None:
        self._repository = repository
        self._revisions = revisions
        self._bases: dict[RunId, RunId | None] = {}
        """The base of every manifest that was read."""
        self._depths: dict[RunId, int] = {}
        self._sums: dict[RunId, Sums] = {}
        self._not_adding_up: set[RunId] = set()
        self._sound: set[RunId] = set()
        self._broken: dict[RunId, DamagedManifestError] = {}
        """What is wrong with verified snapshots that are not sound."""

    def key(self, run: RunId) -> str:
        """The key of a snapshot's manifest, in its newest revision."""
        return snapshot_key(self._repository.section, run, self._revisions.get(run, 0))

    def chain(self, run: RunId) -> list[RunId]:
        """The runs whose manifests make up a snapshot, newest first."""
        chain: list[RunId] = []
        link: RunId | None = run
        while link is not None:
            chain.append(link)
            link = self._bases[link]
        return chain

    async def entries(
        self, run: RunId, *, on_packs: Callable[[list[Pack]], Awaitable[None]]
    ) -> AsyncGenerator[list[Entry], None]:
        """What a snapshot needs beside what the sound snapshots that it rests on need, in batches.

        Raises :class:`DamagedManifestError` where it, or a manifest that it rests on, is damaged. The
        snapshot counts as sound once the iteration ended without an error.
        """
        try:
            async with AsyncExitStack() as stack:
                streams = await self._open(run, stack, on_packs)
                newest = streams[0]
                whole = len(streams) > 1 and streams[-1].header.base is None
                tally = Tally()
                lines = await stack.enter_async_context(aclosing(_items(streams.pop())))
                entries = await stack.enter_async_context(aclosing(_without_deleted(lines)))
                while streams:
                    changes = await stack.enter_async_context(aclosing(_items(streams.pop())))
                    entries = await stack.enter_async_context(aclosing(overlay(entries, changes)))
                async for batch in entries:
                    if whole:
                        for entry in batch:
                            tally.count(entry)
                    yield batch
                if whole and _sums_of(newest) != Sums(
                    tally.files, tally.folders, tally.symlinks, tally.bytes
                ):
                    self._not_adding_up.add(run)
        except DamagedManifestError as damage:
            self._broken[run] = damage
            raise
        self._sound.add(run)

    async def lines(self, run: RunId) -> AsyncGenerator[list[TreeItem], None]:
        """The lines of one manifest alone, one that was read before. Raises :class:`DamagedManifestError`."""
        async with AsyncExitStack() as stack:
            stream = await self._enter(run, stack, in_windows=False, on_packs=None)
            async with aclosing(_items(stream)) as batches:
                async for batch in batches:
                    yield batch
            self._sums[run] = _sums_of(stream)

    def sums(self, run: RunId) -> Sums:
        """What a snapshot is said to add up to, by the manifest of it whose lines were read."""
        return self._sums[run]

    def adds_up(self, run: RunId) -> bool:
        """Whether a sound snapshot, as far as it was merged, is as much as its last line says."""
        return run not in self._not_adding_up

    async def _open(
        self, run: RunId, stack: AsyncExitStack, on_packs: Callable[[list[Pack]], Awaitable[None]]
    ) -> list[ManifestStream]:
        """The manifests that have to be merged, newest first. Only a single one holds a request."""
        async with AsyncExitStack() as first:
            stream = await self._enter(run, first, in_windows=False, on_packs=on_packs)
            base = self._note(run, stream)
            if base is None or base in self._sound:
                self._check_depth(stream)
                await stack.enter_async_context(first.pop_all())
                return [stream]
        streams = [await self._enter(run, stack, in_windows=True, on_packs=on_packs)]
        while base is not None and base not in self._sound:
            if base in self._broken:
                raise self._broken[base]
            streams.append(await self._enter(base, stack, in_windows=True, on_packs=on_packs))
            base = self._note(base, streams[-1])
        for above in streams:
            self._check_depth(above)
        return streams

    def _note(self, run: RunId, stream: ManifestStream) -> RunId | None:
        base = stream.header.base
        self._bases[run] = None if base is None else RunId(base)
        self._depths[run] = stream.header.depth
        return self._bases[run]

    def _check_depth(self, stream: ManifestStream) -> None:
        header = stream.header
        if header.base is None:
            return
        below = self._depths[RunId(header.base)]
        if below >= header.depth:
            raise DamagedManifestError(
                stream.key,
                f"depth {header.depth} does not fit its base {header.base}, which has depth {below}",
            )

    async def _enter(
        self,
        run: RunId,
        stack: AsyncExitStack,
        *,
        in_windows: bool,
        on_packs: Callable[[list[Pack]], Awaitable[None]] | None,
    ) -> ManifestStream:
        stream = ManifestStream(
            self._repository,
            run,
            # Without a number the first one is tried, then the newest.
            revision=self._revisions.get(run) or None,
            in_windows=in_windows,
            on_packs=on_packs,
        )
        try:
            return await stack.enter_async_context(stream)
        except (FormatError, ObjectMissingError) as error:
            raise _damage_of(stream.key, error) from error


async def _items(stream: ManifestStream) -> AsyncGenerator[list[TreeItem], None]:
    async with aclosing(stream.items()) as batches:
        try:
            async for batch in batches:
                yield batch
        except (FormatError, ObjectMissingError) as error:
            raise _damage_of(stream.key, error) from error


async def _without_deleted(
    batches: AsyncGenerator[list[TreeItem], None],
) -> AsyncGenerator[list[Entry], None]:
    async for batch in batches:
        yield [item for item in batch if not isinstance(item, Deleted)]


def _sums_of(stream: ManifestStream) -> Sums:
    trailer = stream.trailer
    assert trailer is not None, "a stream is asked once all of it was read"
    return Sums(trailer.files, trailer.folders, trailer.symlinks, trailer.bytes)


def _damage_of(key: str, error: FormatError | ObjectMissingError) -> DamagedManifestError:
    if isinstance(error, ObjectMissingError):
        return DamagedManifestError(key, "it is missing")
    return DamagedManifestError(key, str(error).removeprefix(f"{key}: "))
