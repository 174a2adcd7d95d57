"""Plots as SVG, drawn by hand: what a page shows without any library, on paper and in the dark.

Colours are the page's (``report.py``): a series *n* has the class ``sN``.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 16, 14, 44
SERIES = 6
"""How many series the page has colours for; further ones begin again."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A line: its name, and points ``(x, y)`` or ``(x, y, low, high)`` in ascending x."""

    name: str
    points: tuple[tuple[float, ...], ...]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_text: Callable[[float], str],
    y_base: float = 10.0,
) -> str:
    """Lines over a logarithmic x; y is linear from 0, or logarithmic where it spans over two powers of ten.

    ``y_text`` writes a value of y; ``y_base`` is the base of round numbers, 2 for bytes.
    """
    drawn = [line for line in series if line.points]
    xs = sorted({point[0] for line in drawn for point in line.points})
    values = [value for line in drawn for point in line.points for value in point[1:] if value > 0]
    if not xs or not values:
        return ""
    scale = _Scale(xs, min(values), max(values), y_base)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for tick in scale.ticks:
        y = scale.y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">')
        parts.append(f"{escape(y_text(tick))}</text>")
    bottom = HEIGHT - _BOTTOM
    for x in xs:
        at = scale.x(x)
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    for number, line in enumerate(drawn):
        parts.append(_line(line, number % SERIES, scale, y_text))
    parts.append("</svg>")
    return "".join(parts)


def legend(series: Sequence[Series]) -> str:
    """The names of the lines beside their colours."""
    drawn = [line for line in series if line.points]
    items = "".join(
        f'<li><i class="s{number % SERIES}"></i>{escape(line.name)}</li>' for number, line in enumerate(drawn)
    )
    return f'<ul class="legend">{items}</ul>'


def _line(line: Series, colour: int, scale: _Scale, y_text: Callable[[float], str]) -> str:
    points = " ".join(f"{scale.x(point[0]):.1f},{scale.y(point[1]):.1f}" for point in line.points)
    parts = [f'<g class="s{colour}"><polyline points="{points}"/>']
    for point in line.points:
        x, y = scale.x(point[0]), scale.y(point[1])
        if len(point) == 4:
            low, high = scale.y(point[2]), scale.y(point[3])
            parts.append(f'<line class="spread" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        tip = f"{line.name}, {point[0]:g}: {y_text(point[1])}"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{escape(tip)}</title></circle>')
    parts.append("</g>")
    return "".join(parts)


class _Scale:
    def __init__(self, xs: Sequence[float], lowest: float, highest: float, base: float) -> None:
        self._first, self._last = math.log(xs[0]), math.log(xs[-1])
        self._logarithmic = highest / lowest > 100
        if self._logarithmic:
            # 64 KiB, 1 MiB, 16 MiB of bytes; 1, 10, 100 of all else.
            root = 16.0 if base == 2.0 else 10.0
            first = math.floor(math.log(lowest, root))
            self._bottom = root**first
            self._top = highest * 1.3
            self.ticks = [root**power for power in range(first, math.floor(math.log(self._top, root)) + 1)]
        else:
            step = _round_step(highest / 4, base)
            self._bottom = 0.0
            self._top = max(step, highest * 1.08)
            self.ticks = [step * number for number in range(int(self._top / step) + 1)]

    def x(self, value: float) -> float:
        width = WIDTH - _LEFT - _RIGHT - 24
        if self._last == self._first:
            return _LEFT + 12 + width / 2
        return _LEFT + 12 + width * (math.log(value) - self._first) / (self._last - self._first)

    def y(self, value: float) -> float:
        height = HEIGHT - _TOP - _BOTTOM
        if self._logarithmic:
            share = math.log(max(value, self._bottom) / self._bottom) / math.log(self._top / self._bottom)
        else:
            share = value / self._top
        return _TOP + height * (1 - share)


def _round_step(wanted: float, base: float) -> float:
    """A round number of about ``wanted``: 1, 2 or 5 times a power of ten; of two for bytes."""
    if base == 2.0:
        return 2.0 ** max(0, round(math.log2(wanted)))
    power = 10.0 ** math.floor(math.log10(wanted))
    return next((step * power for step in (1, 2, 5) if step * power >= wanted), 10 * power)
