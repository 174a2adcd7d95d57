"""``bench``: how fast a destination is."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

import asyncbackup
from asyncbackup.cli.commands import Command, GroupedOption, global_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.progress import Figures, show_progress
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.summary import request_text, row
from asyncbackup.config_file import MAX_CONCURRENCY
from asyncbackup.destination import check_destination, is_remote
from asyncbackup.errors import ConfigError
from asyncbackup.text import local_path, terminal_text
from asyncbackup.units import format_duration, format_size, parse_size, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.bench.recommend import Recommendation
    from asyncbackup.bench.runner import BenchCounters, BenchResult
    from asyncbackup.bench.schedule import BenchSettings
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Session
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.traces import Traces

MIN_PART_BYTES = 5 * 1024**2
LEFT_SHOWN = 5
_GRID = "{:<10} {:>9} {:>8} {:>11} {:>13} {:>8} {:>8} {:>8}"
_HEADS = ("", "size", "at once", "per second", "bytes", "p50", "p90", "p99")


class Destination(click.ParamType[str]):
    """``s3://bucket/prefix`` or ``file:///folder``."""

    name = "destination"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The checked URL. A wrong one is a usage error."""
        try:
            return check_destination(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Sizes(click.ParamType[tuple[int, ...]]):
    """Sizes with commas between them."""

    name = "sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The sizes in bytes. A wrong one is a usage error."""
        from asyncbackup.bench.schedule import MAX_OBJECT_BYTES

        sizes: list[int] = []
        for text in str(value).split(","):
            try:
                size = parse_size(text)
            except ValueError as error:
                self.fail(f"{text!r}: {error}", param, ctx)
            if not 1 <= size <= MAX_OBJECT_BYTES:
                self.fail(
                    f"{text!r}: accepted are sizes from 1 B to {format_size(MAX_OBJECT_BYTES)}", param, ctx
                )
            sizes.append(size)
        return tuple(dict.fromkeys(sizes))


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers of requests at once, with commas between them."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers, ascending. A wrong one is a usage error."""
        numbers: set[int] = set()
        for text in str(value).split(","):
            if not text.strip().isdecimal() or not 1 <= int(text) <= MAX_CONCURRENCY:
                self.fail(f"{text!r} is no whole number from 1 to {MAX_CONCURRENCY}", param, ctx)
            numbers.add(int(text))
        return tuple(sorted(numbers))


class Size(click.ParamType[int]):
    """One size, with its unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The size in bytes. A wrong one is a usage error."""
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


