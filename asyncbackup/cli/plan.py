"""``plan``: what a run would do and cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.progress import run_figures, show_progress
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.cli.summary import failed_count, failure_events, failure_lines, request_text, row, tree_lines
from asyncbackup.destination import is_remote
from asyncbackup.model import RunCounters
from asyncbackup.text import terminal_text
from asyncbackup.units import format_count, format_duration, format_size, plural

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Selection, Session
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.plan.forecast import Forecast
    from asyncbackup.plan.prices import PriceList
    from asyncbackup.plan.section import Plan

_GRID = "{:<21} {:>10} {:>10} {:>12} {:>12} {:>12}"


class Ratio(click.ParamType[float]):
    """What compression leaves of a byte."""

    name = "ratio"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. A wrong one is a usage error."""
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= 1:
            self.fail(f"{value!r} is no ratio; accepted are numbers over 0 and up to 1", param, ctx)
        return number


@click.command(
    cls=Command,
    examples="""
asyncbackup plan                                 # what tonight's run would do and cost
asyncbackup plan home --ratio 0.4                # take compression to leave 40 %, read nothing
asyncbackup plan --path ~/photos --to s3://my-bucket/photos
asyncbackup plan --prices my-provider.toml
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
    "--prices",
    "prices_file",
    cls=GroupedOption,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Prices of another provider or region, in TOML. Default: AWS's list prices of us-east-1.",
)
@click.option(
    "--ratio",
    cls=GroupedOption,
    type=Ratio(),
    metavar="R",
    help="What compression leaves of a byte. Default: found out by compressing up to 256 files.",
)
@section_options
@global_options
@click.pass_obj
def plan(
    session: Session, sections: tuple[str, ...], prices_file: Path | None, ratio: float | None
) -> ExitCode:
    """Show what a run would do and cost.

    Walks the tree as a run does, compares it with the database, and sends no request. A section that
    has no database yet is planned as a first run. Money is by the list: without tax, discounts and
    free tiers. Sending data to S3 costs nothing but its requests.
    """
    session.start_logging()
    output = session.output()
    selection = select(session, sections)

    from asyncbackup.plan.prices import AWS_LIST, read_prices

    prices = AWS_LIST if prices_file is None else read_prices(prices_file)

    async def main(stop: StopRequest) -> ExitCode:
        async def show(section: SectionSettings) -> ExitCode:
            return await _show(session, output, selection, section, prices, ratio=ratio, stop=stop)

        return await each_section(session, output, selection, show, stop=stop)

    return run_async(main, output=output, graceful=True)


async def _show(
    session: Session,
    output: Output,
    selection: Selection,
    section: SectionSettings,
    prices: PriceList,
    *,
    ratio: float | None,
    stop: StopRequest,
) -> ExitCode:
    from asyncbackup.plan.section import plan_section

    counters = RunCounters()
    with show_progress(output, section.name, lambda: run_figures(counters)):
        made = await plan_section(selection.settings, section, ratio=ratio, counters=counters, stop=stop)
    output.events(failure_events(section.name, made.run.failures))
    output.event("summary", plan_fields(section, made, prices))
    output.result(*plan_lines(selection.settings, section, made, prices, verbose=session.verbose))
    return ExitCode.INCOMPLETE if made.run.files_failed or made.run.failures else ExitCode.OK


def plan_fields(section: SectionSettings, plan: Plan, prices: PriceList) -> dict[str, object]:
    """The summary event. Money is in ``currency``, a month's for storage; folders cost none."""
    run = plan.run
    priced = is_remote(section.destination)
    return {
        "section": section.name,
        "destination": section.destination,
        "layout": plan.next_run.layout,
        "storage_class": section.storage_class,
        "has_database": plan.has_database,
        "files_scanned": run.files_scanned,
        "files_new": run.files_new,
        "files_changed": run.files_changed,
        "files_unchanged": run.files_unchanged,
        "files_deleted": run.files_deleted,
        "files_failed": run.files_failed,
        "files_ignored": run.files_ignored,
        "symlinks": run.symlinks,
        "folders": run.folders,
        "bytes_scanned": run.bytes_scanned,
        "bytes_to_upload": run.bytes_to_upload,
        "elapsed_seconds": run.elapsed_seconds,
        "next_run": _forecast_fields(plan.next_run, section.storage_class, prices, priced=priced),
        "first_run": {
            each.layout: _forecast_fields(each, section.storage_class, prices, priced=priced)
            for each in plan.first_runs
        },
        "by_storage_class": {name: _money_fields(plan.first_runs[0], name, prices) for name in prices.classes}
        if priced
        else {},
        "compression_ratio": {
            "packed": round(plan.ratios.packed, 4),
            "small": round(plan.ratios.small, 4),
            "small_share": round(plan.ratios.small_share, 4),
            "large": round(plan.ratios.large, 4),
            "large_share": round(plan.ratios.large_share, 4),
            "files_sampled": plan.ratios.small_files + plan.ratios.large_files,
        },
        "prices": prices.source if priced else "",
        "currency": prices.currency if priced else "",
    }


def _forecast_fields(
    forecast: Forecast, storage_class: str, prices: PriceList, *, priced: bool
) -> dict[str, object]:
    from asyncbackup.plan.forecast import total_requests

    fields: dict[str, object] = {
        "objects": forecast.object_count,
        "bytes_stored": forecast.stored_bytes,
        "bytes_sent": forecast.sent_bytes,
        "requests": total_requests(forecast),
    }
    if priced:
        fields["cost"] = _money_fields(forecast, storage_class, prices)
    return fields


def _money_fields(forecast: Forecast, storage_class: str, prices: PriceList) -> dict[str, object] | None:
    from asyncbackup.plan.cost import cost_of

    if storage_class not in prices.classes:
        return None
    cost = cost_of(forecast, prices, storage_class)
    return {
        "requests": round(cost.requests, 6),
        "storage_month": round(cost.storage_month, 6),
        "billed_bytes": cost.billed_bytes,
        "restore": round(cost.restore, 6),
    }


def plan_lines(
    settings: Settings, section: SectionSettings, plan: Plan, prices: PriceList, *, verbose: bool
) -> list[str]:
    """The plan as a person wants to see it."""
    from asyncbackup.plan.forecast import total_requests

    run, coming, first = plan.run, plan.next_run, plan.first_runs[0]
    lines = [
        f"{section.name}: plan of {'the next' if plan.has_database else 'the first'} run "
        f"to {terminal_text(section.destination)}"
    ]
    lines += tree_lines(run)
    lines.append(
        row(
            "upload",
            f"{format_size(run.bytes_to_upload)} of {format_size(run.bytes_scanned)}, "
            f"as about {plural(coming.object_count, 'object')} of {format_size(coming.sent_bytes)}",
        )
    )
    lines.append(row("requests", request_text(total_requests(coming))))
    lines += _money_lines(section, plan, prices)
    lines += _layout_lines(section, plan, prices)
    if is_remote(section.destination):
        lines += _class_lines(section, first, prices)
    lines += _notes(settings, section, plan, prices)
    lines.append(row("took", format_duration(run.elapsed_seconds)))
    return [*lines, *failure_lines(run.failures, total=failed_count(run), every=verbose)]


def _money_lines(section: SectionSettings, plan: Plan, prices: PriceList) -> list[str]:
    from asyncbackup.plan.cost import cost_of

    name = section.storage_class
    if not is_remote(section.destination) or name not in prices.classes:
        return []
    coming, whole = cost_of(plan.next_run, prices, name), cost_of(plan.first_runs[0], prices, name)
    run = f"{money(coming.requests, prices)} for this run's requests"
    if plan.has_database:
        run += f"; a first run of all of it {money(whole.requests, prices)}"
    return [
        row("cost", run),
        row("", f"{money(whole.storage_month, prices)} a month for the tree as it is, in {name}"),
    ]


def _layout_lines(section: SectionSettings, plan: Plan, prices: PriceList) -> list[str]:
    """A line a layout: the whole tree in each."""
    from asyncbackup.plan.cost import cost_of

    priced = is_remote(section.destination) and section.storage_class in prices.classes
    heads = ("first run", "a month", "restore") if priced else ("", "", "")
    lines = [row("layouts", _GRID.format("", "objects", "stored", *heads).rstrip())]
    for forecast in plan.first_runs:
        label = forecast.layout + (" (configured)" if forecast is plan.first_runs[0] else "")
        figures = ["", "", ""]
        if priced:
            cost = cost_of(forecast, prices, section.storage_class)
            figures = [money(amount, prices) for amount in (cost.requests, cost.storage_month, cost.restore)]
        lines.append(
            row(
                "",
                _GRID.format(
                    label, format_count(forecast.object_count), format_size(forecast.stored_bytes), *figures
                ).rstrip(),
            )
        )
    return lines


def _class_lines(section: SectionSettings, forecast: Forecast, prices: PriceList) -> list[str]:
    """A line a storage class: the whole tree in the section's layout."""
    from asyncbackup.plan.cost import cost_of

    lines = [row("classes", _GRID.format("", "keep", "billed", "first run", "a month", "restore"))]
    for name, price in prices.classes.items():
        cost = cost_of(forecast, prices, name)
        mark = " *" if name == section.storage_class else ""
        keep = f"{price.minimum_days} d" if price.minimum_days else "-"
        lines.append(
            row(
                "",
                _GRID.format(
                    name + mark,
                    keep,
                    format_size(cost.billed_bytes),
                    money(cost.requests, prices),
                    money(cost.storage_month, prices),
                    money(cost.restore, prices),
                ),
            )
        )
    return lines


def _notes(settings: Settings, section: SectionSettings, plan: Plan, prices: PriceList) -> list[str]:
    notes: list[str] = []
    if not plan.has_database:
        notes.append(f"there is no database yet; 'asyncbackup initdb {section.name}' comes first")
    ratios = plan.ratios
    leaves = [f"{ratios.packed:.0%} in packs"] if ratios.small_files else []
    if ratios.large_files:
        left = 1 - ratios.large_share * (1 - ratios.large)
        leaves.append(f"{left:.0%} of large files")
    if leaves:
        sampled = plural(ratios.small_files + ratios.large_files, "file")
        notes.append(f"compression leaves {' and '.join(leaves)}, going by {sampled}")
    if is_remote(section.destination):
        if section.storage_class not in prices.classes:
            notes.append(f"the price list has no {section.storage_class}; --prices FILE brings one that has")
        endpoint = settings.s3.endpoint_url
        notes.append(f"prices: {prices.source}")
        if endpoint and ".amazonaws.com" not in endpoint and prices.source.startswith("AWS"):
            notes.append(f"{terminal_text(endpoint)} has its own prices; --prices FILE takes them")
        notes.append(
            "'restore' downloads everything once, over the internet; 'keep' is what is billed at least"
        )
    return [row("" if number else "note", terminal_text(note)) for number, note in enumerate(notes)]


def money(amount: float, prices: PriceList) -> str:
    """``"$12.34"``, ``"$0.0012"`` for little, ``"12.34 EUR"`` for other currencies."""
    if amount >= 0.995 or amount == 0:
        text = f"{amount:,.2f}"
    elif amount < 0.00005:
        text = "<0.0001"
    else:
        text = f"{amount:.4f}" if amount < 0.0995 else f"{amount:.2f}"
    if prices.currency == "USD":
        return f"<${text[1:]}" if text.startswith("<") else f"${text}"
    return f"{text} {terminal_text(prices.currency)}"
