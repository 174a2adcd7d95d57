"""Where the contents lie that earlier snapshots hold, for runs that would store them again."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from asyncbackup.errors import FormatError, ObjectMissingError
from asyncbackup.model import Entry
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.repository.manifests import read_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from asyncbackup.catalog.replace import Replacement
    from asyncbackup.errors import AsyncBackupError
    from asyncbackup.model import Pack, RunId
    from asyncbackup.repository.open import Repository


async def add_earlier_contents(
    repository: Repository,
    new: Replacement,
    snapshots: Sequence[RunId],
    *,
    go_on: Callable[[], None],
    on_unreadable: Callable[[RunId, AsyncBackupError], None],
) -> None:
    """Add the contents and packs of ``snapshots``, the oldest first, none of which is forgotten.

    Of one that cannot be read nothing is taken, and ``on_unreadable`` is told.
    ``go_on`` is called between batches.
    """
    kept = frozenset(snapshots)
    for run in reversed(snapshots):
        try:
            async with (
                new.taken_back_on(FormatError, ObjectMissingError),
                aclosing(_entries(repository, run, kept, new.add_packs)) as batches,
            ):
                async for batch in batches:
                    go_on()
                    await new.add_contents(batch)
        except (FormatError, ObjectMissingError) as error:
            on_unreadable(run, error)


async def _entries(
    repository: Repository,
    run: RunId,
    kept: frozenset[RunId],
    on_packs: Callable[[list[Pack]], Awaitable[None]],
) -> AsyncGenerator[list[Entry], None]:
    """The entries of a snapshot, without those that one of the ``kept`` snapshots below it gives.

    So every manifest is read once. Only where the base is forgotten the whole
    is put together: a prune may have deleted what that alone had.
    """
    async with ManifestStream(repository, run, on_packs=on_packs) as stream:
        base = stream.header.base
        if base is None or base in kept:
            async with aclosing(stream.items()) as batches:
                async for items in batches:
                    yield [item for item in items if isinstance(item, Entry)]
            return
    async with aclosing(read_manifest(repository, run, on_packs=on_packs)) as entries:
        async for batch in entries:
            yield batch
