"""The measurements as one HTML page that needs nothing else: no script, no network, light and dark."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from asyncbackup.bench.charts import SERIES, Series, legend, line_chart
from asyncbackup.bench.measurement import GET, HEAD, LIST, MULTIPART, PUT
from asyncbackup.units import format_count, format_duration, format_rate, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncbackup.bench.measurement import Measurement
    from asyncbackup.bench.recommend import Recommendation
    from asyncbackup.bench.runner import BenchResult

# Told apart also by those who do not see all colours alike (after Okabe and Ito).
_LIGHT = ("#0072b2", "#d55e00", "#008f6b", "#b0479a", "#8a6d00", "#3f4a5a")
_DARK = ("#5db5f0", "#ff9455", "#3ddbb0", "#ea9ad6", "#f0cf4a", "#b7c2d0")


def _colours(names: Sequence[str]) -> str:
    return "".join(f"--s{number}:{colour};" for number, colour in enumerate(names))


def _series_rules() -> str:
    return "".join(
        f"g.s{number}{{stroke:var(--s{number});fill:var(--s{number})}}i.s{number}{{background:var(--s{number})}}"
        for number in range(SERIES)
    )


_STYLE = f"""
:root{{color-scheme:light dark;{_colours(_LIGHT)}
--paper:#fbfbfa;--card:#fff;--ink:#1d2430;--dim:#5c6675;--rule:#dfe3e8}}
@media (prefers-color-scheme:dark){{:root{{{_colours(_DARK)}
--paper:#14181f;--card:#1b212b;--ink:#e7ebf1;--dim:#9aa5b4;--rule:#303846}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}}
main{{max-width:1140px;margin:0 auto;padding:32px 20px 64px}}
h1{{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}}
h2{{font-size:18px;margin:40px 0 12px}}
h3{{font-size:15px;margin:0 0 6px}}
p{{margin:4px 0}}.dim{{color:var(--dim)}}
.cards{{display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:14px}}
.charts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:14px}}
.card{{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px;min-width:0}}
.card code{{font-size:17px;font-weight:600}}
code{{font-family:ui-monospace,monospace}}
svg{{display:block;width:100%;height:auto}}
.grid{{stroke:var(--rule)}}.tick{{fill:var(--dim);font-size:11.5px}}.label{{fill:var(--dim);font-size:12px}}
polyline{{fill:none;stroke-width:2.2;stroke-linejoin:round}}.spread{{stroke-width:1.2;opacity:.55}}
.legend{{list-style:none;display:flex;flex-wrap:wrap;gap:4px 16px;margin:8px 0 0;padding:0;font-size:13px}}
.legend i{{display:inline-block;width:14px;height:4px;border-radius:2px;margin:0 6px 3px 0}}
{_series_rules()}
.table{{overflow-x:auto}}
table{{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}}
th,td{{padding:5px 10px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}}
th{{color:var(--dim);font-weight:500}}th:first-child,td:first-child{{text-align:left}}
tr.first td{{border-top:2px solid var(--rule)}}
@media (max-width:480px){{.charts{{grid-template-columns:1fr}}}}
@media print{{body{{background:#fff}}.card{{break-inside:avoid}}}}
"""


def html_report(
    result: BenchResult,
    recommendations: Sequence[Recommendation],
    *,
    version: str,
    now: datetime,
    endpoint: str,
) -> str:
    """The page. ``endpoint`` is the address that was measured, empty for AWS or a folder."""
    where = f"{result.destination} at {endpoint}" if endpoint else result.destination
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>asyncbackup bench: {escape(result.destination)}</title><style>{_STYLE}</style></head>",
            f"<body><main><h1>{escape(where)}</h1>",
            f'<p class="dim">{escape(_circumstances(result, version, now))}</p>',
            "<h2>Recommended</h2>",
            _recommended(recommendations),
            _charts(result.measurements),
            "<h2>All figures</h2>",
            _table(result.measurements),
            _left_out(result),
            "</main></body></html>\n",
        )
    )


def _circumstances(result: BenchResult, version: str, now: datetime) -> str:
    return (
        f"Measured by asyncbackup {version} on {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC, Python "
        f"{platform.python_version()} on {platform.system()} {platform.machine()}: "
        f"{format_count(sum(result.requests.values()))} requests, {format_size(result.bytes)} in "
        f"{format_duration(result.elapsed_seconds)}."
    )


def _recommended(recommendations: Sequence[Recommendation]) -> str:
    cards = []
    for each in recommendations:
        line = f"{each.setting} = {each.value}" if each.value else f"{each.setting}: as it is"
        cards.append(f'<div class="card"><code>{escape(line)}</code><p>{escape(each.reason)}.</p></div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _charts(measurements: Sequence[Measurement]) -> str:
    def rate(value: float) -> str:
        return format_rate(value, 1)

    def per_second(value: float) -> str:
        return f"{value:,.0f}/s"

    blocks: list[str] = []
    for operation, verb in ((PUT, "Writing"), (GET, "Reading")):
        of = [each for each in measurements if each.operation == operation]
        blocks.append(
            "".join(
                (
                    f"<h2>{verb} objects ({operation})</h2><div class='charts'>",
                    _chart("Bytes per second", _by_size(of, _bytes_per_second), rate, base=2.0),
                    _chart("Objects per second", _by_size(of, _per_second), per_second),
                    _chart(
                        "Latency: median, the line up to the 90th percentile",
                        _by_size(of, _latency),
                        latency_text,
                    ),
                    _chart("Latency: 99th percentile", _by_size(of, _tail_latency), latency_text),
                    "</div>",
                )
            )
            if of
            else ""
        )
    parts = [each for each in measurements if each.operation == MULTIPART]
    asked = [each for each in measurements if each.operation in (HEAD, LIST)]
    if parts or asked:
        blocks.append(
            "".join(
                (
                    "<h2>Large files, and questions</h2><div class='charts'>",
                    _chart(
                        "One multipart upload, by the size of its parts",
                        _by_size(parts, _bytes_per_second),
                        rate,
                        base=2.0,
                    ),
                    _chart("HEAD and LIST", _by_operation(asked, _per_second), per_second),
                    "</div>",
                )
            )
        )
    return "".join(blocks)


def _chart(title: str, series: list[Series], text: Callable[[float], str], *, base: float = 10.0) -> str:
    drawing = line_chart(series, title=title, x_label="requests at once", y_text=text, y_base=base)
    if not drawing:
        return ""
    return f'<div class="card"><h3>{escape(title)}</h3>{drawing}{legend(series)}</div>'


Point = tuple[float, ...]


def _bytes_per_second(each: Measurement) -> Point:
    per_operation = each.bytes / each.count
    return (
        each.bytes_per_second,
        each.slowest_per_second * per_operation,
        each.fastest_per_second * per_operation,
    )


def _per_second(each: Measurement) -> Point:
    return (each.per_second, each.slowest_per_second, each.fastest_per_second)


def _latency(each: Measurement) -> Point:
    return (each.p50, each.p50, each.p90)


def _tail_latency(each: Measurement) -> Point:
    return (each.p99,)


def _by_size(measurements: Sequence[Measurement], value: Callable[[Measurement], Point]) -> list[Series]:
    sizes = sorted({each.size for each in measurements})
    return [
        Series(
            name=format_size(size),
            points=tuple(
                (float(each.concurrency), *value(each))
                for each in _ordered(measurements)
                if each.size == size
            ),
        )
        for size in sizes
    ]


def _by_operation(measurements: Sequence[Measurement], value: Callable[[Measurement], Point]) -> list[Series]:
    names = sorted({each.operation for each in measurements})
    return [
        Series(
            name=name,
            points=tuple(
                (float(each.concurrency), *value(each))
                for each in _ordered(measurements)
                if each.operation == name
            ),
        )
        for name in names
    ]


def _ordered(measurements: Sequence[Measurement]) -> list[Measurement]:
    return sorted(measurements, key=lambda each: each.concurrency)


def _table(measurements: Sequence[Measurement]) -> str:
    heads = (
        "operation",
        "size",
        "at once",
        "done",
        "per second",
        "bytes",
        "p50",
        "p90",
        "p99",
        "failed",
        "sent again",
    )
    rows: list[str] = []
    before: tuple[str, int] | None = None
    for each in sorted(measurements, key=lambda each: (each.operation, each.size, each.concurrency)):
        first = ' class="first"' if before != (each.operation, each.size) else ""
        before = (each.operation, each.size)
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in figures(each))
        rows.append(f"<tr{first}>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figures(each: Measurement) -> tuple[str, ...]:
    """One measurement as the columns of a table: operation, size, concurrency, count, rates, latencies,
    failures with their codes, and requests sent again."""
    failed = ", ".join(f"{count} {code}" for code, count in sorted(each.errors.items())) or "-"
    again = f"{each.retries} ({each.throttled} slow down)" if each.throttled else str(each.retries or "-")
    return (
        each.operation,
        format_size(each.size) if each.size else "-",
        str(each.concurrency),
        format_count(each.count),
        f"{each.per_second:,.1f}" if each.per_second < 100 else f"{each.per_second:,.0f}",
        format_rate(each.bytes_per_second, 1) if each.bytes else "-",
        latency_text(each.p50),
        latency_text(each.p90),
        latency_text(each.p99),
        failed,
        again,
    )


def latency_text(seconds: float) -> str:
    """``"50 µs"``, ``"0.8 ms"``, ``"12 ms"``, ``"1.2 s"``."""
    if seconds < 0.0000995:
        return f"{seconds * 1_000_000:.0f} µs"
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def _left_out(result: BenchResult) -> str:
    lines = [f"{name}: --max-bytes has no room for it" for name in result.left_out]
    lines += [f"{name}: --max-seconds were over" for name in result.out_of_time]
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<h2>Not measured</h2><ul class="dim">{items}</ul>'
