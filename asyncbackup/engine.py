"""One run of one section: opens what it needs, wires the stages, and commits after all of them ended clean.

The data's way is drawn in docs/design.md; the order of writes that makes a
crash at any point harmless is specified there too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.catalog import DESCRIPTOR, Catalog
from asyncbackup.catalog.contents import CONTENTS_KEPT, KEPT, ContentTable
from asyncbackup.commit import WrittenManifest, settle, write_manifest
from asyncbackup.destination import key_prefix_bytes, local_folder
from asyncbackup.errors import (
    AccessDeniedError,
    CatalogError,
    Interrupted,
    ObjectExistsError,
    ObjectMissingError,
    SectionBusyError,
    SourceGuardError,
)
from asyncbackup.excludes import compile_excludes
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.flow.groups import single_error
from asyncbackup.flow.stop import StopRequest
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.format.keys import run_mark_key, snapshot_key
from asyncbackup.format.runid import new_run_id
from asyncbackup.late_transfer import LateTransfer, late_transfer
from asyncbackup.limits import LimitAccount
from asyncbackup.model import Action, Change, RunCounters, RunId, RunSummary
from asyncbackup.pipeline.detector import Detector
from asyncbackup.pipeline.recorder import Recorder
from asyncbackup.pipeline.unchanged import UnchangedFolders
from asyncbackup.pipeline.walker import WalkSettings, walk
from asyncbackup.repository.marks import announce_run, known_prunes, look_again, look_back, withdraw
from asyncbackup.repository.open import Repository, open_repository
from asyncbackup.repository.snapshots import newest_revision
from asyncbackup.repository.vouching import note_written
from asyncbackup.text import local_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
    from pathlib import Path

    from asyncbackup.catalog.links import DeferredLink
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.load import RequestLoad
    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.format.hidden import HiddenNames
    from asyncbackup.model import Failure
    from asyncbackup.pipeline.listing import WalkBatch
    from asyncbackup.pipeline.results import Outcome
    from asyncbackup.pipeline.transfer_settings import TransferSettings
    from asyncbackup.resume import ResumableUpload

log = logging.getLogger(__name__)

WALK_BATCHES = 4
"""Listings that may wait for the detector: one being compared, the next ones ready."""
CHANGE_BATCHES = 16
OUTCOMES = 64
"""Outcomes that may wait for the recorder, besides two for each request: what a kill may cost in
receipts that were not yet recorded."""
COUNT_AFTER_SECONDS = 1.0
"""A display estimates nothing in the first two seconds, so that it misses nothing."""
FAILURES_IN_CATALOG = 100
"""Failures of a run that ``stats`` can still name later."""

PACK_BYTES = 16 * 1024 * 1024
MIN_PART_BYTES = 5 * 1024 * 1024


async def run_section(
    settings: Settings,
    section: SectionSettings,
    *,
    dry_run: bool = False,
    checksum: bool = False,
    scan_ahead: bool = False,
    counters: RunCounters | None = None,
    stop: StopRequest | None = None,
    on_change: Callable[[Change], None] | None = None,
    database: Path | None = None,
    reading: SideProcess | None = None,
) -> RunSummary:
    """Save the section's tree as one snapshot and tell what was done.

    ``checksum`` reads every file instead of trusting its times; ``dry_run``
    sends nothing and changes nothing, and gives ``on_change`` everything that
    a run would look at; ``scan_ahead`` counts the tree beside a run that lasts, so that
    ``counters`` can tell how much is left. ``database`` is used in place of the
    section's own. ``reading`` is a process that reads small files, made by
    :func:`~asyncbackup.pipeline.reading_process.fork_reader` before there was a
    thread; without one they are read in threads.

    Failures confined to single files are in the summary. Raises
    ``SourceGuardError``, ``CatalogError``, ``SectionBusyError``, ``StoreError``,
    ``FormatError``, ``KeyUnlockError``, or ``Interrupted`` once a requested
    stop has left everything in order; then no snapshot was made.
    """
    counters = counters or RunCounters()
    stop = stop or StopRequest()
    empty = _check_source(section)
    async with Catalog.open(
        database or settings.database_path(section.name),
        section=section.name,
        destination=section.destination,
    ) as catalog:
        if empty:
            await _guard_against_empty(section, catalog)
        run = _Run(
            settings,
            section,
            catalog,
            counters,
            stop,
            reading,
            checksum=checksum,
            scan_ahead=scan_ahead,
            dry_run=dry_run,
        )
        return await (run.rehearse(on_change) if dry_run else run.save())


class _Run:
    """The state of one run. The public way in is :func:`run_section`."""

    def __init__(
        self,
        settings: Settings,
        section: SectionSettings,
        catalog: Catalog,
        counters: RunCounters,
        stop: StopRequest,
        reading: SideProcess | None,
        *,
        checksum: bool,
        scan_ahead: bool,
        dry_run: bool,
    ) -> None:
        self._reading = reading
        self._settings = settings
        self._section = section
        self._catalog = catalog
        self._counters = counters
        self._stop = stop
        self._scan_ahead = scan_ahead
        self._detector = Detector(
            catalog.entries,
            catalog.links,
            counters,
            UnchangedFolders(catalog.listings, read_only=dry_run),
            checksum=checksum,
            find_moved=section.packed,
            links_together_below=self._pack_below_bytes if section.packed else 0,
        )
        self._walk_settings = _walk_settings(settings, section)
        self._began = time.monotonic()

    async def save(self) -> RunSummary:
        catalog = self._catalog
        async with open_repository(
            self._settings,
            self._section,
            cached_descriptor=await catalog.read_meta(DESCRIPTOR),
            # Another machine may have created the repository in the same moment, and its word lies there.
            read_anew=await catalog.runs.last_snapshot() is None,
            expected_repository=catalog.identity.repository,
            on_retry=self._on_retry,
        ) as repository:
            started_ns = time.time_ns()
            last = await catalog.runs.last()
            known = await known_prunes(catalog)
            # Later than the prunes too: what they packed anew is of a run with their id.
            earlier = {RunId(prune) for prune in known} | ({last.run} if last else set())
            run = new_run_id(started_ns, after=max(earlier, default=None))
            ended_unclean = await catalog.runs.ended_unclean()
            await catalog.runs.begin(run, started_ns=started_ns)
            await self._announce(repository, run, known, started_ns)
            resumable: dict[bytes, ResumableUpload] = {}
            if ended_unclean or await catalog.uploads.all():
                from asyncbackup.leftovers import take_up_uploads

                resumable = await take_up_uploads(repository, catalog)
            await catalog.runs.settle_unclean(finished_ns=started_ns, before=run)
            await catalog.links.clear()
            contents = await self._contents(ended_unclean=ended_unclean)
            recorder = Recorder(
                catalog.entries,
                self._counters,
                contents=contents,
                run=run,
                # One request at a time waits for nobody's receipt.
                gather=4 * (self._settings.concurrency - 1),
            )
            async with late_transfer(
                lambda: self._transfer_settings(repository, run, resumable),
                repository.store,
                catalog.uploads,
                self._counters,
                self._stop,
                contents,
                self._reading,
            ) as transfer:
                account = LimitAccount(transfer, repository.store.load)
                with single_error():
                    async with self._background(account.run()):
                        await self._save_tree(transfer, recorder, account)
                        await self._save_links(transfer, recorder, account)
            if self._stop.requested:
                await catalog.runs.finish(run, finished_ns=time.time_ns(), committed=False, summary=None)
                raise Interrupted(
                    "stopped as asked; what was uploaded is kept, and the next run goes on from there"
                )
            if await catalog.uploads.all():
                from asyncbackup.leftovers import abort_unused

                await abort_unused(repository, catalog)
            await look_again(repository, known=known, started_ns=started_ns, now_ns=time.time_ns())
            written = await write_manifest(
                repository, catalog, self._section, run, started_ns=started_ns, failures=recorder.failures
            )
            await look_back(repository, run, known=known, started_ns=started_ns, now_ns=time.time_ns())
            await settle(catalog, written)
            if not repository.store.capabilities.uploads_known:
                from asyncbackup.leftovers import abort_untold

                await abort_untold(repository)
            await note_written(repository, catalog)
            summary = self._summary(
                snapshot=run,
                written=written,
                requests=dict(repository.store.requests),
                peak_inflight_bytes=transfer.peak_bytes,
                limited_by=account.limited_by,
                limited_by_shares=account.shares,
                load=repository.store.load,
                failures=tuple(recorder.failures),
            )
            kept = msgspec.structs.replace(summary, failures=summary.failures[:FAILURES_IN_CATALOG])
            await catalog.runs.finish(run, finished_ns=time.time_ns(), committed=True, summary=kept)
            await catalog.write_meta(DESCRIPTOR, repository.descriptor_bytes)
            return summary

    async def _announce(
        self, repository: Repository, run: RunId, known: frozenset[str], started_ns: int
    ) -> None:
        """Say that the run begins, and make sure that what the catalog relies on is still there."""
        catalog = self._catalog
        try:
            await announce_run(
                repository,
                run,
                known=known,
                started_ns=started_ns,
                hide_host=self._section.encryption.hide_names,
            )
            try:
                await _check_last_snapshot(repository, catalog)
            except CatalogError:
                await withdraw(repository, run_mark_key(repository.section, run))
                raise
        except ObjectExistsError as error:
            # As a run of this machine its mark would stop no prune of this machine.
            await catalog.runs.discard(run)
            raise SectionBusyError(
                f"another machine runs section {self._section.name!r}, and began in the same second under "
                f"the same id {run}; run again"
            ) from error
        except (CatalogError, SectionBusyError):
            # Nothing was begun, so nothing has to be looked for.
            await catalog.runs.finish(run, finished_ns=time.time_ns(), committed=False, summary=None)
            raise

    async def rehearse(self, on_change: Callable[[Change], None] | None = None) -> RunSummary:
        """The dry run: walk and compare, send nothing, keep nothing."""
        from asyncbackup.pipeline.tally import Tally

        await self._catalog.links.clear()
        tally = Tally(self._catalog.entries, self._counters, on_change=on_change)
        changes_in, changes = _change_channel()
        outcomes_in, outcomes = _outcome_channel(self._settings)
        with single_error():
            async with self._background(), asyncio.TaskGroup() as group:
                with outcomes_in:
                    self._start_detecting(group, changes_in, outcomes_in.clone())
                    group.create_task(tally.count_changes(changes, outcomes_in.clone()))
                group.create_task(tally.count_outcomes(outcomes))
        async for page in self._catalog.links.deferred():
            for link in page:
                tally.count_change(_change_of_link(link))
        if self._stop.requested:
            raise Interrupted("stopped as asked; nothing was changed")
        return self._summary(
            failures=tuple(tally.failures), dry_run=True, bytes_to_upload=tally.bytes_to_upload
        )

    async def _save_tree(self, transfer: LateTransfer, recorder: Recorder, account: LimitAccount) -> None:
        """Walk, detect, transfer, record: everything but further names of linked files."""
        changes_in, changes = _change_channel()
        outcomes_in, outcomes = _outcome_channel(self._settings)
        account.watch(changes, outcomes_in)
        async with asyncio.TaskGroup() as group:
            with outcomes_in:
                self._start_detecting(group, changes_in, outcomes_in.clone())
                group.create_task(transfer.run(changes, outcomes_in.clone()))
            group.create_task(recorder.run(outcomes))

    async def _save_links(self, transfer: LateTransfer, recorder: Recorder, account: LimitAccount) -> None:
        """Further names of files whose content is saved by now."""
        changes_in, changes = _change_channel()
        outcomes_in, outcomes = _outcome_channel(self._settings)
        account.watch(changes, outcomes_in)
        async with asyncio.TaskGroup() as group:
            with outcomes_in:
                group.create_task(transfer.run(changes, outcomes_in.clone(), in_order=True))
            group.create_task(recorder.run(outcomes))
            with changes_in:
                if not self._stop.requested:
                    async for page in self._catalog.links.deferred():
                        await changes_in.send([_change_of_link(link) for link in page])

    def _start_detecting(
        self, group: asyncio.TaskGroup, changes: Sender[list[Change]], outcomes: Sender[Outcome]
    ) -> None:
        listings_in: Sender[WalkBatch]
        listings_in, listings = open_channel("listings", WALK_BATCHES)
        group.create_task(self._walk(listings_in))
        group.create_task(self._detector.run(listings, changes, outcomes))

    async def _walk(self, listings: Sender[WalkBatch]) -> None:
        gate = ThreadGate("walk", self._walk_settings.tasks)
        try:
            await walk(self._walk_settings, listings, gate, self._stop)
        finally:
            gate.close(wait=False)

    @asynccontextmanager
    async def _background(self, *work: Coroutine[None, None, None]) -> AsyncIterator[None]:
        """Work beside the run that ends with it."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
            if self._scan_ahead:
                tasks.append(group.create_task(self._count_ahead()))
            yield
            for task in tasks:
                task.cancel()

    async def _count_ahead(self) -> None:
        """Count the tree where the run lasts; a short one would list it twice and be over sooner."""
        await asyncio.sleep(COUNT_AFTER_SECONDS)
        from asyncbackup.counting import count_ahead

        await count_ahead(self._walk_settings, self._counters)

    @property
    def _pack_below_bytes(self) -> int:
        return min(self._section.pack_below_bytes, self._pack_size_bytes)

    @property
    def _pack_size_bytes(self) -> int:
        # An eighth: one pack that is open and those on their way leave room for what is read meanwhile.
        return min(PACK_BYTES, self._settings.memory_limit_bytes // 8)

    async def _contents(self, *, ended_unclean: bool) -> ContentTable | None:
        """Where contents are found by their digest; ``None`` in a mirror, which never asks.

        A run that died had noted entries whose contents it had not noted yet.
        """
        kept = await self._catalog.read_meta(CONTENTS_KEPT) == KEPT
        if not self._section.packed:
            if kept:
                await self._catalog.write_meta(CONTENTS_KEPT, b"")
            return None
        if not kept or ended_unclean:
            await self._catalog.contents.take_over_entries()
            await self._catalog.write_meta(CONTENTS_KEPT, KEPT)
        return self._catalog.contents

    async def _transfer_settings(
        self, repository: Repository, run: RunId, resumable: Mapping[bytes, ResumableUpload]
    ) -> TransferSettings:
        from asyncbackup.pipeline.transfer_settings import TransferSettings

        settings = self._settings
        quarter = settings.memory_limit_bytes // 4
        return TransferSettings(
            root=self._walk_settings.root,
            section=self._section.name,
            run=run,
            repository=repository.repository_id,
            store_prefix_bytes=key_prefix_bytes(self._section.destination),
            concurrency=settings.concurrency,
            part_size_bytes=min(settings.part_size_bytes, max(MIN_PART_BYTES, quarter)),
            memory_limit_bytes=settings.memory_limit_bytes,
            key=repository.key if repository.seals else None,
            resumable=resumable,
            delta_from_bytes=settings.delta_from_bytes,
            packed=self._section.packed,
            pack_below_bytes=self._pack_below_bytes,
            pack_size_bytes=self._pack_size_bytes,
            zstd_level=self._section.zstd_level,
            hidden=self._hidden_names(repository),
            run_started=await self._catalog.runs.started() if self._section.packed else {},
        )

    def _hidden_names(self, repository: Repository) -> HiddenNames | None:
        key = repository.key if repository.seals else None
        if key is None or not self._section.encryption.hide_names:
            return None
        from asyncbackup.format.hidden import HiddenNames

        return HiddenNames(key)

    def _on_retry(self, reason: str) -> None:
        self._counters.retries += 1
        log.info("%s", reason)

    def _summary(
        self,
        *,
        failures: tuple[Failure, ...],
        snapshot: str = "",
        written: WrittenManifest | None = None,
        requests: dict[str, int] | None = None,
        peak_inflight_bytes: int = 0,
        limited_by: str = "walk",
        limited_by_shares: dict[str, float] | None = None,
        load: RequestLoad | None = None,
        dry_run: bool = False,
        bytes_to_upload: int = 0,
    ) -> RunSummary:
        counters = self._counters
        return RunSummary(
            section=self._section.name,
            snapshot=snapshot,
            host=written.host if written is not None else "",
            base=(written.plan.base or "") if written is not None else "",
            manifest_bytes=written.size if written is not None else 0,
            files_scanned=counters.files_scanned,
            files_new=counters.files_new,
            files_changed=counters.files_changed,
            files_unchanged=counters.files_unchanged,
            files_deleted=counters.files_deleted,
            files_failed=counters.files_failed,
            files_ignored=counters.files_ignored,
            symlinks=counters.symlinks,
            folders=counters.folders,
            bytes_scanned=counters.bytes_scanned,
            bytes_read=counters.bytes_read,
            bytes_uploaded=counters.bytes_uploaded,
            requests=requests or {},
            elapsed_seconds=round(time.monotonic() - self._began, 3),
            peak_inflight_bytes=peak_inflight_bytes,
            limited_by=limited_by,
            limited_by_shares=limited_by_shares or {},
            concurrency={"final": load.size, "peak": load.peak} if load is not None else {},
            dry_run=dry_run,
            bytes_to_upload=bytes_to_upload,
            failures=failures,
        )


def _change_channel() -> tuple[Sender[list[Change]], Receiver[list[Change]]]:
    return open_channel("changes", CHANGE_BATCHES)


def _outcome_channel(settings: Settings) -> tuple[Sender[Outcome], Receiver[Outcome]]:
    return open_channel("outcomes", OUTCOMES + 2 * settings.concurrency)


def _change_of_link(link: DeferredLink) -> Change:
    first = link.first_path == link.entry.path
    return Change(
        entry=link.entry,
        action=Action.UPLOAD if first else Action.LINK,
        pending=link.pending,
        known=link.known,
        known_pending=link.known_pending,
        link_to=link.first,
        first_path=link.first_path,
    )


def _check_source(section: SectionSettings) -> bool:
    """Whether the tree is empty. Raises ``SourceGuardError`` unless its root can be listed."""
    try:
        with os.scandir(section.path) as scan:
            return next(scan, None) is None
    except OSError as error:
        raise SourceGuardError(
            f"section {section.name!r}: cannot list {local_path(section.path)}: {error.strerror}; mount it, "
            "make it readable, or correct 'path' in the configuration. Nothing was changed"
        ) from error


async def _guard_against_empty(section: SectionSettings, catalog: Catalog) -> None:
    """A tree that is suddenly empty is more likely an unmounted disk than a wish."""
    if not section.allow_empty_source and not await catalog.entries.is_empty():
        raise SourceGuardError(
            f"section {section.name!r}: {local_path(section.path)} is empty, but the last snapshot is "
            "not; is a disk not mounted? If it is meant to be empty, set allow_empty_source = true. "
            "Nothing was changed"
        )


async def _check_last_snapshot(repository: Repository, catalog: Catalog) -> None:
    """Is the manifest of the last snapshot still there, in whichever revision?

    That the snapshot was forgotten does not matter: every prune is known by
    now, and what the catalog refers to outlives those of this machine.
    """
    last = await catalog.runs.last_snapshot()
    if last is None:
        return
    try:
        await repository.store.head(snapshot_key(repository.section, last))
    except ObjectMissingError as error:
        if await newest_revision(repository, last):
            return
        raise CatalogError(
            f"the database relies on snapshot {last}, which the destination has not: it is older than a "
            "deletion there. Move the database away and rebuild it with 'asyncbackup syncdb_remote'"
        ) from error
    except AccessDeniedError:
        log.info("the credentials may not read: whether snapshot %s is still there is not checked", last)


def _walk_settings(settings: Settings, section: SectionSettings) -> WalkSettings:
    inodes: set[tuple[int, int]] = set()
    for folder in (settings.state_dir, local_folder(section.destination)):
        if folder is None:
            continue
        try:
            status = folder.stat()
        except OSError:
            continue
        inodes.add((status.st_dev, status.st_ino))
    root = section.path.stat()
    inodes.discard((root.st_dev, root.st_ino))
    return WalkSettings(
        root=os.fsencode(section.path),
        excludes=compile_excludes(section.exclude, section=section.name),
        skip_inodes=frozenset(inodes),
        device=root.st_dev if section.one_file_system else None,
    )
