"""``prune``: deletes what no snapshot needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.current import with_current_database
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.progress import prune_figures, show_progress
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.cli.summary import request_text, row
from asyncbackup.prune.spans import parse_span
from asyncbackup.prune.summary import REPACK_BELOW_PERCENT, PruneCounters, PruneSummary
from asyncbackup.repository.marks import HOUR_NS, MIN_AGE_NS
from asyncbackup.text import terminal_text
from asyncbackup.units import format_duration, format_size, plural

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Session
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest


class Age(click.ParamType[int]):
    """Hours, days or weeks; in nanoseconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The nanoseconds. A wrong age is a usage error."""
        if isinstance(value, int):
            return value
        try:
            span = parse_span(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if span.years or span.months:
            self.fail("an age is given in hours, days or weeks, like 24h or '3 days'", param, ctx)
        return (span.days * 24 + span.hours) * HOUR_NS


@click.command(
    cls=Command,
    examples="""
asyncbackup prune --dry-run          # what it would delete
asyncbackup prune home
""",
    codes=(ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.BUSY, ExitCode.INTERRUPTED),
)
@click.argument("sections", metavar="[SECTION]...", nargs=-1)
@click.option(
    "--dry-run", cls=GroupedOption, is_flag=True, help="Find out what would be deleted; write nothing."
)
@click.option(
    "--min-age",
    "min_age_ns",
    cls=GroupedOption,
    type=Age(),
    default=MIN_AGE_NS,
    metavar="D",
    help="Runs elsewhere that never said how they ended count as dead after D; default: 24h. Lower it only "
    "if none is at work.",
)
@click.option(
    "--repack-below",
    "repack_below_percent",
    cls=GroupedOption,
    type=click.FloatRange(0, 100),
    default=REPACK_BELOW_PERCENT,
    show_default=True,
    metavar="PERCENT",
    help="Write packs anew of which less than this is needed; 0: none.",
)
@section_options
@global_options
@click.pass_obj
def prune(
    session: Session,
    sections: tuple[str, ...],
    dry_run: bool,
    min_age_ns: int,
    repack_below_percent: float,
) -> ExitCode:
    """Delete what no snapshot needs: what was forgotten, and what interrupted runs left.

    Nothing is deleted that a kept snapshot needs, however this ends; the next prune does the rest. It
    stops beside a run of the same section on another machine. It needs credentials that may delete.
    """
    session.start_logging()
    output = session.output()
    selection = select(session, sections)

    async def main(stop: StopRequest) -> ExitCode:
        async def act(section: SectionSettings) -> ExitCode:
            await prune_one(
                output,
                selection.settings,
                section,
                dry_run=dry_run,
                min_age_ns=min_age_ns,
                repack_below_percent=repack_below_percent,
                stop=stop,
            )
            return ExitCode.OK

        return await each_section(session, output, selection, act, stop=stop)

    return run_async(main, output=output, graceful=True)


async def prune_one(
    output: Output,
    settings: Settings,
    section: SectionSettings,
    *,
    dry_run: bool = False,
    min_age_ns: int = MIN_AGE_NS,
    repack_below_percent: float = REPACK_BELOW_PERCENT,
    stop: StopRequest,
) -> None:
    """Prune one section and say what was done."""
    from asyncbackup.prune.section import prune_section

    async def act() -> PruneSummary:
        counters = PruneCounters()
        with show_progress(output, section.name, lambda: prune_figures(counters)):
            return await prune_section(
                settings,
                section,
                dry_run=dry_run,
                min_age_ns=min_age_ns,
                repack_below_percent=repack_below_percent,
                counters=counters,
                stop=stop,
            )

    if dry_run:
        summary = await act()
    else:
        summary = await with_current_database(output, settings, section, act, stop=stop)
    output.event("summary", msgspec.structs.asdict(summary))
    output.result(*prune_lines(summary))


def prune_lines(summary: PruneSummary) -> list[str]:
    """A prune as a person wants to see it."""
    name = terminal_text(summary.section)
    if not summary.objects_deleted and not summary.packs_rewritten:
        lines = [f"{name}: nothing to delete"]
    else:
        verb = "would delete" if summary.dry_run else "deleted"
        lines = [
            f"{name}: {verb} {plural(summary.objects_deleted, 'object')} "
            f"({format_size(summary.bytes_deleted)})"
        ]
    removed = f", {summary.snapshots_removed} removed" if summary.snapshots_removed else ""
    lines.append(row("snapshots", f"{summary.snapshots} kept{removed}"))
    if summary.packs_rewritten:
        lines.append(
            row(
                "packs",
                f"{summary.packs_rewritten} written anew ({format_size(summary.bytes_written)}), with "
                f"{plural(summary.manifests_rewritten, 'manifest')}",
            )
        )
    lines.append(row("requests", request_text(summary.requests)))
    lines.append(row("took", format_duration(summary.elapsed_seconds)))
    return lines
