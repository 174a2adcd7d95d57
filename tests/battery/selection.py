"""How much of the battery runs: a small seeded selection, or with ``BATTERY=full`` every case.

``BATTERY_SEED`` draws another selection; the summary at the end of a run prints the seed it had.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterable
from typing import TypeVar

Case = TypeVar("Case")

FULL = os.environ.get("BATTERY", "") == "full"
SEED = int(os.environ.get("BATTERY_SEED", "20261122"))


def selected(cases: Iterable[Case], count: int, *, name: str, always: Collection[Case] = ()) -> list[Case]:
    """All cases in a full run, else ``count`` of them that the seed and ``name`` choose, in their order,
    and those of ``always``, which have found something once."""
    every = list(cases)
    if FULL or count >= len(every):
        return every
    chosen = random.Random(f"{SEED} {name}").sample(range(len(every)), count)
    kept = set(chosen) | {index for index, case in enumerate(every) if case in always}
    return [every[index] for index in sorted(kept)]
