"""What is measured: which cells, how many operations of each, and all of it within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.bench.measurement import GET, HEAD, LIST, MULTIPART, PUT
from asyncbackup.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

KIB, MIB, GIB = 1024, 1024**2, 1024**3
MAX_OBJECT_BYTES = 256 * MIB
"""One body of the largest size is held in memory."""
SMALL_BYTES = 64 * KIB
"""Up to this size, an operation costs its latency and hardly any bandwidth."""
FEWEST_SMALL = 32
FEWEST_LARGE = 2
MOST_LISTINGS = 16
"""Nothing lists more at once, and each listing is of many objects."""


class BenchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and limits in bytes and seconds; ``max_bytes`` counts what is sent and what is read."""

    sizes: tuple[int, ...] = (4 * KIB, 64 * KIB, MIB, 8 * MIB)
    part_sizes: tuple[int, ...] = (5 * MIB, 8 * MIB, 16 * MIB)
    concurrencies: tuple[int, ...] = (1, 4, 16, 32, 64)
    repeats: int = 3
    max_bytes: int = GIB
    max_seconds: float = 180.0


QUICK = BenchSettings(
    sizes=(16 * KIB, MIB),
    part_sizes=(5 * MIB,),
    concurrencies=(1, 8, 32),
    repeats=1,
    max_bytes=192 * MIB,
    max_seconds=30.0,
)


class Cell(msgspec.Struct, kw_only=True):
    """Operations that are measured one after another on the same objects: ``count`` of each, ``repeats``
    times. ``size`` is an object's or a part's."""

    operations: tuple[str, ...]
    size: int
    concurrency: int
    count: int
    repeats: int = 0

    @property
    def bytes_per_repeat(self) -> int:
        """What one repeat moves, there and back."""
        return (
            self.count * self.size * sum(operation in (PUT, GET, MULTIPART) for operation in self.operations)
        )

    @property
    def name(self) -> str:
        return f"{'/'.join(self.operations)} {format_size(self.size)}, {self.concurrency} at once"


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """``cells`` in the order in which they are measured, and those that the limit has no room for."""

    cells: tuple[Cell, ...]
    left_out: tuple[Cell, ...]


def schedule(settings: BenchSettings) -> Schedule:
    """Everything that ``max_bytes`` has room for: first each cell once, the cheapest first, then repeats."""
    cells = [cell for concurrency in settings.concurrencies for cell in _cells(settings, concurrency)]
    left = settings.max_bytes
    for _ in range(settings.repeats):
        for cell in sorted(cells, key=lambda cell: (cell.bytes_per_repeat, cell.concurrency)):
            if cell.bytes_per_repeat <= left:
                cell.repeats += 1
                left -= cell.bytes_per_repeat
    return Schedule(
        cells=tuple(cell for cell in cells if cell.repeats),
        left_out=tuple(cell for cell in cells if not cell.repeats),
    )


def _cells(settings: BenchSettings, concurrency: int) -> Sequence[Cell]:
    cells: list[Cell] = []
    asked = (HEAD, LIST) if concurrency <= MOST_LISTINGS else (HEAD,)
    for number, size in enumerate(sorted(settings.sizes)):
        small = size <= SMALL_BYTES
        cells.append(
            Cell(
                # The smallest objects serve to be asked for and listed too.
                operations=(PUT, *asked, GET) if not number else (PUT, GET),
                size=size,
                concurrency=concurrency,
                count=max(4 * concurrency, FEWEST_SMALL) if small else max(concurrency, FEWEST_LARGE),
            )
        )
    cells += (
        Cell(
            operations=(MULTIPART,),
            size=size,
            concurrency=concurrency,
            count=max(concurrency, FEWEST_LARGE),
        )
        for size in sorted(settings.part_sizes)
    )
    return cells
