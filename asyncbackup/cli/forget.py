"""``forget``: which snapshots to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.prune import prune_one
from asyncbackup.cli.remote import time_text
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.prune.policy import KeepPolicy
from asyncbackup.prune.spans import Span, parse_span
from asyncbackup.units import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.cli.commands import CommandFunction
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Selection, Session
    from asyncbackup.config import SectionSettings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.prune.forget import ForgetSummary

KEEP = "What to keep (a snapshot stays if any of these keeps it)"


class SpanType(click.ParamType[Span]):
    """A span of time, like ``1y5m7d2h`` or ``30 days``."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Span:
        """The span. A wrong one is a usage error."""
        if isinstance(value, Span):
            return value
        try:
            return parse_span(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _keep_options(function: CommandFunction) -> CommandFunction:
    """Add ``--keep-last`` and its kin."""
    kinds = {
        "last": "The newest N snapshots.",
        "hourly": "The newest snapshot of each of the last N hours that have one.",
        "daily": "The same of days, of this machine's time zone.",
        "weekly": "The same of weeks, which begin on Monday.",
        "monthly": "The same of months.",
        "yearly": "The same of years.",
    }
    options: list[Callable[[CommandFunction], CommandFunction]] = [
        click.option(
            f"--keep-{kind}",
            cls=GroupedOption,
            heading=KEEP,
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help=text,
        )
        for kind, text in kinds.items()
    ]
    options.append(
        click.option(
            "--keep-within",
            cls=GroupedOption,
            heading=KEEP,
            type=SpanType(),
            default=Span(),
            metavar="D",
            help="All that are younger than D, counted back from the newest: 1y5m7d2h, '30 days'.",
        )
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(
    cls=Command,
    examples="""
asyncbackup forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
asyncbackup forget home --keep-within 30d --keep-yearly 10 --prune
""",
    codes=(ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.BUSY, ExitCode.INTERRUPTED),
)
@click.argument("sections", metavar="[SECTION]...", nargs=-1)
@_keep_options
@click.option(
    "--dry-run", cls=GroupedOption, is_flag=True, help="Show what would be forgotten; write nothing."
)
@click.option(
    "--prune",
    "also_prune",
    cls=GroupedOption,
    is_flag=True,
    help="Then delete what only forgotten snapshots needed, as 'prune' does.",
)
@section_options
@global_options
@click.pass_obj
def forget(
    session: Session,
    sections: tuple[str, ...],
    keep_last: int,
    keep_hourly: int,
    keep_daily: int,
    keep_weekly: int,
    keep_monthly: int,
    keep_yearly: int,
    keep_within: Span,
    dry_run: bool,
    also_prune: bool,
) -> ExitCode:
    """Forget old snapshots by rules.

    A forgotten snapshot is no longer listed or restored. Nothing is deleted before the next 'prune'. At
    least one rule has to be given; as long as there are fewer days (weeks, …) than a rule asks for, the
    oldest snapshot stays too.
    """
    policy = KeepPolicy(
        last=keep_last,
        hourly=keep_hourly,
        daily=keep_daily,
        weekly=keep_weekly,
        monthly=keep_monthly,
        yearly=keep_yearly,
        within=keep_within,
    )
    if not policy:
        raise click.UsageError(
            "nothing says which snapshots to keep; give at least one --keep option above 0"
        )
    if dry_run and also_prune:
        raise click.UsageError(
            "--dry-run and --prune exclude each other: what a prune would delete depends on what is forgotten"
        )
    session.start_logging()
    output = session.output()
    selection = select(session, sections)

    async def main(stop: StopRequest) -> ExitCode:
        async def act(section: SectionSettings) -> ExitCode:
            await _forget(output, selection, section, policy, dry_run=dry_run)
            if also_prune:
                await prune_one(output, selection.settings, section, stop=stop)
            return ExitCode.OK

        return await each_section(session, output, selection, act, stop=stop)

    return run_async(main, output=output, graceful=True)


async def _forget(
    output: Output, selection: Selection, section: SectionSettings, policy: KeepPolicy, *, dry_run: bool
) -> None:
    from asyncbackup.prune.forget import forget_section

    summary = await forget_section(selection.settings, section, policy, dry_run=dry_run)
    output.events(
        {
            "event": "keep" if decision.kept else "forget",
            "section": section.name,
            "id": decision.id,
            "rules": list(decision.rules),
        }
        for decision in summary.decisions
    )
    output.event(
        "summary",
        {
            "section": section.name,
            "kept": summary.kept,
            "forgotten": summary.forgotten,
            "requests": summary.requests,
            "elapsed_seconds": summary.elapsed_seconds,
            "dry_run": summary.dry_run,
        },
    )
    output.result(*forget_lines(summary))


def forget_lines(summary: ForgetSummary) -> list[str]:
    """A table of the snapshots, what keeps each, and their numbers."""
    lines = [
        f"  {decision.id}  {time_text(decision.started_ns)}  "
        + (f"keep    {', '.join(decision.rules)}" if decision.kept else "forget")
        for decision in summary.decisions
    ]
    verb = "would be forgotten" if summary.dry_run else "forgotten"
    return [
        f"{summary.section}: {plural(summary.kept, 'snapshot')} kept, {summary.forgotten} {verb}",
        *lines,
    ]
