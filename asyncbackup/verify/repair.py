"""Repairing: what was found damaged and is still in the tree is saved again by a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.repair import mark_damaged, saved_again
from asyncbackup.format.keys import data_prefix
from asyncbackup.verify.summary import DAMAGES_IN_SUMMARY, PATHS_IN_DAMAGE, Damage, VerifySummary

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.catalog.expected import ExpectedObjects


async def mark(catalog: Catalog, expected: ExpectedObjects, summary: VerifySummary) -> tuple[int, bool]:
    """Mark what a run has to save again; how many files that are, and whether a run has anything to do."""
    marked = await mark_damaged(catalog, expected.damage.keys(), broken=summary.broken_snapshots)
    return marked.files, bool(marked.files or marked.others or summary.broken_snapshots)


async def find_lost(
    catalog: Catalog,
    expected: ExpectedObjects,
    summary: VerifySummary,
    *,
    on_lost: Callable[[Damage], None],
) -> VerifySummary:
    """The summary with what is lost for good: damaged contents that the tree, as it was last saved, does
    not hold under their path."""
    table = expected.damage
    async for page in table.unsaved():
        await table.note_saved(await saved_again(catalog, page))
    lost: list[Damage] = []
    prefix = data_prefix(summary.section)
    async for objects in table.objects(paths_each=PATHS_IN_DAMAGE, only_lost=True):
        for found in objects:
            damage = Damage(
                key=prefix + found.key,
                reason="what it held is not in the tree any more as it was",
                files=found.files,
                paths=found.paths,
                snapshots=found.snapshots,
            )
            on_lost(damage)
            if len(lost) < DAMAGES_IN_SUMMARY:
                lost.append(damage)
    return msgspec.structs.replace(summary, files_lost=await table.count_lost(), lost=tuple(lost))
