"""``restore``: files back from a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncbackup.cli.beside import process_beside
from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.progress import restore_figures, show_progress
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.session import select_with_paths
from asyncbackup.cli.summary import failure_events, restore_fields, restore_lines

if TYPE_CHECKING:
    from typing import Literal

    from asyncbackup.cli.session import Session
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest


@click.command(
    cls=Command,
    examples="""
asyncbackup restore home --target /tmp/back                       # everything, elsewhere
asyncbackup restore home docs/report.pdf --snapshot '3 days ago'  # one file, to where it was
asyncbackup restore home --include '*.jpg' --target /tmp/back     # by gitignore patterns
asyncbackup restore home --overwrite never                        # only what is missing
""",
    codes=(
        ExitCode.OK,
        ExitCode.FAILED,
        ExitCode.USAGE,
        ExitCode.DAMAGED,
        ExitCode.BUSY,
        ExitCode.INTERRUPTED,
    ),
)
@click.argument("arguments", metavar="[SECTION] [PATH]...", nargs=-1)
@click.option(
    "--snapshot",
    cls=GroupedOption,
    metavar="ID|latest|TIME",
    default="latest",
    show_default=True,
    help="An id or its beginning, or a time: the newest snapshot not younger than 2026-11-01, "
    "2026-11-01T12:00, yesterday, '3 days ago'.",
)
@click.option(
    "--target",
    cls=GroupedOption,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put the section's tree under DIR (DIR/docs/report.pdf); default: where the files came from.",
)
@click.option(
    "--include",
    cls=GroupedOption,
    metavar="PATTERN",
    multiple=True,
    help="Only what matches this gitignore pattern; may be given several times.",
)
@click.option(
    "--exclude",
    cls=GroupedOption,
    metavar="PATTERN",
    multiple=True,
    help="Not what matches this gitignore pattern; may be given several times.",
)
@click.option(
    "--overwrite",
    cls=GroupedOption,
    type=click.Choice(["always", "changed", "never"]),
    default="always",
    show_default=True,
    help="What to do with files that are there: replace all, replace those that differ in size or "
    "time, or leave all.",
)
@click.option(
    "--privileged",
    cls=GroupedOption,
    is_flag=True,
    help="Also restore setuid and setgid bits of files, and security.* and trusted.* attributes, "
    "capabilities among them (attributes, and bits of other owners, need root).",
)
@click.option("--dry-run", cls=GroupedOption, is_flag=True, help="Say what would be restored; write nothing.")
@section_options
@global_options
@click.pass_obj
def restore(
    session: Session,
    arguments: tuple[str, ...],
    snapshot: str,
    target: Path | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    overwrite: Literal["always", "changed", "never"],
    privileged: bool,
    dry_run: bool,
) -> ExitCode:
    """Restore a section, or the PATHs of it, from a snapshot.

    PATHs are relative to the section's folder, or absolute below it. SECTION may be left out where
    the configuration has only one. An interrupted restore goes on where it was when the same command
    is given again. Every file is compared with its SHA-256 before it gets its name.
    """
    session.start_logging()
    output = session.output()
    settings, section, paths = _choose(session, arguments)

    async def main(stop: StopRequest) -> ExitCode:
        from asyncbackup.restore import restore_section
        from asyncbackup.restore.summary import RestoreCounters

        counters = RestoreCounters()
        with show_progress(output, section.name, lambda: restore_figures(counters)):
            summary = await restore_section(
                settings,
                section,
                paths=paths,
                snapshot=snapshot,
                target=target,
                include=include,
                exclude=exclude,
                overwrite=overwrite,
                privileged=privileged,
                dry_run=dry_run,
                counters=counters,
                stop=stop,
                writing=writing,
            )
        output.events(failure_events(summary.section, summary.failures))
        output.event("summary", restore_fields(summary))
        output.result(*restore_lines(summary, verbose=session.verbose))
        return ExitCode.OK if summary.complete else ExitCode.DAMAGED

    from asyncbackup.restore.side_writer import fork_writer

    with process_beside(fork_writer, wanted=not dry_run) as writing:
        return run_async(main, output=output, graceful=True)


def _choose(session: Session, arguments: tuple[str, ...]) -> tuple[Settings, SectionSettings, list[bytes]]:
    """The section and the paths in it."""
    selection, paths = select_with_paths(session, arguments)
    if len(selection.sections) > 1:
        raise click.UsageError(f"name the section to restore: {', '.join(selection.settings.sections)}")
    return selection.settings, selection.sections[0], paths
