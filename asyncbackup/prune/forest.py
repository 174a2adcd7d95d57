"""How manifests rest on each other, and which lines of a forgotten one can still be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import FormatError
from asyncbackup.model import RunId
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.repository.parallel import in_parallel
from asyncbackup.repository.snapshots import SnapshotInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncbackup.repository.open import Repository

HEADERS_AT_ONCE = 8


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest that a kept snapshot needs. ``views`` are of a forgotten one: for each kept snapshot
    that rests on it with no other kept one between, the numbers of the manifests above it."""

    number: int
    info: SnapshotInfo
    base: RunId | None
    kept: bool
    below_forgotten: bool
    """Whether its lines hide some of a forgotten manifest."""
    views: tuple[frozenset[int], ...] = ()

    def sees(self, others: frozenset[int]) -> bool:
        """Whether a kept snapshot shows this manifest's line of a path that ``others`` have lines of too."""
        return self.kept or any(not view & others for view in self.views)


async def read_forest(
    repository: Repository, manifests: Mapping[RunId, SnapshotInfo], kept: Iterable[RunId]
) -> dict[RunId, Node]:
    """Every manifest that ``kept`` snapshots need, by run.

    ``manifests`` are the newest revisions of all there are. Raises
    ``FormatError`` where one that is needed is missing, and as
    :class:`~asyncbackup.repository.manifest_stream.ManifestStream` does.
    """

    async def base_of(run: RunId) -> RunId | None:
        info = manifests[run]
        async with ManifestStream(repository, run, revision=info.revision) as stream:
            base = stream.header.base
        if base is None:
            return None
        if (found := manifests.get(RunId(base))) is None:
            raise FormatError(
                f"{info.key} rests on snapshot {base}, whose manifest is missing; nothing was deleted. "
                f"Put it back, or forget snapshot {run}"
            )
        return found.id

    bases: dict[RunId, RunId | None] = {}
    wanted = sorted(kept)
    kept_runs = frozenset(wanted)
    while wanted:
        found = await in_parallel(wanted, base_of, limit=HEADERS_AT_ONCE)
        bases.update(zip(wanted, found, strict=True))
        wanted = sorted({base for base in found if base is not None and base not in bases})
    numbers = {run: number for number, run in enumerate(sorted(bases))}
    views: dict[RunId, list[frozenset[int]]] = {}
    hiding: set[RunId] = set()
    for run in kept_runs:
        above = [run]
        base = bases[run]
        while base is not None and base not in kept_runs:
            views.setdefault(base, []).append(frozenset(numbers[each] for each in above))
            hiding.update(above)
            above.append(base)
            base = bases[base]
    return {
        run: Node(
            number=numbers[run],
            info=manifests[run],
            base=bases[run],
            kept=run in kept_runs,
            below_forgotten=run in hiding,
            views=tuple(views.get(run, ())),
        )
        for run in sorted(bases)
    }
