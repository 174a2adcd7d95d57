"""The database that a command relies on, made or rebuilt where that goes without asking."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from asyncbackup.cli.progress import rebuild_figures, show_progress
from asyncbackup.errors import CatalogBehindError
from asyncbackup.text import local_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncbackup.cli.output import Output
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest

log = logging.getLogger(__name__)

T = TypeVar("T")


async def with_current_database(
    output: Output,
    settings: Settings,
    section: SectionSettings,
    act: Callable[[], Awaitable[T]],
    *,
    stop: StopRequest,
) -> T:
    """What ``act`` gives. If a prune on another machine outdated the database, it is rebuilt first."""
    try:
        return await act()
    except CatalogBehindError as error:
        output.note(f"{section.name}: a prune on another machine came between; rebuilding the database first")
        log.info("%s", error)
    from asyncbackup.rebuild.section import rebuild_section
    from asyncbackup.rebuild.summary import RebuildCounters

    counters = RebuildCounters()
    with show_progress(output, section.name, lambda: rebuild_figures(counters)):
        await rebuild_section(settings, section, counters=counters, stop=stop)
    return await act()


async def ensure_database(output: Output, settings: Settings, section: SectionSettings) -> None:
    """Make the database of a ``--path`` and ``--to`` section at its first run.

    There is nothing to lose as long as the destination holds no snapshot of
    it; where it holds one, raises ``CatalogMissingError`` naming ``syncdb_remote``.
    """
    if settings.database_path(section.name).exists():
        return
    from asyncbackup.initialise import create_database

    created = await create_database(settings, section, only_without_snapshots=True)
    output.note(f"{section.name}: first run, database {local_path(created.database)} created")
