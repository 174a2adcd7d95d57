"""Verifying a section from its settings: which snapshots, and what the descriptor is worth."""

from __future__ import annotations

import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.catalog.expected import ExpectedObjects
from asyncbackup.errors import CatalogError, FormatError, RepositoryMissingError, SectionBusyError
from asyncbackup.format.keys import DESCRIPTOR_KEY, prunes_prefix
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.snapshots import choose_snapshot, list_forgotten, list_manifests
from asyncbackup.verify.repair import find_lost, mark
from asyncbackup.verify.summary import Damage, VerifyCounters, VerifySummary
from asyncbackup.verify.verification import verify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import RunId
    from asyncbackup.repository.open import Repository

log = logging.getLogger(__name__)


async def verify_section(
    settings: Settings,
    section: SectionSettings,
    *,
    snapshots: Sequence[str] = (),
    read_percent: float = 0.0,
    save_again: Callable[[VerifySummary], Awaitable[None]] | None = None,
    counters: VerifyCounters | None = None,
    stop: StopRequest | None = None,
    on_damage: Callable[[Damage], None] | None = None,
    on_lost: Callable[[Damage], None] | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> VerifySummary:
    """Check the section's destination against its manifests, all of them or those of ``snapshots``
    (named as for ``restore``). What is forgotten is not looked at.

    ``read_percent`` is how much to read: 0 only what cannot be compared
    otherwise, 100 everything. A damaged or missing descriptor is damage as
    well. The database is used for one thing, if it is there and free: the
    last snapshot it knows must be at the destination.

    With ``save_again`` the section is repaired as far as its tree allows. The
    database is held meanwhile and forgets what is damaged; then, if that was
    anything, ``save_again`` is called, which has to let the section run, and
    ``on_lost`` is told what that could not bring back. Earlier snapshots stay
    as they are.

    Raises as :func:`~asyncbackup.verify.verification.verify` does,
    ``ConfigError`` for a snapshot that does not exist, ``SectionBusyError`` if a
    prune came between and something is missing that may have gone with it, and
    for a repair ``CatalogMissingError`` and ``SectionBusyError``.
    """
    look = _Look(
        settings,
        section,
        names=snapshots,
        read_percent=read_percent,
        counters=counters,
        stop=stop,
        on_damage=on_damage,
        on_retry=on_retry,
    )
    if save_again is None:
        known = await _last_known_snapshot(settings, section)
        async with ExpectedObjects.open(settings.state_dir) as expected:
            return await look.run(expected, known)
    async with ExpectedObjects.open(settings.state_dir) as expected:
        async with _catalog(settings, section) as catalog:
            summary = await look.run(expected, await catalog.runs.last_snapshot())
            if not summary.damaged_objects:
                return summary
            files, anything = await mark(catalog, expected, summary)
        summary = msgspec.structs.replace(summary, files_to_save=files)
        if anything:
            await save_again(summary)
        async with _catalog(settings, section) as catalog:
            return await find_lost(catalog, expected, summary, on_lost=on_lost or (lambda damage: None))


class _Look:
    """One verification of a section, without repair."""

    def __init__(
        self,
        settings: Settings,
        section: SectionSettings,
        *,
        names: Sequence[str],
        read_percent: float,
        counters: VerifyCounters | None,
        stop: StopRequest | None,
        on_damage: Callable[[Damage], None] | None,
        on_retry: Callable[[str], None] | None,
    ) -> None:
        self._settings = settings
        self._section = section
        self._names = names
        self._read_percent = read_percent
        self._counters = counters
        self._stop = stop
        self._on_damage = on_damage
        self._on_retry = on_retry

    async def run(self, expected: ExpectedObjects, known: RunId | None) -> VerifySummary:
        """Fill ``expected``; ``known`` is the last snapshot that the database knows."""
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            try:
                repository = await stack.enter_async_context(
                    open_repository(self._settings, self._section, on_retry=self._on_retry)
                )
            except (FormatError, RepositoryMissingError) as error:
                if isinstance(error, RepositoryMissingError) and known is None:
                    raise  # nothing says that there ever was a repository
                damage = Damage(key=DESCRIPTOR_KEY, reason=str(error).removeprefix(f"{DESCRIPTOR_KEY}: "))
                if self._on_damage is not None:
                    self._on_damage(damage)
                return _only(damage, self._section.name, elapsed_seconds=time.monotonic() - began)
            return await self._verify(repository, expected, known)

    async def _verify(
        self, repository: Repository, expected: ExpectedObjects, known: RunId | None
    ) -> VerifySummary:
        manifests = await list_manifests(repository)
        forgotten = await list_forgotten(repository)
        found = [manifest for manifest in manifests if manifest.id not in forgotten]
        if self._names:
            chosen = {choose_snapshot(found, name, section=repository.section) for name in self._names}
        else:
            chosen = {manifest.id for manifest in found}
            if known is not None and await self._has_to_be_there(repository, known, forgotten):
                chosen.add(known)
        settings = self._settings
        revisions = {manifest.id: manifest.revision for manifest in manifests}

        async def check_undisturbed() -> None:
            now = {manifest.id: manifest.revision for manifest in await list_manifests(repository)}
            moved = any(now.get(run) != revision for run, revision in revisions.items())
            if moved or not chosen.isdisjoint(await list_forgotten(repository) - forgotten):
                raise SectionBusyError(
                    f"a prune of section {repository.section!r} came between and deleted what was still to "
                    "be looked at; nothing is known to be damaged. Verify again"
                )

        return await verify(
            repository,
            expected,
            snapshots=sorted(chosen),
            revisions=revisions,
            all_snapshots=not self._names,
            read_percent=self._read_percent,
            concurrency=settings.concurrency,
            memory_limit_bytes=settings.memory_limit_bytes,
            counters=self._counters,
            stop=self._stop,
            on_damage=self._on_damage,
            check_undisturbed=check_undisturbed,
        )

    async def _has_to_be_there(
        self, repository: Repository, known: RunId, forgotten: frozenset[RunId]
    ) -> bool:
        """Whether a snapshot that the database knows is missed if it is not there: nobody forgot it, and
        no prune came after it, which may have removed it together with the mark of that."""
        if known in forgotten:
            return False
        prefix = prunes_prefix(repository.section)
        async for page in repository.store.list(prefix):
            if any(info.key.removeprefix(prefix) > known for info in page):
                return False
        return True


def _catalog(settings: Settings, section: SectionSettings) -> AbstractAsyncContextManager[Catalog]:
    return Catalog.open(
        settings.database_path(section.name), section=section.name, destination=section.destination
    )


def _only(damage: Damage, section: str, *, elapsed_seconds: float) -> VerifySummary:
    """The summary of a section of which nothing but its damaged descriptor could be looked at."""
    return VerifySummary(
        section=section,
        snapshots=0,
        objects=0,
        bytes=0,
        objects_read=0,
        bytes_read=0,
        damaged_objects=1,
        damaged=(damage,),
        requests={"GetObject": 1},
        elapsed_seconds=round(elapsed_seconds, 3),
        notes=("nothing else could be verified",),
    )


async def _last_known_snapshot(settings: Settings, section: SectionSettings) -> RunId | None:
    try:
        async with _catalog(settings, section) as catalog:
            return await catalog.runs.last_snapshot()
    except (CatalogError, SectionBusyError) as error:
        log.debug("the database is not compared with: %s", error)
        return None
