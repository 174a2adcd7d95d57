"""Existence and size of every expected object from one listing, and a HEAD for what it did not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.expected import State, Verdict
from asyncbackup.format.keys import data_prefix
from asyncbackup.repository.parallel import in_parallel
from asyncbackup.verify.checks import look_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncbackup.catalog.expected import ExpectedObject, ExpectedObjects
    from asyncbackup.repository.open import Repository

PROBE_FOLDERS = 16
"""If not one folder is listed, and none of the first so many is there, the endpoint keeps none."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """``unexpected`` is how many objects were listed that nobody expects, ``folders_not_kept`` how many
    folders have no object because the endpoint keeps none for any."""

    unexpected: int
    folders_not_kept: int


async def compare_with_listing(
    repository: Repository, expected: ExpectedObjects, *, concurrency: int, go_on: Callable[[], None]
) -> Listing:
    """Settle what a listing of the section's data settles: missing objects, wrong sizes, empty objects.

    Listings of some endpoints leave keys out, so only a HEAD makes an object
    missing. ``go_on`` is called between pages and may raise.
    """
    prefix = data_prefix(repository.section)
    listed = wanted = 0
    async for page in repository.store.list(prefix):
        go_on()
        listed += len(page)
        wanted += await expected.listed([(info.key.removeprefix(prefix), info.size) for info in page])
    async for objects in expected.unlisted(folders=False):
        go_on()
        await _look_for(repository, expected, objects, concurrency)
    spared = await _look_for_folders(repository, expected, concurrency, go_on)
    await expected.judge_listing()
    return Listing(unexpected=max(0, listed - wanted), folders_not_kept=spared)


async def _look_for_folders(
    repository: Repository, expected: ExpectedObjects, concurrency: int, go_on: Callable[[], None]
) -> int:
    """Look for folders that were not listed; how many are spared because no folder has an object.

    An object that a folder lacks costs nothing that the manifest does not
    hold, so an endpoint that keeps none is no damage.
    """
    async for objects in expected.unlisted(folders=True):
        go_on()
        if not await expected.count_listed_folders():
            some, objects = objects[:PROBE_FOLDERS], objects[PROBE_FOLDERS:]
            looks = await in_parallel(some, lambda each: look_at(repository, each), limit=concurrency)
            found = [(each.key, look.size) for each, look in zip(some, looks, strict=True) if look.size >= 0]
            if not found:
                return await expected.spare_folders()
            await expected.listed(found)
            objects = [each for each, look in zip(some, looks, strict=True) if look.size < 0] + objects
        await _look_for(repository, expected, objects, concurrency)
    return 0


async def _look_for(
    repository: Repository,
    expected: ExpectedObjects,
    objects: Sequence[ExpectedObject],
    concurrency: int,
) -> None:
    looks = await in_parallel(objects, lambda each: look_at(repository, each), limit=concurrency)
    pairs = list(zip(objects, looks, strict=True))
    await expected.listed([(each.key, look.size) for each, look in pairs if look.size >= 0])
    await expected.settle(
        [
            Verdict(key=each.key, state=State.DAMAGED, reason=look.damage)
            for each, look in pairs
            if look.size < 0
        ]
    )
