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


async def bench_of(kind: str, base: Path, *, key_file: bool = False) -> Workbench:
    """An initialised section of one of the ``KINDS``, at a folder; files below 100,000 bytes are small.

    With ``key_file`` it is that, in place of a pass phrase, which takes far longer to open.
    """
    sealing, layout, compression = kind.split("-")
    (base / "destination").mkdir(parents=True)
    bench = Workbench(base, f"file://{base / 'destination'}", encrypted=sealing != "clear")
    encryption = msgspec.structs.replace(bench.section.encryption, hide_names=sealing == "hidden")
    if key_file and encryption.enabled:
        secret = base / "key"
        secret.touch(mode=0o600)
        secret.write_bytes(b"k" * 32)
        encryption = msgspec.structs.replace(encryption, passphrase_file=None, key_file=secret)
    bench.configure(
        packed=layout == "packed",
        pack_below_bytes=100_000,
        zstd_level=3 if compression == "zstd" else 0,
        encryption=encryption,
    )
    await bench.initialise()
    return bench
