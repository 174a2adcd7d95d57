"""``run``: one snapshot a section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from asyncbackup.cli.beside import process_beside
from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.current import ensure_database, with_current_database
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.progress import run_figures, show_progress, shows_progress
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.cli.summary import failure_events, run_fields, run_lines
from asyncbackup.config_file import MAX_CONCURRENCY
from asyncbackup.model import RunCounters
from asyncbackup.pipeline.reading_process import fork_reader

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Selection, Session
    from asyncbackup.config import SectionSettings
    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import RunSummary


class Concurrency(click.ParamType[int]):
    """A whole number of requests, or ``auto``, which gives ``AUTO``."""

    name = "number"
    AUTO = 0

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. A wrong one is a usage error."""
        if value == "auto":
            return self.AUTO
        try:
            number = int(value)
        except ValueError:
            number = 0
        if not 1 <= number <= MAX_CONCURRENCY:
            self.fail(f"{value!r} is no whole number from 1 to {MAX_CONCURRENCY}, nor 'auto'", param, ctx)
        return number


@click.command(
    cls=Command,
    examples="""
asyncbackup run                                  # every section of the configuration
asyncbackup run home --concurrency 64            # one section, faster
asyncbackup run --path ~/photos --to s3://my-bucket/photos
asyncbackup run --dry-run --verbose              # what would be saved, and what is ignored
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
@click.argument("sections", metavar="[SECTION]...", nargs=-1)
@click.option(
    "--concurrency",
    cls=GroupedOption,
    type=Concurrency(),
    metavar="N|auto",
    help="S3 requests at once, or 'auto' to find out; default: as configured, else 32.",
)
@click.option(
    "--dry-run", cls=GroupedOption, is_flag=True, help="Find out what would be saved; save nothing."
)
@click.option(
    "--checksum",
    cls=GroupedOption,
    is_flag=True,
    help="Read every file instead of trusting size, mtime and ctime.",
)
@section_options
@global_options
@click.pass_obj
def run(
    session: Session,
    sections: tuple[str, ...],
    concurrency: int | None,
    dry_run: bool,
    checksum: bool,
) -> ExitCode:
    """Save what changed; one snapshot a section.

    Sections are saved one after another, all of them unless some are named. Files that cannot be
    read, or that change while they are read, are named at the end and do not stop the others.
    """
    session.start_logging()
    output = session.output()
    selection = select(session, sections)
    if concurrency is not None:
        settings = selection.settings.with_concurrency(concurrency or None)
        selection = msgspec.structs.replace(selection, settings=settings)

    async def main(stop: StopRequest) -> ExitCode:
        async def save(section: SectionSettings) -> ExitCode:
            return await save_section(
                session,
                output,
                selection,
                section,
                dry_run=dry_run,
                checksum=checksum,
                stop=stop,
                reading=reading,
            )

        return await each_section(session, output, selection, save, stop=stop)

    with process_beside(fork_reader, wanted=not dry_run) as reading:
        return run_async(main, output=output, graceful=True)


async def save_section(
    session: Session,
    output: Output,
    selection: Selection,
    section: SectionSettings,
    *,
    dry_run: bool = False,
    checksum: bool = False,
    stop: StopRequest,
    reading: SideProcess | None = None,
) -> ExitCode:
    """Run one section and say what was done."""
    from asyncbackup.engine import run_section

    if selection.from_folder and not dry_run:
        await ensure_database(output, selection.settings, section)

    async def save() -> RunSummary:
        counters = RunCounters()
        with show_progress(output, section.name, lambda: run_figures(counters)):
            return await run_section(
                selection.settings,
                section,
                dry_run=dry_run,
                checksum=checksum,
                scan_ahead=shows_progress(output),
                counters=counters,
                stop=stop,
                reading=reading,
            )

    summary = await with_current_database(output, selection.settings, section, save, stop=stop)
    show_run(output, summary, verbose=session.verbose)
    return ExitCode.INCOMPLETE if summary.files_failed or summary.failures else ExitCode.OK


def show_run(output: Output, summary: RunSummary, *, verbose: bool) -> None:
    """Say what a run did, to people or as events."""
    output.events(failure_events(summary.section, summary.failures))
    output.event("summary", run_fields(summary))
    output.result(*run_lines(summary, verbose=verbose))
