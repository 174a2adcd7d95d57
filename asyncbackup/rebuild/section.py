"""Rebuilding a section's database, from the manifests or from the objects."""

from __future__ import annotations

import platform
import time
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup import __version__
from asyncbackup.catalog.catalog import DESCRIPTOR, IDENTITY, Catalog, CatalogIdentity
from asyncbackup.catalog.found import FoundObjects
from asyncbackup.catalog.integrity import sum_path
from asyncbackup.catalog.replace import Replacement, replacing
from asyncbackup.catalog.runs import RunRecord
from asyncbackup.errors import AsyncBackupError, CatalogError, FormatError, Interrupted, ObjectMissingError
from asyncbackup.flow.stop import StopRequest
from asyncbackup.format.keys import data_prefix
from asyncbackup.format.manifest import ManifestHeader, ManifestTrailer
from asyncbackup.format.manifest_order import Tally
from asyncbackup.format.runid import new_run_id, run_time_ns
from asyncbackup.model import Entry, Failure, Pack, RunId
from asyncbackup.rebuild.contents import add_earlier_contents
from asyncbackup.rebuild.from_objects import recover_tree
from asyncbackup.rebuild.summary import (
    UNRECOVERED_IN_SUMMARY,
    RebuildCounters,
    RebuildSummary,
    Unrecovered,
)
from asyncbackup.repository.manifests import ManifestUpload, read_manifest
from asyncbackup.repository.marks import (
    KNOWN_PRUNES,
    account_for_prunes,
    announce_run,
    encode_known,
)
from asyncbackup.repository.open import Repository, open_repository
from asyncbackup.repository.snapshots import SnapshotInfo, list_snapshots
from asyncbackup.repository.vouching import carried_over, rebuilt_meta

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.store.base import ObjectPage

FAILURES_IN_MANIFEST = 10_000
"""What a reader of manifests keeps of them."""
TOLD_BYTES = 8 * 1024 * 1024
"""What of names and reasons is kept in memory for summary and manifest; all are told one by one."""


