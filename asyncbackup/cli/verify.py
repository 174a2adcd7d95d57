"""``verify``: is everything there that the manifests promise?"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click
import msgspec

from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode, worst
from asyncbackup.cli.progress import show_progress, verify_figures
from asyncbackup.cli.run import save_section
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.cli.summary import FAILURES_SHOWN, request_text, row
from asyncbackup.format.escape import escape_path
from asyncbackup.text import terminal_path, terminal_text
from asyncbackup.units import format_count, format_duration, format_size, plural

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Selection, Session
    from asyncbackup.config import SectionSettings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.verify.summary import Damage, VerifySummary

PATHS_SHOWN = 3


class VerifyCommand(Command):
    """Takes ``--read-data`` and ``--read-data=PERCENT``, and never the word after it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; a bare ``--read-data`` means all."""
        end = args.index("--") if "--" in args else len(args)
        args = [
            f"{argument}=100" if argument == "--read-data" and position < end else argument
            for position, argument in enumerate(args)
        ]
        return super().parse_args(ctx, args)


class Percent(click.ParamType[float]):
    """How much of a hundred, more than nothing."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. A wrong one is a usage error."""
        try:
            number = float(str(value).removesuffix("%"))
        except ValueError:
            number = 0.0
        if not 0 < number <= 100:
            self.fail(f"{value!r} is no percentage; accepted are numbers over 0 and up to 100", param, ctx)
        return number


