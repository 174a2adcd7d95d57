"""Pruning a section: deletes what no kept snapshot needs, in the order of docs/format.md.

A kill at any point leaves every kept snapshot whole, and the next prune does the rest.
"""

from __future__ import annotations

import platform
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec

from asyncbackup import __version__
from asyncbackup.catalog.catalog import Catalog
from asyncbackup.catalog.needed import NeededObjects
from asyncbackup.catalog.pruning import drop_unneeded, move_contents
from asyncbackup.errors import (
    AccessDeniedError,
    FormatError,
    Interrupted,
    SectionBusyError,
    StoreError,
)
from asyncbackup.flow.stop import StopRequest
from asyncbackup.format.keys import (
    forgotten_key,
    prune_done_key,
    prune_mark_key,
    run_mark_key,
    run_prefix,
)
from asyncbackup.format.runid import new_run_id
from asyncbackup.model import Pack, RunId
from asyncbackup.prune.forest import Node
from asyncbackup.prune.hold import Hold, hold_section
from asyncbackup.prune.needs import Needs
from asyncbackup.prune.repack import Repacking
from asyncbackup.prune.summary import REPACK_BELOW_PERCENT, PruneCounters, PruneSummary
from asyncbackup.repository.marks import (
    HOUR_NS,
    KNOWN_PRUNES,
    MIN_AGE_NS,
    Listed,
    PruneMark,
    check_for_prunes,
    check_none_under_way,
    encode_known,
    known_prunes,
    list_prunes,
    list_run_marks,
    prune_keys,
    put_mark,
    withdraw,
)
from asyncbackup.repository.open import Repository, open_repository
from asyncbackup.repository.parallel import in_parallel
from asyncbackup.repository.snapshots import SnapshotInfo, list_forgotten, list_manifest_revisions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from asyncbackup.config import SectionSettings, Settings

LONGEST_NS = MIN_AGE_NS - HOUR_NS
"""A prune that takes longer gives up, before others take it for dead and go on beside it."""
DELETE_AT_ONCE = 1000
"""Keys of one request; S3 takes no more."""
DELETING = 4
"""Such requests under way at once."""


