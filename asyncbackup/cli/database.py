"""``initdb`` and ``syncdb_remote``: the local databases, made and made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.progress import rebuild_figures, show_progress
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.cli.summary import FAILURES_SHOWN, request_text, row
from asyncbackup.format.escape import escape_path
from asyncbackup.text import local_path, terminal_path, terminal_text
from asyncbackup.units import format_count, format_duration, format_size, plural

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Session
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.rebuild.summary import RebuildSummary, Unrecovered


@click.command(
    cls=Command,
    examples="""
asyncbackup initdb            # every section of the configuration
asyncbackup initdb home
""",
    codes=(ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.INTERRUPTED),
)
@click.argument("sections", metavar="[SECTION]...", nargs=-1)
@section_options
@global_options
@click.pass_obj
def initdb(session: Session, sections: tuple[str, ...]) -> ExitCode:
    """Create the databases, and the descriptor at a destination that has none.

    This is a step of its own so that nobody loses a database without noticing: where there is one, it is
    left alone and the command fails. A lost database is rebuilt with 'syncdb_remote'.
    """
    session.start_logging()
    output = session.output()
    selection = select(session, sections)

    async def main(stop: StopRequest) -> ExitCode:
        async def create(section: SectionSettings) -> ExitCode:
            return await _create(output, selection.settings, section)

        return await each_section(session, output, selection, create, stop=stop)

    return run_async(main, output=output, graceful=False)


async def _create(output: Output, settings: Settings, section: SectionSettings) -> ExitCode:
    from asyncbackup.initialise import create_database

    created = await create_database(settings, section)
    output.event(
        "summary",
        {
            "section": section.name,
            "database": local_path(created.database),
            "destination": section.destination,
            "repository": created.repository,
            "encrypted": section.encryption.enabled,
            "repository_created": created.repository_created,
            "snapshots": created.snapshots,
        },
    )
    what = "new repository" if created.repository_created else "existing repository"
    output.result(
        f"{section.name}: database {local_path(created.database)} created, "
        f"{what} {created.repository} at {terminal_text(section.destination)}"
    )
    if created.snapshots:
        output.warning(
            f"{section.name}: the destination holds {plural(created.snapshots, 'snapshot')} of this section "
            "already; the next run will upload everything again. To go on from them, remove the new "
            "database and use 'asyncbackup syncdb_remote'"
        )
    return ExitCode.OK


@click.command(
    cls=Command,
    examples="""
asyncbackup syncdb_remote home                   # from the manifests
asyncbackup syncdb_remote home --from-objects    # if the manifests are lost or damaged
""",
    codes=(
        ExitCode.OK,
        ExitCode.FAILED,
        ExitCode.USAGE,
        ExitCode.INCOMPLETE,
        ExitCode.BUSY,
        ExitCode.INTERRUPTED,
    ),
)
@click.argument("section", required=False, metavar="[SECTION]")
@click.option(
    "--from-objects",
    cls=GroupedOption,
    is_flag=True,
    help="Use the objects and their metadata alone, as where there are no manifests.",
)
@section_options
@global_options
@click.pass_obj
def syncdb_remote(session: Session, section: str | None, from_objects: bool) -> ExitCode:
    """Rebuild the database from what lies at the destination.

    The database then says what the latest snapshot holds, so that the next run uploads only what differs.
    With --from-objects, or where there are objects but no manifests, every object is asked for its
    metadata and a new snapshot is made of them. A database that is there is replaced.
    """
    session.start_logging()
    output = session.output()
    selection = select(session, (section,) if section else ())

    async def main(stop: StopRequest) -> ExitCode:
        async def rebuild(section: SectionSettings) -> ExitCode:
            return await _rebuild(
                session, output, selection.settings, section, from_objects=from_objects, stop=stop
            )

        return await each_section(session, output, selection, rebuild, stop=stop)

    return run_async(main, output=output, graceful=True)


async def _rebuild(
    session: Session,
    output: Output,
    settings: Settings,
    section: SectionSettings,
    *,
    from_objects: bool,
    stop: StopRequest,
) -> ExitCode:
    from asyncbackup.rebuild.section import rebuild_section
    from asyncbackup.rebuild.summary import RebuildCounters

    counters = RebuildCounters()
    with show_progress(output, section.name, lambda: rebuild_figures(counters)):
        summary = await rebuild_section(
            settings,
            section,
            from_objects=from_objects,
            counters=counters,
            stop=stop,
            on_unrecovered=lambda found: output.event("unrecovered", unrecovered_fields(section.name, found)),
        )
    output.event("summary", rebuild_fields(summary))
    output.result(*rebuild_lines(summary, verbose=session.verbose))
    return ExitCode.INCOMPLETE if summary.unrecovered_objects else ExitCode.OK


def unrecovered_fields(section: str, found: Unrecovered) -> dict[str, object]:
    """One object that could not be recovered wholly, as an event."""
    return {
        "section": section,
        "key": found.key,
        "path": None if found.path is None else escape_path(found.path),
        "reason": found.reason,
        "lost": found.lost,
    }


def rebuild_fields(summary: RebuildSummary) -> dict[str, object]:
    """The summary event. What was not recovered is events of its own."""
    fields = msgspec.structs.asdict(summary)
    del fields["unrecovered"]
    return fields


def rebuild_lines(summary: RebuildSummary, *, verbose: bool) -> list[str]:
    """A rebuild as a person wants to see it."""
    lines = [
        f"{summary.section}: database rebuilt from {summary.source}, it stands on snapshot {summary.snapshot}"
    ]
    lines.append(
        row(
            "tree",
            f"{plural(summary.files, 'file')} ({format_size(summary.bytes)}), "
            f"{plural(summary.folders, 'folder')}, {plural(summary.symlinks, 'symlink')}",
        )
    )
    lines.append(row("snapshots", format_count(summary.snapshots)))
    lines.append(row("requests", request_text(summary.requests)))
    lines.append(row("took", format_duration(summary.elapsed_seconds)))
    lines += [row("" if number else "note", terminal_text(note)) for number, note in enumerate(summary.notes)]
    shown = summary.unrecovered if verbose else summary.unrecovered[:FAILURES_SHOWN]
    for number, found in enumerate(shown):
        name = terminal_text(found.key) if found.path is None else terminal_path(found.path)
        what = "lost" if found.lost else "in part"
        lines.append(row("" if number else "not whole", f"{name}: {what}: {terminal_text(found.reason)}"))
    if (more := summary.unrecovered_objects - len(shown)) > 0:
        hint = "--json names all" if verbose else "--verbose names more, --json all"
        lines.append(row("", f"and {format_count(more)} more; {hint}"))
    return lines