@click.command(
    cls=Command,
    examples="""
asyncbackup bench s3://my-bucket --quick                # half a minute, 192 MiB
asyncbackup bench s3://my-bucket --report bench.html    # with plots
asyncbackup bench s3://my-bucket --sizes 16KiB,1MiB --concurrency 32,64,128 --max-bytes 4GiB
asyncbackup bench file:///mnt/disk/backups
""",
    codes=(ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.INTERRUPTED),
)
@click.argument("destination", type=Destination(), metavar="DESTINATION")
@click.option(
    "--sizes",
    cls=GroupedOption,
    type=Sizes(),
    metavar="SIZE,…",
    help="Sizes of objects. Default: 4KiB,64KiB,1MiB,8MiB.",
)
@click.option(
    "--part-sizes",
    cls=GroupedOption,
    type=Sizes(),
    metavar="SIZE,…",
    help="Sizes of parts, at least 5 MiB. Default: 5MiB,8MiB,16MiB.",
)
@click.option(
    "--concurrency",
    "concurrencies",
    cls=GroupedOption,
    type=Numbers(),
    metavar="N,…",
    help="Requests at once. Default: 1,4,16,32,64.",
)
@click.option(
    "--repeats",
    cls=GroupedOption,
    type=click.IntRange(1, 100),
    metavar="N",
    help="How often each is measured, as far as the limits allow. Default: 3.",
)
@click.option(
    "--max-bytes",
    cls=GroupedOption,
    type=Size(),
    metavar="SIZE",
    help="Bytes to send and read at most, together. Default: 1 GiB.",
)
@click.option(
    "--max-seconds",
    cls=GroupedOption,
    type=click.FloatRange(1, 86400),
    metavar="S",
    help="After so many seconds nothing more is begun. Default: 180.",
)
@click.option(
    "--quick", cls=GroupedOption, is_flag=True, help="Fewer sizes, once each: 192 MiB and 30 s at the most."
)
@click.option(
    "--report",
    cls=GroupedOption,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write a page with plots, which needs no network.",
)
@global_options
@click.pass_obj
def bench(
    session: Session,
    destination: str,
    sizes: tuple[int, ...] | None,
    part_sizes: tuple[int, ...] | None,
    concurrencies: tuple[int, ...] | None,
    repeats: int | None,
    max_bytes: int | None,
    max_seconds: float | None,
    quick: bool,
    report: Path | None,
) -> ExitCode:
    """Measure how fast a destination is, and recommend settings.

    Writes, asks for, lists, reads and deletes objects below asyncbackup-bench-… at the destination,
    through what runs use, so it measures what a run would get. Everything is removed at the end, also
    when interrupted. Requests and bytes cost what the provider asks for them.
    """
    session.start_logging()
    output = session.output()
    base = session.base_settings()
    settings = bench_settings(
        quick=quick,
        sizes=sizes,
        part_sizes=part_sizes,
        concurrencies=concurrencies,
        repeats=repeats,
        max_bytes=max_bytes,
        max_seconds=max_seconds,
    )
    if report is not None and not os.access(report.absolute().parent, os.W_OK):
        raise ConfigError(f"--report {local_path(report)}: its folder cannot be written to; choose another")

    async def main(stop: StopRequest) -> ExitCode:
        from asyncbackup.bench.recommend import recommend
        from asyncbackup.bench.runner import BenchCounters, run_bench
        from asyncbackup.traces import Traces

        counters, traces = BenchCounters(), Traces("bench")
        try:
            with show_progress(output, "bench", lambda: bench_figures(counters)):
                result = await run_bench(
                    destination,
                    s3=base.s3,
                    settings=settings,
                    traces=traces,
                    counters=counters,
                    on_measurement=lambda each: output.event("measurement", msgspec.structs.asdict(each)),
                )
        finally:
            name_left(output, traces)
        advice = recommend(result.measurements)
        if report is not None:
            _write_report(report, result, advice, endpoint=base.s3.endpoint_url)
        output.event("summary", bench_fields(result, advice, traces))
        output.result(*bench_lines(result, advice, report, verbose=session.verbose))
        return ExitCode.FAILED if traces.left else ExitCode.OK

    return run_async(main, output=output, graceful=False)


def bench_settings(*, quick: bool, **limits: object) -> BenchSettings:
    """What the options ask for: ``limits`` are fields of ``BenchSettings``, ``None`` where an option was
    not given. Raises click's usage errors."""
    from asyncbackup.bench.schedule import QUICK, BenchSettings, schedule

    given = {name: value for name, value in limits.items() if value is not None}
    settings = msgspec.structs.replace(QUICK if quick else BenchSettings(), **given)
    if small := [size for size in settings.part_sizes if size < MIN_PART_BYTES]:
        raise click.UsageError(f"--part-sizes: {format_size(small[0])} is less than S3's 5 MiB for a part")
    if not schedule(settings).cells:
        raise click.UsageError(
            f"--max-bytes {format_size(settings.max_bytes)} has no room for a single measurement; raise it"
        )
    return settings


def bench_figures(counters: BenchCounters) -> Figures:
    """How far it is. ``path`` is what is being measured."""
    return Figures(
        verb="measuring",
        unit="measurements",
        files_done=counters.cells,
        files_total=counters.cells_total,
        bytes_done=counters.bytes,
        failed=counters.errors,
        retries=counters.retries,
        path=counters.doing.encode(),
    )


