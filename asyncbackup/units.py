"""Sizes, rates and durations: read from what people write, written as people read them."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
_BY_LOWER_NAME = {name.lower(): factor for name, factor in _UNITS.items()}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

SIZE_EXAMPLES = '"64 MiB", "16MB" or a whole number of bytes'


def parse_size(text: str) -> int:
    """The bytes that ``text`` names: ``"64 MiB"`` (1024s), ``"16MB"`` (1000s), ``"1.5 GiB"``, ``"512"``.

    Upper and lower case are the same. Raises ``ValueError`` with a message
    that says what is accepted.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"a size is written like {SIZE_EXAMPLES}")
    number, unit = match[1], match[2]
    if not unit:
        factor = 1
    elif unit.lower() in _BY_LOWER_NAME:
        factor = _BY_LOWER_NAME[unit.lower()]
    elif unit.upper() in {"K", "M", "G", "T"}:
        letter = "k" if unit.lower() == "k" else unit.upper()
        raise ValueError(f"say whether {unit} means {unit.upper()}iB (1024) or {letter}B (1000)")
    else:
        raise ValueError(f"{unit!r} is no unit of size; units are {', '.join(_UNITS)}")
    size = Decimal(number) * factor
    if size != int(size):
        raise ValueError("a size is a whole number of bytes")
    return int(size)


def format_size(size: float) -> str:
    """``size`` bytes in three or four digits: ``"0 B"``, ``"999 B"``, ``"1.50 KiB"``, ``"64.0 MiB"``."""
    value = float(size)
    for unit in _BINARY:
        # 1023.95 KiB would be rounded to 1024: the next unit says it shorter.
        if value < 1023.5 or unit == _BINARY[-1]:
            break
        value /= 1024
    if unit == "B":
        return f"{value:.0f} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def format_rate(size: float, seconds: float) -> str:
    """``size`` bytes in ``seconds`` as a rate; ``"-"`` where nothing can be said yet."""
    return f"{format_size(size / seconds)}/s" if seconds > 0 else "-"


def format_duration(seconds: float) -> str:
    """``"0.8 s"``, ``"42 s"``, ``"3 min 05 s"``, ``"2 h 07 min"``, ``"3 d 04 h"``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def format_count(count: int) -> str:
    """``count`` with its thousands apart: ``"1,234,567"``."""
    return f"{count:,}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """``"1 file"``, ``"2 files"``; ``many`` where an s does not do."""
    return f"{format_count(count)} {one if count == 1 else many or one + 's'}"
