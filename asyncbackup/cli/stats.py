"""``stats``: what the database knows of a section."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncbackup.cli.commands import Command, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.remote import time_text
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.cli.summary import row
from asyncbackup.model import Kind, Pending
from asyncbackup.text import local_path, terminal_text
from asyncbackup.units import format_count, format_duration, format_size, plural

if TYPE_CHECKING:
    from asyncbackup.catalog.runs import RunRecord
    from asyncbackup.catalog.statistics import TreeStatistics
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Session
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest

GROWTH_SHOWN = 10
_FIGURES_OF_A_RUN = (
    "files_scanned",
    "files_new",
    "files_changed",
    "files_deleted",
    "files_failed",
    "bytes_scanned",
    "bytes_uploaded",
    "elapsed_seconds",
    "manifest_bytes",
    "base",
)


@click.command(
    cls=Command,
    examples="""
asyncbackup stats
asyncbackup stats home --json
""",
    codes=(ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.BUSY, ExitCode.INTERRUPTED),
)
@click.argument("section", required=False, metavar="[SECTION]")
@section_options
@global_options
@click.pass_obj
def stats(session: Session, section: str | None) -> ExitCode:
    """Show counts and sizes, the last run, and the growth over snapshots.

    All of it comes from the database; nothing is asked of the destination.
    """
    session.start_logging()
    output = session.output()
    selection = select(session, (section,) if section else ())

    async def main(stop: StopRequest) -> ExitCode:
        async def show(section: SectionSettings) -> ExitCode:
            return await _show(output, selection.settings, section, every=session.verbose)

        return await each_section(session, output, selection, show, stop=stop)

    return run_async(main, output=output, graceful=False)


async def _show(output: Output, settings: Settings, section: SectionSettings, *, every: bool) -> ExitCode:
    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.catalog.statistics import tree_statistics

    database = settings.database_path(section.name)
    async with Catalog.open(database, section=section.name, destination=section.destination) as catalog:
        tree = await tree_statistics(catalog.entries)
        runs = await catalog.runs.all()
        repository = catalog.identity.repository
    output.event("summary", stats_fields(section, database, repository, tree, runs))
    output.result(*stats_lines(section, database, tree, runs, every=every))
    return ExitCode.OK


def stats_fields(
    section: SectionSettings, database: Path, repository: str, tree: TreeStatistics, runs: list[RunRecord]
) -> dict[str, object]:
    """The summary event."""
    last = runs[-1] if runs else None
    return {
        "section": section.name,
        "database": local_path(database),
        "destination": section.destination,
        "repository": repository,
        "layout": "mirror",
        "files": tree.count(Kind.FILE),
        "folders": tree.count(Kind.FOLDER),
        "symlinks": tree.count(Kind.SYMLINK),
        "bytes": tree.bytes,
        "objects": sum(each.objects for each in tree.stored),
        "objects_encrypted": sum(each.objects for each in tree.stored if each.encrypted),
        "stored_bytes": sum(each.bytes for each in tree.stored),
        "entries_by_state": {state.name.lower(): tree.state(state) for state in Pending},
        "stored_by_run": [
            {"run": each.run, "objects": each.objects, "bytes": each.bytes, "encrypted": each.encrypted}
            for each in tree.stored
        ],
        "last_run": None if last is None else _run_fields(last),
        "snapshots": [_run_fields(record) for record in runs if record.committed],
    }


def stats_lines(
    section: SectionSettings, database: Path, tree: TreeStatistics, runs: list[RunRecord], *, every: bool
) -> list[str]:
    """The statistics as a person wants to see them."""
    lines = [f"{section.name}: {local_path(section.path)} at {terminal_text(section.destination)}"]
    lines.append(row("database", local_path(database)))
    lines.append(
        row(
            "tree",
            f"{plural(tree.count(Kind.FILE), 'file')} ({format_size(tree.bytes)}), "
            f"{plural(tree.count(Kind.FOLDER), 'folder')}, {plural(tree.count(Kind.SYMLINK), 'symlink')}",
        )
    )
    objects = sum(each.objects for each in tree.stored)
    encrypted = sum(each.objects for each in tree.stored if each.encrypted)
    stored = sum(each.bytes for each in tree.stored)
    lines.append(
        row(
            "objects",
            f"{format_count(objects)} of {plural(len({each.run for each in tree.stored}), 'run')}, "
            f"{format_size(stored)} stored, layout mirror, {format_count(encrypted)} encrypted",
        )
    )
    waiting = [
        f"{format_count(tree.state(state))} {state.name.lower()}"
        for state in (Pending.NEW, Pending.CHANGED, Pending.DELETED)
        if tree.state(state)
    ]
    if waiting:
        lines.append(row("pending", f"{', '.join(waiting)}: the next run commits them"))
    lines.append(row("last run", _last_run(runs)))
    lines += _growth([record for record in runs if record.committed], every=every)
    return lines


def _last_run(runs: list[RunRecord]) -> str:
    if not runs:
        return "none yet"
    last = runs[-1]
    began = time_text(last.started_ns)
    if last.finished_ns is None:
        return f"{last.run}, {began}, did not come to its end"
    took = format_duration((last.finished_ns - last.started_ns) / 1_000_000_000)
    if not last.committed:
        return f"{last.run}, {began}, {took}, no snapshot"
    failed = last.summary.files_failed if last.summary is not None else 0
    return f"{last.run}, {began}, {took}, {plural(failed, 'file')} failed"


def _growth(committed: list[RunRecord], *, every: bool) -> list[str]:
    """A line a snapshot, the newest last."""
    if not committed:
        return [row("snapshots", "none yet")]
    shown = committed if every else committed[-GROWTH_SHOWN:]
    columns = ("files", "size", "new", "changed", "gone", "uploaded", "manifest")
    lines = [row("snapshots", f"{'':22} {' '.join(f'{column:>10}' for column in columns)}")]
    if hidden := len(committed) - len(shown):
        lines.append(row("", f"({plural(hidden, 'older one')}; --verbose lists all)"))
    for record in shown:
        summary = record.summary
        if summary is None:
            lines.append(row("", f"{record.run:22} (of another database)"))
            continue
        figures = (
            format_count(summary.files_scanned),
            format_size(summary.bytes_scanned),
            format_count(summary.files_new),
            format_count(summary.files_changed),
            format_count(summary.files_deleted),
            format_size(summary.bytes_uploaded),
            format_size(summary.manifest_bytes),
        )
        lines.append(row("", f"{record.run:22} {' '.join(f'{figure:>10}' for figure in figures)}"))
    return lines


def _run_fields(record: RunRecord) -> dict[str, object]:
    fields: dict[str, object] = {
        "run": record.run,
        "started": datetime.fromtimestamp(record.started_ns // 1_000_000_000, UTC).isoformat(),
        "finished": record.finished_ns is not None,
        "committed": record.committed,
    }
    if record.summary is not None:
        for name in _FIGURES_OF_A_RUN:
            fields[name] = getattr(record.summary, name)
    return fields