def name_left(output: Output, traces: Traces) -> None:
    """Say what could not be removed, whatever else happened."""
    if not traces.left:
        return
    reasons = "; ".join(traces.reasons) or "the clean-up did not come to its end"
    shown = traces.left[:LEFT_SHOWN]
    more = f" and {len(traces.left) - len(shown)} more" if len(traces.left) > len(shown) else ""
    output.warning(
        f"{plural(len(traces.left), 'object')} below {traces.prefix} could not be removed; delete by hand "
        f"{', '.join(shown)}{more} ({reasons})"
    )
    output.events({"event": "left", "key": key} for key in traces.left)


def bench_fields(result: BenchResult, advice: Sequence[Recommendation], traces: Traces) -> dict[str, object]:
    """The summary event. Measurements are events of their own."""
    return {
        "destination": result.destination,
        "measurements": len(result.measurements),
        "left_out": list(result.left_out),
        "out_of_time": list(result.out_of_time),
        "recommended": {each.setting: {"value": each.value, "reason": each.reason} for each in advice},
        "requests": result.requests,
        "bytes": result.bytes,
        "errors": sum(sum(each.errors.values()) for each in result.measurements),
        "retries": sum(each.retries for each in result.measurements),
        "throttled": sum(each.throttled for each in result.measurements),
        "keeps_checksums": result.keeps_checksums,
        "not_removed": len(traces.left),
        "elapsed_seconds": round(result.elapsed_seconds, 3),
    }


def bench_lines(
    result: BenchResult, advice: Sequence[Recommendation], report: Path | None, *, verbose: bool
) -> list[str]:
    """The measurements as a person wants to see them."""
    from asyncbackup.bench.report import figures

    lines = [terminal_text(result.destination), f"  {_GRID.format(*_HEADS)}"]
    ordered = sorted(
        result.measurements, key=lambda each: (_order(each.operation), each.size, each.concurrency)
    )
    before = ""
    for each in ordered:
        columns = figures(each)
        name = each.operation if each.operation != before else ""
        before = each.operation
        trouble = "".join(
            f"  {label} {terminal_text(text)}"
            for label, text in zip(("failed:", "sent again:"), columns[9:], strict=True)
            if text != "-"
        )
        # How many there were is in the page and the events.
        lines.append(f"  {_GRID.format(name, *columns[1:3], *columns[4:9])}{trouble}")
    for number, each_advice in enumerate(advice):
        setting = (
            f"{each_advice.setting} = {each_advice.value}"
            if each_advice.value
            else f"{each_advice.setting} as it is"
        )
        lines.append(row("recommend" if not number else "", setting))
        lines.append(row("", f"  {terminal_text(each_advice.reason)}"))
    if is_remote(result.destination) and not result.keeps_checksums:
        lines.append(row("note", "this endpoint returns no checksums; 'verify' has to read everything there"))
    for option, names in (("--max-bytes", result.left_out), ("--max-seconds", result.out_of_time)):
        if names:
            lines.append(row("left out", f"{plural(len(names), 'measurement')} for {option}"))
            lines += [row("", f"  {name}") for name in names if verbose]
    lines.append(row("requests", request_text(result.requests)))
    lines.append(row("took", f"{format_duration(result.elapsed_seconds)}, {format_size(result.bytes)} moved"))
    if report is not None:
        lines.append(row("report", local_path(report)))
    return lines


def _order(operation: str) -> int:
    from asyncbackup.bench.measurement import OPERATIONS

    return OPERATIONS.index(operation)


def _write_report(
    report: Path, result: BenchResult, advice: Sequence[Recommendation], *, endpoint: str
) -> None:
    from asyncbackup.bench.report import html_report

    page = html_report(
        result, advice, version=asyncbackup.__version__, now=datetime.now(UTC), endpoint=endpoint
    )
    try:
        report.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the report {local_path(report)}: {error.strerror}") from error
