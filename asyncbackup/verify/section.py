"""Verifying a section from its settings: which snapshots, and what the descriptor is worth."""

from __future__ import annotations

import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.errors import CatalogError, FormatError, RepositoryMissingError, SectionBusyError
from asyncbackup.format.keys import DESCRIPTOR_KEY
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.snapshots import choose_snapshot, list_snapshots
from asyncbackup.verify.summary import Damage, VerifyCounters, VerifySummary
from asyncbackup.verify.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    counters: VerifyCounters | None = None,
    stop: StopRequest | None = None,
    on_damage: Callable[[Damage], None] | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> VerifySummary:
    """Check the section's destination against its manifests, all of them or those of ``snapshots``
    (named as for ``restore``).

    ``read_percent`` is how much to read: 0 only what cannot be compared
    otherwise, 100 everything. A damaged or missing descriptor is damage as
    well. The database is used for one thing, if it is there and free: the
    last snapshot it knows must be at the destination.

    Raises as :func:`~asyncbackup.verify.verification.verify` does, and
    ``ConfigError`` for a snapshot that does not exist.
    """
    began = time.monotonic()
    known = await _last_known_snapshot(settings, section)
    async with AsyncExitStack() as stack:
        try:
            repository = await stack.enter_async_context(
                open_repository(settings, section, on_retry=on_retry)
            )
        except (FormatError, RepositoryMissingError) as error:
            if isinstance(error, RepositoryMissingError) and known is None:
                raise  # nothing says that there ever was a repository
            damage = Damage(key=DESCRIPTOR_KEY, reason=str(error).removeprefix(f"{DESCRIPTOR_KEY}: "))
            if on_damage is not None:
                on_damage(damage)
            return _only(damage, section.name, elapsed_seconds=time.monotonic() - began)
        return await _verify(
            repository,
            settings,
            names=snapshots,
            known=known,
            read_percent=read_percent,
            counters=counters,
            stop=stop,
            on_damage=on_damage,
        )


async def _verify(
    repository: Repository,
    settings: Settings,
    *,
    names: Sequence[str],
    known: RunId | None,
    read_percent: float,
    counters: VerifyCounters | None,
    stop: StopRequest | None,
    on_damage: Callable[[Damage], None] | None,
) -> VerifySummary:
    found = await list_snapshots(repository)
    if names:
        chosen = {choose_snapshot(found, name, section=repository.section) for name in names}
    else:
        chosen = {snapshot.id for snapshot in found} | ({known} if known else set())
    return await verify(
        repository,
        snapshots=sorted(chosen),
        all_snapshots=not names,
        scratch_folder=settings.state_dir,
        read_percent=read_percent,
        concurrency=settings.concurrency,
        memory_limit_bytes=settings.memory_limit_bytes,
        counters=counters,
        stop=stop,
        on_damage=on_damage,
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
        async with Catalog.open(
            settings.database_path(section.name), section=section.name, destination=section.destination
        ) as catalog:
            return await catalog.runs.last_snapshot()
    except (CatalogError, SectionBusyError) as error:
        log.debug("the database is not compared with: %s", error)
        return None
