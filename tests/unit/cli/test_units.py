"""Sizes and durations, read and written."""

from __future__ import annotations

import pytest

from asyncbackup.units import format_duration, format_rate, format_size, parse_size, plural


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("64 MiB", 64 * 1024**2),
        ("64mib", 64 * 1024**2),
        ("16MB", 16_000_000),
        (" 1.5 GiB ", 3 * 1024**3 // 2),
        ("1 kB", 1000),
        ("0.1 MB", 100_000),
        ("2 TiB", 2 * 1024**4),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1,5 MiB", "1 MiB 2", "0.5", "1 PiB", "1e3", "٣ MiB", "64 M"]
)
def test_other_text_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|whole|unit|MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10 * 1024, "10.0 KiB"),
        (100 * 1024, "100 KiB"),
        (1024**2 - 1, "1.00 MiB"),
        (64 * 1024**2, "64.0 MiB"),
        (5 * 1024**4, "5.00 TiB"),
        (2**70, "1024 EiB"),
    ],
)
def test_sizes_are_written(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3600, "1 h 00 min"),
        (86399, "1 d 00 h"),
        (90000, "1 d 01 h"),
    ],
)
def test_durations_are_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_rates_and_counts() -> None:
    assert format_rate(1024**2, 2) == "512 KiB/s"
    assert format_rate(1, 0) == "-"
    assert plural(1, "file") == "1 file"
    assert plural(2345, "file") == "2,345 files"
    assert plural(2, "entry", "entries") == "2 entries"