async def prune_section(
    settings: Settings,
    section: SectionSettings,
    *,
    dry_run: bool = False,
    min_age_ns: int = MIN_AGE_NS,
    repack_below_percent: float = REPACK_BELOW_PERCENT,
    counters: PruneCounters | None = None,
    stop: StopRequest | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> PruneSummary:
    """Delete what no snapshot of the section needs that is not forgotten.

    Runs and prunes of other machines that did not say that they ended count as
    under way until they are ``min_age_ns`` old; beside one, nothing is deleted
    and ``SectionBusyError`` is raised. A pack of which less than
    ``repack_below_percent`` is needed is written anew without the rest; 0
    leaves all as they are. ``dry_run`` writes nothing, and what it says of packs
    is an estimate.

    The section's database is used and brought up to date if this machine has
    one. Raises ``CatalogBehindError`` if that does not account for an earlier
    prune, ``AccessDeniedError`` where the credentials may not delete,
    ``FormatError`` if the manifest of a kept snapshot is missing or damaged
    (then nothing was deleted), ``CatalogError``, ``StoreError``, and
    ``Interrupted`` after a requested stop.
    """
    async with AsyncExitStack() as stack:
        catalog = hold = None
        path = settings.database_path(section.name)
        if not path.exists():
            if not dry_run:
                hold = stack.enter_context(hold_section(path.with_suffix(".prune")))
        else:
            catalog = await stack.enter_async_context(
                Catalog.open(path, section=section.name, destination=section.destination)
            )
        repository = await stack.enter_async_context(
            open_repository(
                settings,
                section,
                expected_repository=catalog.identity.repository if catalog else None,
                on_retry=on_retry,
            )
        )
        return await prune_repository(
            repository,
            catalog,
            hold,
            scratch_folder=settings.state_dir,
            dry_run=dry_run,
            min_age_ns=min_age_ns,
            repack_below_percent=repack_below_percent,
            zstd_level=section.zstd_level,
            hide_host=section.encryption.hide_names,
            counters=counters,
            stop=stop,
        )


async def prune_repository(
    repository: Repository,
    catalog: Catalog | None,
    hold: Hold | None = None,
    *,
    scratch_folder: Path,
    dry_run: bool = False,
    min_age_ns: int = MIN_AGE_NS,
    repack_below_percent: float = REPACK_BELOW_PERCENT,
    zstd_level: int = 0,
    hide_host: bool = False,
    counters: PruneCounters | None = None,
    stop: StopRequest | None = None,
) -> PruneSummary:
    """:func:`prune_section` for a repository and a catalog that are open.

    Without a catalog, ``hold`` knows of the prunes that this machine began.
    What is needed is noted in a temporary database in ``scratch_folder``.
    """
    async with NeededObjects.open(scratch_folder) as needed:
        prune = _Prune(
            repository,
            catalog,
            hold,
            needed,
            min_age_ns=min_age_ns,
            repack_below_percent=repack_below_percent,
            zstd_level=zstd_level,
            hide_host=hide_host,
            counters=counters or PruneCounters(),
            stop=stop or StopRequest(),
        )
        return await (prune.rehearse() if dry_run else prune.run())


class _Doomed(msgspec.Struct, frozen=True, kw_only=True):
    """What has to go besides objects below ``data/``, and the sums of all."""

    superseded: tuple[SnapshotInfo, ...]
    """Revisions of manifests that have newer ones."""
    manifests: tuple[SnapshotInfo, ...]
    """Of forgotten snapshots on which nothing rests."""
    marks: tuple[str, ...]
    forest: dict[RunId, Node]
    """The manifests that stay."""
    candidates: tuple[tuple[Pack, int], ...]
    """Packs that are mostly unneeded, and about how many bytes of each are needed."""
    kept: int
    objects: int
    bytes: int
    packs_rewritten: int = 0
    bytes_written: int = 0
    manifests_rewritten: int = 0


class _Prune:
    """The state of one prune. The public way in is :func:`prune_section`."""

    def __init__(
        self,
        repository: Repository,
        catalog: Catalog | None,
        hold: Hold | None,
        needed: NeededObjects,
        *,
        min_age_ns: int,
        repack_below_percent: float,
        zstd_level: int,
        hide_host: bool,
        counters: PruneCounters,
        stop: StopRequest,
    ) -> None:
        self._repository = repository
        self._section = repository.section
        self._store = repository.store
        self._catalog = catalog
        self._hold = hold
        self._needed = needed
        self._min_age_ns = min_age_ns
        self._repack_below_percent = repack_below_percent
        self._zstd_level = zstd_level
        self._hide_host = hide_host
        self._counters = counters
        self._stop = stop
        self._own_runs: frozenset[str] = frozenset()
        self._began = time.monotonic()
        self._started_ns = time.time_ns()

    async def rehearse(self) -> PruneSummary:
        """Find out what a prune would do; write nothing."""
        prunes = await self._look_for_prunes(await self._known())
        await self._check_runs(now_ns=self._started_ns)
        doomed = await self._find_doomed(prunes)
        packs = [pack for pack, _ in doomed.candidates]
        naming = await self._naming(doomed, packs)
        sizes = [pack.size for pack in packs] + [node.info.size for node in naming]
        return self._summary(
            "",
            msgspec.structs.replace(
                doomed,
                objects=doomed.objects + len(sizes),
                bytes=doomed.bytes + sum(sizes),
                packs_rewritten=len(packs),
                bytes_written=sum(needed for _, needed in doomed.candidates),
                manifests_rewritten=len(naming),
            ),
            dry_run=True,
        )

    async def run(self) -> PruneSummary:
        known = await self._known()
        earlier = await self._look_for_prunes(known)
        manifests = await list_manifest_revisions(self._repository)
        prune = new_run_id(
            self._started_ns, after=max([*earlier, *(info.id for info in manifests)], default=None)
        )
        await self._check_that_deleting_is_allowed(prune)
        if self._catalog is not None:
            # It accounts for this prune from its first to its last moment.
            note = encode_known((known & earlier.keys()) | {prune})
            await self._catalog.write_meta(KNOWN_PRUNES, note)
        if self._hold is not None:
            self._hold.begin(prune)
        await put_mark(self._repository, prune_mark_key(self._section, prune), self._mark(prune))
        deleting = False
        try:
            now_ns = await self._check_prunes(prune, known)
            await self._check_runs(now_ns=now_ns)
            doomed = await self._repack(prune, await self._find_doomed(earlier))
            if not doomed.objects and all(each.done for each in earlier.values()):
                # Nobody has to read anything anew because of a prune that did nothing.
                await self._delete(doomed.marks)
                await withdraw(self._repository, prune_mark_key(self._section, prune))
                self._ended()
                return self._summary("", doomed)
            if self._catalog is not None:
                await drop_unneeded(
                    self._catalog, self._needed, removed=[info.id for info in doomed.manifests]
                )
            await self._check_runs(now_ns=now_ns)
            self._go_on()
            deleting = True
            await self._delete([info.key for info in doomed.superseded])
            await self._delete_objects()
            await self._delete([info.key for info in doomed.manifests])
            await self._delete(doomed.marks)
        except BaseException:
            if not deleting:
                await withdraw(self._repository, prune_mark_key(self._section, prune))
            raise
        await put_mark(self._repository, prune_done_key(self._section, prune), self._mark(prune))
        await self._delete([key for each in earlier for key in prune_keys(self._section, each)])
        self._ended()
        return self._summary(prune, doomed)

    def _ended(self) -> None:
        if self._hold is not None:
            self._hold.end()

    async def _known(self) -> frozenset[str]:
        if self._catalog is None:
            return self._hold.earlier if self._hold is not None else frozenset()
        self._own_runs = frozenset(record.run for record in await self._catalog.runs.all())
        return await known_prunes(self._catalog)

    async def _look_for_prunes(self, known: frozenset[str]) -> dict[RunId, Listed]:
        """Those that left marks. Raises ``SectionBusyError`` and ``CatalogBehindError``."""
        if self._catalog is not None and self._own_runs:
            await check_for_prunes(self._repository, known=known, min_age_ns=self._min_age_ns)
        prunes = await list_prunes(self._repository)
        check_none_under_way(
            self._repository, prunes, known=known, now_ns=self._started_ns, min_age_ns=self._min_age_ns
        )
        return prunes

    async def _check_that_deleting_is_allowed(self, prune: RunId) -> None:
        """Raises before anything is written: a mark that cannot be taken back stops the runs of others."""
        try:
            await self._store.delete([prune_done_key(self._section, prune)])
        except AccessDeniedError as error:
            raise AccessDeniedError(
                error.operation,
                error.key,
                f"{error.reason}; prune needs credentials that may delete (s3:DeleteObject). "
                "Nothing was deleted",
                code=error.code,
            ) from error

    async def _check_prunes(self, prune: RunId, known: frozenset[str]) -> int:
        """Is another prune at work? Gives the time by the store's clock, if that is behind this machine's."""
        prunes = await list_prunes(self._repository)
        others = {run: each for run, each in prunes.items() if run != prune}
        own = prunes.get(prune)
        now_ns = min(time.time_ns(), own.modified_ns) if own and own.modified_ns else time.time_ns()
        check_none_under_way(
            self._repository, others, known=known, now_ns=now_ns, min_age_ns=self._min_age_ns
        )
        return now_ns

    async def _check_runs(self, *, now_ns: int) -> None:
        """Raises ``SectionBusyError`` if a run of another machine is under way."""
        marks = await list_run_marks(self._repository)
        unfinished = marks.keys() - self._own_runs
        if unfinished:
            unfinished -= {info.id for info in await list_manifest_revisions(self._repository)}
        if unfinished:
            unfinished -= await list_forgotten(self._repository)
        for run in sorted(unfinished):
            if not marks[run].is_stale(now_ns=now_ns, min_age_ns=self._min_age_ns):
                raise SectionBusyError(
                    f"run {run} of section {self._section!r} is under way on another machine, or ended there "
                    f"without a snapshot; nothing was deleted. {self._min_age_ns // HOUR_NS} hours after its "
                    "begin it counts as dead; --min-age changes that"
                )

    async def _find_doomed(self, prunes: Mapping[RunId, Listed]) -> _Doomed:
        """Steps 2 and 4 as far as they only look."""
        revisions = await list_manifest_revisions(self._repository)
        current = {info.id: info for info in revisions}
        forgotten = await list_forgotten(self._repository)
        kept = current.keys() - forgotten
        needs = Needs(self._repository, self._needed, self._counters, self._go_on)
        try:
            forest = await needs.of_snapshots(current, kept)
        except FormatError as error:
            raise FormatError(f"{error}; nothing was deleted") from error
        if self._catalog is not None:
            await needs.of_catalog(self._catalog)
        await needs.sort_out_objects()
        superseded = tuple(info for info in revisions if info != current[info.id])
        manifests = tuple(current[run] for run in sorted(forgotten & (current.keys() - forest.keys())))
        # A mark of a run without a snapshot is that of a dead one, or the prune would have stopped.
        marks = await list_run_marks(self._repository)
        dead = marks.keys() - (current.keys() - {info.id for info in manifests})
        gone = forgotten - forest.keys()
        count, size = await self._needed.totals()
        return _Doomed(
            superseded=superseded,
            manifests=manifests,
            # Without its mark a forgotten run's must be gone too: alone it would look like a run under way.
            marks=(
                *(run_mark_key(self._section, run) for run in sorted(dead)),
                *(forgotten_key(self._section, run) for run in sorted(gone)),
            ),
            forest=forest,
            candidates=await self._candidates(),
            kept=len(kept),
            objects=count + len(superseded) + len(manifests),
            bytes=size + sum(info.size for info in (*superseded, *manifests)),
        )

    async def _candidates(self) -> tuple[tuple[Pack, int], ...]:
        repository = self._repository
        if not self._repack_below_percent or (repository.key is not None and not repository.seals):
            # Sealed packs and manifests would have to be written in clear.
            return ()
        return tuple(await self._needed.packs.mostly_unneeded(percent=self._repack_below_percent))

    async def _naming(self, doomed: _Doomed, packs: Sequence[Pack]) -> list[Node]:
        """The manifests whose lines refer to ``packs``."""
        numbers = await self._needed.packs.naming(frozenset((pack.run, pack.key) for pack in packs))
        return [node for node in doomed.forest.values() if node.number in numbers]

    async def _repack(self, prune: RunId, doomed: _Doomed) -> _Doomed:
        """Step 3: new packs, then manifests that say so, then the catalog. What is replaced is doomed."""
        if not doomed.candidates:
            return doomed
        repacking = Repacking(
            self._repository, self._needed, prune, zstd_level=self._zstd_level, go_on=self._go_on
        )
        packs = [pack for pack, _ in doomed.candidates]
        repacked = await repacking.write_packs(packs, doomed.forest.values(), self._catalog)
        if not repacked:
            return doomed
        new = {(each.old.run, each.old.key): each.new for each in repacked}
        replaced: list[SnapshotInfo] = []
        for node in await self._naming(doomed, [each.old for each in repacked]):
            await repacking.revise(node, new)
            replaced.append(node.info)
        if self._catalog is not None:
            await move_contents(self._catalog, self._needed, list(new.values()))
        for each in repacked:
            await self._needed.replaced(each.old, each.new)
        sizes = [each.old.size for each in repacked] + [info.size for info in replaced]
        return msgspec.structs.replace(
            doomed,
            superseded=(*doomed.superseded, *replaced),
            objects=doomed.objects + len(sizes),
            bytes=doomed.bytes + sum(sizes),
            packs_rewritten=len(repacked),
            bytes_written=sum(pack.size for pack in new.values()),
            manifests_rewritten=len(replaced),
        )

    async def _delete_objects(self) -> None:
        """Delete what is doomed below ``data/``, some thousand at a time."""
        self._counters.objects_total, _ = await self._needed.totals()
        async for page in self._needed.doomed(page_rows=DELETING * DELETE_AT_ONCE):
            await self._delete([run_prefix(self._section, found.run) + found.key for found in page])
            self._counters.objects_deleted += len(page)

    async def _delete(self, keys: Sequence[str]) -> None:
        batches = [keys[start : start + DELETE_AT_ONCE] for start in range(0, len(keys), DELETE_AT_ONCE)]
        for start in range(0, len(batches), DELETING):
            self._go_on()
            await in_parallel(batches[start : start + DELETING], self._store.delete, limit=DELETING)

    def _go_on(self) -> None:
        if self._stop.requested:
            raise Interrupted("stopped as asked; the next prune does the rest")
        if time.time_ns() - self._started_ns > LONGEST_NS:
            raise StoreError(
                "DeleteObjects",
                "",
                f"the prune took over {LONGEST_NS // HOUR_NS} hours, after which runs of other machines "
                "would go on beside it; prune again, the rest is less",
            )

    def _mark(self, prune: RunId) -> PruneMark:
        return PruneMark(
            prune=prune,
            started_ns=self._started_ns,
            host="" if self._hide_host else platform.node(),
            software=f"asyncbackup {__version__}",
        )

    def _summary(self, prune: str, doomed: _Doomed, *, dry_run: bool = False) -> PruneSummary:
        return PruneSummary(
            section=self._section,
            prune=prune,
            snapshots=doomed.kept,
            snapshots_removed=len(doomed.manifests),
            objects_deleted=doomed.objects,
            bytes_deleted=doomed.bytes,
            packs_rewritten=doomed.packs_rewritten,
            bytes_written=doomed.bytes_written,
            manifests_rewritten=doomed.manifests_rewritten,
            requests=dict(self._store.requests),
            elapsed_seconds=round(time.monotonic() - self._began, 3),
            dry_run=dry_run,
        )
