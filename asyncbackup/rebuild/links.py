"""Finding the content of entries that are stored as empty stand-ins of another name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import FormatError, ObjectMissingError
from asyncbackup.rebuild.description import describe
from asyncbackup.repository.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.catalog.found import FoundObjects, StandIn
    from asyncbackup.model import Entry
    from asyncbackup.repository.open import Repository

MAX_HOPS = 64
"""A first name may itself have become a further one in an earlier run; rings are none of ours."""


async def resolve_stand_ins(
    repository: Repository,
    found: FoundObjects,
    *,
    concurrency: int,
    go_on: Callable[[], None],
    give_up: Callable[[StandIn, str], None],
) -> None:
    """Give every stand-in the extent and digest of the name it stands for, as of its own run.

    What cannot be found is dropped, after ``give_up`` was told why.
    """

    async def resolve(stand_in: StandIn) -> Entry | None:
        try:
            content = await _content_of(repository, found, stand_in)
        except (FormatError, ObjectMissingError) as error:
            give_up(stand_in, str(error))
            return None
        return msgspec.structs.replace(
            stand_in.entry, sha256=content.sha256, size=content.size, extent=content.extent
        )

    async for page in found.stand_ins():
        go_on()
        entries = await in_parallel(page, resolve, limit=concurrency)
        await found.put(entry for entry in entries if entry is not None)
        await found.drop(
            stand_in.entry.path for stand_in, entry in zip(page, entries, strict=True) if entry is None
        )


async def _content_of(repository: Repository, found: FoundObjects, stand_in: StandIn) -> Entry:
    run, first = stand_in.run, stand_in.first
    for _ in range(MAX_HOPS):
        version = await found.version(first, not_after=run)
        if version is None:
            raise FormatError(f"the object of its first name {first!r} is gone")
        known = await found.get(first)
        member = await found.members.get(first, version.run)
        if member is not None:
            if member.first or member.reference:
                raise FormatError(f"the content of its first name {first!r} is gone")
            known = member.entry
        elif (
            known is None
            or known.extent is None
            or (known.extent.run, known.extent.key)
            != (
                version.run,
                version.key,
            )
        ):
            # The name has changed or gone since: its own object tells what it was then.
            described = await describe(repository, version.run, version.key)
            if described.first:
                run, first = version.run, described.first
                continue
            known = described.entry
        if known.extent is None or known.size != stand_in.entry.size:
            raise FormatError(f"the content of its first name {first!r} has another size")
        return known
    raise FormatError("its first names stand for each other in a ring")
