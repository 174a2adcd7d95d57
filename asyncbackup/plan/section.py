"""The plan of one section: the dry run against its database, and against none at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.catalog import Catalog, CatalogIdentity
from asyncbackup.destination import is_remote
from asyncbackup.engine import MIN_PART_BYTES, PACK_BYTES, run_section
from asyncbackup.errors import CatalogMissingError
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.model import RunSummary
from asyncbackup.plan.forecast import Forecast, LayoutSettings, forecast
from asyncbackup.plan.sample import Ratios, Sampler, measure
from asyncbackup.plan.shape import Shape
from asyncbackup.repository.secrets import names_secret
from asyncbackup.store.s3_location import is_aws

if TYPE_CHECKING:
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import RunCounters

AWS = "https://s3.amazonaws.com"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of one section would do.

    ``run`` is the dry run's summary, ``next_run`` what it would upload in the section's layout;
    ``first_runs`` is all of the tree, in the section's layout and then in the other. ``has_database``
    is ``False`` for a section that was not set up yet: its next run is its first.
    """

    run: RunSummary
    has_database: bool
    next_run: Forecast
    first_runs: tuple[Forecast, Forecast]
    ratios: Ratios
    """Of the section's own layout and the other; 1 where it does not compress."""


async def plan_section(
    settings: Settings,
    section: SectionSettings,
    *,
    ratio: float | None = None,
    counters: RunCounters | None = None,
    stop: StopRequest | None = None,
) -> Plan:
    """Find out what a run would do. Sends no request and changes nothing.

    ``ratio`` is what compression is taken to leave of a byte; without it some files are read.
    Raises as :func:`~asyncbackup.engine.run_section` does.
    """
    sampler = Sampler()
    everything = _shape(settings, section, sampler)
    with tempfile.TemporaryDirectory(prefix="asyncbackup-plan-") as folder:
        blank = Path(folder) / "blank.sqlite3"
        async with Catalog.create(blank, CatalogIdentity(section.name, section.destination, "")):
            pass
        first = await run_section(
            settings,
            section,
            dry_run=True,
            counters=counters,
            stop=stop,
            on_change=everything.add,
            database=blank,
        )
    changed = _shape(settings, section)
    try:
        run = await run_section(settings, section, dry_run=True, stop=stop, on_change=changed.add)
        has_database, has_snapshot = True, await _has_snapshot(settings, section)
    except CatalogMissingError:
        run, changed, has_database, has_snapshot = first, everything, False, False
    ratios = await _ratios(section, sampler, ratio)
    own = _layout(settings, section, ratios, packed=section.packed)
    other = _layout(settings, section, ratios, packed=not section.packed)
    return Plan(
        run=run,
        has_database=has_database,
        next_run=forecast(changed, msgspec.structs.replace(own, known_snapshot=has_snapshot)),
        first_runs=(forecast(everything, own), forecast(everything, other)),
        ratios=ratios,
    )


async def _has_snapshot(settings: Settings, section: SectionSettings) -> bool:
    database = settings.database_path(section.name)
    async with Catalog.open(database, section=section.name, destination=section.destination) as catalog:
        return await catalog.runs.last_snapshot() is not None


def _shape(settings: Settings, section: SectionSettings, sampler: Sampler | None = None) -> Shape:
    return Shape(
        pack_below_bytes=min(section.pack_below_bytes, _pack_size(settings)),
        part_size_bytes=_part_size(settings),
        sampler=sampler,
    )


def _pack_size(settings: Settings) -> int:
    return min(PACK_BYTES, settings.memory_limit_bytes // 8)


def _part_size(settings: Settings) -> int:
    return min(settings.part_size_bytes, max(MIN_PART_BYTES, settings.memory_limit_bytes // 4))


async def _ratios(section: SectionSettings, sampler: Sampler, given: float | None) -> Ratios:
    if given is not None:
        return Ratios(packed=given, small=given, large=given)
    threads = ThreadGate("sample", 1)
    try:
        return await threads.run(_measure, section, sampler)
    finally:
        threads.close()


def _measure(section: SectionSettings, sampler: Sampler) -> Ratios:
    return measure(section.path, sampler, zstd_level=section.zstd_level)


def _layout(settings: Settings, section: SectionSettings, ratios: Ratios, *, packed: bool) -> LayoutSettings:
    # The other layout as it is by default: packed compresses, mirror does not.
    compresses = bool(section.zstd_level) if packed == section.packed else packed
    part = _part_size(settings)
    return LayoutSettings(
        packed=packed,
        sealed=section.encryption.enabled,
        ratios=ratios if compresses else Ratios(),
        part_size_bytes=part,
        compressed_part_bytes=max(part, settings.memory_limit_bytes // 4),
        pack_size_bytes=_pack_size(settings),
        reads_secret=names_secret(section.encryption),
        asks_for_folders=is_remote(section.destination) and not is_aws(settings.s3.endpoint_url or AWS),
    )