async def rebuild_section(
    settings: Settings,
    section: SectionSettings,
    *,
    from_objects: bool = False,
    counters: RebuildCounters | None = None,
    stop: StopRequest | None = None,
    on_unrecovered: Callable[[Unrecovered], None] | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> RebuildSummary:
    """Make the section's database say what lies at its destination, whatever it said before.

    From the manifests: the entries of the newest snapshot that can be read,
    the names of all, and, for a section that is or was packed, where the
    contents of all lie. With ``from_objects``, or where there is no manifest
    but there are objects: from the objects and their metadata; that is
    written as a new snapshot first. ``on_unrecovered`` is told of everything
    that is not or not wholly in it.

    The database is replaced in one transaction, so a rebuild that fails
    leaves it as it was; a new one that fails leaves none. Raises
    ``CatalogError`` for a destination that holds nothing of the section or a
    database that cannot be opened, ``SectionBusyError``, ``FormatError`` where
    there are manifests and none can be read, ``RepositoryMissingError``,
    ``KeyUnlockError``, ``StoreError``, and ``Interrupted``.
    """
    rebuild = _Rebuild(
        settings, section, counters or RebuildCounters(), stop or StopRequest(), on_unrecovered
    )
    async with AsyncExitStack() as stack:
        existing = None
        if settings.database_path(section.name).exists():
            # Held from the beginning, so that no run works with what is being replaced.
            existing = await stack.enter_async_context(
                Catalog.open(
                    settings.database_path(section.name),
                    section=section.name,
                    destination=section.destination,
                )
            )
        repository = await stack.enter_async_context(open_repository(settings, section, on_retry=on_retry))
        return await rebuild.run(repository, existing, from_objects=from_objects)


class _Rebuild:
    def __init__(
        self,
        settings: Settings,
        section: SectionSettings,
        counters: RebuildCounters,
        stop: StopRequest,
        on_unrecovered: Callable[[Unrecovered], None] | None,
    ) -> None:
        self._settings = settings
        self._section = section
        self._counters = counters
        self._stop = stop
        self._on_unrecovered = on_unrecovered
        self._unrecovered: list[Unrecovered] = []
        self._failures: list[Failure] = []
        self._told_bytes = 0
        self._notes: list[str] = []
        self._tally = Tally()
        self._prunes: frozenset[str] = frozenset()
        self._began = time.monotonic()

    async def run(
        self, repository: Repository, existing: Catalog | None, *, from_objects: bool
    ) -> RebuildSummary:
        self._prunes = await account_for_prunes(repository, existing)
        meta = await self._read_meta(repository)
        snapshots = await list_snapshots(repository)
        source = "manifests"
        if from_objects or (not snapshots and await self._has_objects(repository)):
            source = "objects"
            async with FoundObjects.open(self._settings.state_dir) as found:
                run = await self._recover(repository, found, snapshots)
                known = [*(snapshot.id for snapshot in snapshots), run]
                async with self._replacing(repository, existing, meta) as new:
                    await self._fill_from_found(new, found)
                    await self._add_snapshots(repository, new, known, depth=0)
        elif snapshots:
            known = await self._fill_from_manifests(repository, existing, snapshots, meta)
            run = known[-1]
        else:
            raise CatalogError(
                f"{self._section.destination} holds nothing of section {self._section.name!r} to rebuild a "
                f"database from; begin with 'asyncbackup initdb {self._section.name}'"
            )
        tally = self._tally
        return RebuildSummary(
            section=self._section.name,
            source=source,
            snapshot=run,
            snapshots=len(known),
            files=tally.files,
            folders=tally.folders,
            symlinks=tally.symlinks,
            bytes=tally.bytes,
            unrecovered_objects=self._counters.unrecovered_objects,
            unrecovered=tuple(self._unrecovered),
            requests=dict(repository.store.requests),
            elapsed_seconds=round(time.monotonic() - self._began, 3),
            notes=tuple(self._notes),
        )

    async def _read_meta(self, repository: Repository) -> dict[str, bytes]:
        """What the catalog keeps beside its tables. Asked for before anything else is read, so that what
        it says of the destination (which prunes there were) is never newer than the tables."""
        identity = CatalogIdentity(self._section.name, self._section.destination, repository.repository_id)
        return {
            DESCRIPTOR: repository.descriptor_bytes,
            IDENTITY: msgspec.json.encode(identity),
            KNOWN_PRUNES: encode_known(self._prunes),
        }

    async def _has_objects(self, repository: Repository) -> bool:
        pages = repository.store.list(data_prefix(repository.section))
        async with aclosing(cast("AsyncGenerator[ObjectPage, None]", pages)) as opened:
            return await anext(opened, None) is not None

    async def _fill_from_manifests(
        self,
        repository: Repository,
        existing: Catalog | None,
        snapshots: list[SnapshotInfo],
        meta: Mapping[str, bytes],
    ) -> list[RunId]:
        """Fill the catalog from the newest snapshot that can be read. Returns the snapshots up to it."""
        for place in range(len(snapshots) - 1, -1, -1):
            # Runs above it are left out: what they uploaded is uploaded again, which costs time alone.
            known = [snapshot.id for snapshot in snapshots[: place + 1]]
            try:
                async with self._replacing(repository, existing, meta) as new:
                    depth = await self._fill_from_newest(repository, new, known)
                    await self._add_snapshots(repository, new, known, depth=depth)
            except (FormatError, ObjectMissingError) as error:
                self._pass_over(known[-1], error)
                self._tally = Tally()
                self._counters.entries = 0
            else:
                return known
        raise FormatError(
            f"none of the {len(snapshots)} manifests of section {self._section.name!r} can be read "
            f"({self._notes[0]}); 'asyncbackup syncdb_remote --from-objects' does without them"
        )

    async def _fill_from_newest(self, repository: Repository, new: Replacement, known: list[RunId]) -> int:
        """Take the entries of the last snapshot and the contents of all. Returns the last one's depth."""
        packed = self._section.packed
        depth = 0

        async def take_packs(packs: list[Pack]) -> None:
            nonlocal packed
            packed = True
            await new.add_packs(packs)

        def take_header(header: ManifestHeader) -> None:
            nonlocal depth
            depth = header.depth

        entries = read_manifest(repository, known[-1], on_packs=take_packs, on_header=take_header)
        await self._add_entries(new, entries)
        if packed:
            await new.add_contents_of_entries()
            await add_earlier_contents(
                repository, new, known[:-1], go_on=self._go_on, on_unreadable=self._pass_over
            )
            await new.drop_idle_packs()
        return depth

    async def _add_snapshots(
        self, repository: Repository, new: Replacement, known: list[RunId], *, depth: int
    ) -> None:
        await new.add_runs(_records(known, depth=depth))
        await new.add_meta(await rebuilt_meta(repository, known[-1]))

    def _pass_over(self, run: RunId, error: AsyncBackupError) -> None:
        self._notes.append(f"snapshot {run} cannot be read and was passed over: {error}")

    async def _fill_from_found(self, new: Replacement, found: FoundObjects) -> None:
        packed = self._section.packed
        await self._add_entries(new, found.entries())
        async for packs in found.members.packs_of_entries():
            packed = True
            await new.add_packs(packs)
        if packed:
            await new.add_contents_of_entries()

    async def _add_entries(self, new: Replacement, batches: AsyncGenerator[list[Entry], None]) -> None:
        async with aclosing(batches):
            async for batch in batches:
                self._go_on()
                for entry in batch:
                    self._tally.count(entry)
                self._counters.entries += len(batch)
                await new.add_entries(batch)

    async def _recover(
        self, repository: Repository, found: FoundObjects, snapshots: list[SnapshotInfo]
    ) -> RunId:
        """Recover the tree from its objects and write it as a new snapshot, whose id is returned."""
        await recover_tree(
            repository,
            found,
            concurrency=self._settings.concurrency,
            counters=self._counters,
            go_on=self._go_on,
            on_unrecovered=self._tell,
        )
        newest = max([await found.newest_run(), *(snapshot.id for snapshot in snapshots), *self._prunes])
        if not newest:
            raise CatalogError(
                f"{self._section.destination} holds no object of section {self._section.name!r}; begin with "
                f"'asyncbackup initdb {self._section.name}'"
            )
        started_ns = time.time_ns()
        run = new_run_id(started_ns, after=RunId(newest))
        # A prune that began since the objects were listed may have taken some of them.
        await announce_run(
            repository,
            run,
            known=self._prunes,
            started_ns=started_ns,
            hide_host=self._section.encryption.hide_names,
        )
        header = ManifestHeader(
            snapshot=run,
            section=repository.section,
            repository=repository.repository_id,
            started_ns=started_ns,
            host=platform.node(),
            software=f"asyncbackup {__version__}, rebuilt from objects",
            plain=await carried_over(repository) or msgspec.UNSET,
        )
        async with ManifestUpload(repository, header) as upload:
            async for batch in found.entries():
                self._go_on()
                await upload.add(batch)
            async for packs in found.members.packs_of_entries():
                await upload.add_packs(packs)
            await upload.commit(ManifestTrailer(finished_ns=time.time_ns(), failures=tuple(self._failures)))
        self._notes.append(
            "rebuilt from objects: what was deleted from the tree is there again, and changes of mode, owner "
            f"or times alone are undone; the tree as recovered is snapshot {run}"
        )
        if repository.seals:
            self._notes.append(
                "contents are authenticated, but modes, owners, times and symlinks come from metadata that "
                "whoever can write the bucket can change"
            )
        return run

    @asynccontextmanager
    async def _replacing(
        self, repository: Repository, existing: Catalog | None, meta: Mapping[str, bytes]
    ) -> AsyncIterator[Replacement]:
        """The new content of the catalog, or of one that is made for it and vanishes if the block raises."""
        sealed = repository.seals
        async with AsyncExitStack() as stack:
            catalog = existing
            if catalog is None:
                path = self._settings.database_path(self._section.name)
                identity = msgspec.json.decode(meta[IDENTITY], type=CatalogIdentity)
                catalog = await stack.enter_async_context(_created(path, identity))
            new = await stack.enter_async_context(replacing(catalog, sealed=sealed))
            yield new
            await new.add_meta(meta)

    def _tell(self, unrecovered: Unrecovered) -> None:
        path = unrecovered.path
        self._told_bytes += len(path or b"") + len(unrecovered.reason)
        # Names may be long, and whoever can write the bucket can make many.
        if self._told_bytes <= TOLD_BYTES:
            if len(self._unrecovered) < UNRECOVERED_IN_SUMMARY:
                self._unrecovered.append(unrecovered)
            if unrecovered.lost and path is not None and len(self._failures) < FAILURES_IN_MANIFEST:
                self._failures.append(Failure(path=path, reason=unrecovered.reason))
        if self._on_unrecovered is not None:
            self._on_unrecovered(unrecovered)

    def _go_on(self) -> None:
        if self._stop.requested:
            raise Interrupted("stopped as asked; the database is as it was")


@asynccontextmanager
async def _created(path: Path, identity: CatalogIdentity) -> AsyncIterator[Catalog]:
    """A new catalog that is gone again if the block raises."""
    created = False
    try:
        async with Catalog.create(path, identity) as catalog:
            created = True
            yield catalog
    except BaseException:
        if created:
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - at the very end, and but one
            sum_path(path).unlink(missing_ok=True)
        raise


def _records(known: Sequence[RunId], *, depth: int) -> list[RunRecord]:
    """The rows of snapshots; ``depth`` is that of the last one's manifest. The last one counts as not ended:
    the next run then looks once for uploads that a lost database can no longer tell of."""
    return [
        RunRecord(
            run=run,
            started_ns=run_time_ns(run),
            finished_ns=run_time_ns(run) if run != known[-1] else None,
            committed=True,
            depth=depth if run == known[-1] else 0,
        )
        for run in known
    ]