@click.command(
    cls=VerifyCommand,
    examples="""
asyncbackup verify                            # everything, without downloading
asyncbackup verify home --read-data           # and every byte
asyncbackup verify --read-data=5              # a random twentieth of the bytes
asyncbackup verify home --snapshot latest
asyncbackup verify home --repair              # and save again what is damaged and still here
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
@click.argument("section", required=False, metavar="[SECTION]")
@click.option(
    "--read-data",
    "read_percent",
    cls=GroupedOption,
    type=Percent(),
    metavar="[=PERCENT]",
    help="Also read the objects and compare their contents: all, or a random part.",
)
@click.option(
    "--snapshot",
    "snapshots",
    cls=GroupedOption,
    metavar="ID|latest|TIME",
    multiple=True,
    help="Only what this snapshot needs; may be given several times. Default: all snapshots.",
)
@click.option(
    "--repair",
    cls=GroupedOption,
    is_flag=True,
    help="Save the files again that are damaged and still there, as a new snapshot.",
)
@section_options
@global_options
@click.pass_obj
def verify(
    session: Session,
    section: str | None,
    read_percent: float | None,
    snapshots: tuple[str, ...],
    repair: bool,
) -> ExitCode:
    """Check the destination against the manifests.

    Every object that a snapshot needs has to be there with the right size and checksum. Where the
    endpoint keeps checksums nothing is downloaded; where it keeps none, --read-data makes sure.

    A repair ends with a run, whose snapshot is whole. Earlier snapshots that lost something keep
    what is left of them, so it ends with code 4 whenever there was damage.
    """
    session.start_logging()
    output = session.output()
    selection = select(session, (section,) if section else ())

    async def main(stop: StopRequest) -> ExitCode:
        async def check(section: SectionSettings) -> ExitCode:
            return await _check(
                session,
                output,
                selection,
                section,
                snapshots=snapshots,
                read_percent=read_percent or 0.0,
                repair=repair,
                stop=stop,
            )

        return await each_section(session, output, selection, check, stop=stop)

    return run_async(main, output=output, graceful=True)


async def _check(
    session: Session,
    output: Output,
    selection: Selection,
    section: SectionSettings,
    *,
    snapshots: tuple[str, ...],
    read_percent: float,
    repair: bool,
    stop: StopRequest,
) -> ExitCode:
    from asyncbackup.verify.section import verify_section
    from asyncbackup.verify.summary import VerifyCounters

    counters = VerifyCounters()
    codes: list[ExitCode] = []
    with ExitStack() as progress:
        progress.enter_context(show_progress(output, section.name, lambda: verify_figures(counters)))

        async def save_again(found: VerifySummary) -> None:
            progress.close()
            output.result(*verify_lines(found, verbose=session.verbose))
            codes.append(await save_section(session, output, selection, section, stop=stop))

        summary = await verify_section(
            selection.settings,
            section,
            snapshots=snapshots,
            read_percent=read_percent,
            save_again=save_again if repair else None,
            counters=counters,
            stop=stop,
            on_damage=lambda damage: output.event("damage", damage_fields(section.name, damage)),
            on_lost=lambda damage: output.event("lost", damage_fields(section.name, damage)),
        )
    output.event("summary", verify_fields(summary))
    if not codes:
        output.result(*verify_lines(summary, verbose=session.verbose))
    if repair and summary.damaged_objects:
        output.result(*repair_lines(summary, verbose=session.verbose))
    # What is damaged stays so in the snapshots that have it, whatever the repair brought back.
    return worst([ExitCode.DAMAGED if summary.damaged_objects else ExitCode.OK, *codes])


def damage_fields(section: str, damage: Damage) -> dict[str, object]:
    """One damaged object as an event. Paths are escaped as in manifests."""
    return {
        "section": section,
        "key": damage.key,
        "reason": damage.reason,
        "files": damage.files,
        "paths": [escape_path(path) for path in damage.paths],
        "snapshots": list(damage.snapshots),
    }


def verify_fields(summary: VerifySummary) -> dict[str, object]:
    """The summary event. Damage is events of its own."""
    fields = msgspec.structs.asdict(summary)
    del fields["damaged"], fields["lost"]
    return fields


def verify_lines(summary: VerifySummary, *, verbose: bool) -> list[str]:
    """A verification as a person wants to see it."""
    verdict = (
        f"DAMAGED: {plural(summary.damaged_objects, 'object')}" if summary.damaged_objects else "no damage"
    )
    lines = [f"{summary.section}: {verdict}"]
    lines.append(
        row(
            "checked",
            f"{plural(summary.snapshots, 'snapshot')}, {plural(summary.objects, 'object')} "
            f"({format_size(summary.bytes)})",
        )
    )
    if summary.objects_read:
        lines.append(
            row("read", f"{plural(summary.objects_read, 'object')} ({format_size(summary.bytes_read)})")
        )
    lines.append(row("requests", request_text(summary.requests)))
    lines.append(row("took", format_duration(summary.elapsed_seconds)))
    lines += [row("" if number else "note", terminal_text(note)) for number, note in enumerate(summary.notes)]
    shown = summary.damaged if verbose else summary.damaged[:FAILURES_SHOWN]
    for number, damage in enumerate(shown):
        lines.append(
            row("" if number else "damaged", f"{terminal_text(damage.key)}: {terminal_text(damage.reason)}")
        )
        if affected := _affected(damage):
            lines.append(row("", f"  {affected}"))
    if (more := summary.damaged_objects - len(shown)) > 0:
        hint = "--json names all" if verbose else "--verbose names more, --json all"
        lines.append(row("", f"and {format_count(more)} more; {hint}"))
    return lines


def repair_lines(summary: VerifySummary, *, verbose: bool) -> list[str]:
    """What a repair could do, and what it could not."""
    lines = [f"{summary.section}: {plural(summary.files_to_save, 'damaged file')} to be saved again"]
    if summary.files_lost:
        lines.append(
            row("lost", f"{plural(summary.files_lost, 'file')} not in the tree any more as it was saved")
        )
        for damage in summary.lost if verbose else summary.lost[:FAILURES_SHOWN]:
            lines.append(row("", f"  {_affected(damage)}"))
    elif not summary.files_to_save:
        lines[0] = f"{summary.section}: no file of the tree is damaged"
    if summary.broken_snapshots:
        last = max(summary.broken_snapshots)
        lines.append(
            row("lost", f"{plural(len(summary.broken_snapshots), 'snapshot')} as a whole, the last {last}")
        )
    return lines


def _affected(damage: Damage) -> str:
    """Which files of which snapshots an object's damage costs."""
    names = ", ".join(terminal_path(path) for path in damage.paths[:PATHS_SHOWN])
    if damage.files > PATHS_SHOWN:
        names += f" and {format_count(damage.files - PATHS_SHOWN)} more"
    of = (
        f"of {plural(len(damage.snapshots), 'snapshot')}, the last {max(damage.snapshots)}"
        if damage.snapshots
        else ""
    )
    return " ".join(part for part in (names, of) if part)
