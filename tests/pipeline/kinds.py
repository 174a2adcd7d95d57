"""Sections of every kind in which contents are stored: how they are sealed, laid out and compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tests.workbench import Workbench

if TYPE_CHECKING:
    from pathlib import Path

KINDS = [
    f"{sealing}-{layout}-{compression}"
    for sealing in ("clear", "sealed", "hidden")
    for layout in ("mirror", "packed")
    for compression in ("plain", "zstd")
]


async def bench_of(kind: str, base: Path) -> Workbench:
    """An initialised section of one of the ``KINDS``, at a folder; files below 100,000 bytes are small."""
    sealing, layout, compression = kind.split("-")
    (base / "destination").mkdir()
    bench = Workbench(base, f"file://{base / 'destination'}", encrypted=sealing != "clear")
    encryption = msgspec.structs.replace(bench.section.encryption, hide_names=sealing == "hidden")
    bench.configure(
        packed=layout == "packed",
        pack_below_bytes=100_000,
        zstd_level=3 if compression == "zstd" else 0,
        encryption=encryption,
    )
    await bench.initialise()
    return bench
