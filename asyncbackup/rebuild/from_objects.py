"""A tree from its objects alone: the newest version of every path, as its metadata tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.found import FoundObject, FoundObjects, StandIn
from asyncbackup.errors import FormatError, ObjectMissingError
from asyncbackup.format.keys import data_prefix
from asyncbackup.format.runid import run_time_ns
from asyncbackup.model import Entry, Kind
from asyncbackup.rebuild.description import Described, describe, labelled
from asyncbackup.rebuild.links import resolve_stand_ins
from asyncbackup.rebuild.listing import collect_objects
from asyncbackup.rebuild.packs import read_packs
from asyncbackup.rebuild.summary import RebuildCounters, Unrecovered
from asyncbackup.repository.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.repository.open import Repository

FOLDER_MODE = 0o040700
"""Of a folder that nothing is known of: the permissions that give least away."""


async def recover_tree(
    repository: Repository,
    found: FoundObjects,
    *,
    concurrency: int,
    counters: RebuildCounters,
    go_on: Callable[[], None],
    on_unrecovered: Callable[[Unrecovered], None],
) -> None:
    """Fill ``found`` with the entries of the section, as far as objects and metadata tell them.

    One listing, a HEAD for the newest version of every path that has an object,
    and every pack is read. What was deleted
    from the tree since is there again, for no object says so; what was only
    renamed or had its mode changed is as it was uploaded.

    Raises ``StoreError``, ``KeyUnlockError``, and what ``go_on`` raises.
    """
    await _Recovery(repository, found, concurrency, counters, go_on, on_unrecovered).run()


class _Recovery:
    def __init__(
        self,
        repository: Repository,
        found: FoundObjects,
        concurrency: int,
        counters: RebuildCounters,
        go_on: Callable[[], None],
        on_unrecovered: Callable[[Unrecovered], None],
    ) -> None:
        self._repository = repository
        self._found = found
        self._concurrency = concurrency
        self._counters = counters
        self._go_on = go_on
        self._on_unrecovered = on_unrecovered
        self._prefix = data_prefix(repository.section)

    async def run(self) -> None:
        await collect_objects(
            self._repository,
            self._found,
            concurrency=self._concurrency,
            counters=self._counters,
            go_on=self._go_on,
            give_up=lambda key, reason, path: self._tell(key, reason, path),
        )
        await self._read_packs()
        await self._found.choose()
        await self._take_members()
        async for page in self._found.chosen():
            self._go_on()
            answers = await in_parallel(page, self._ask, limit=self._concurrency)
            described = [(o, answer) for o, answer in zip(page, answers, strict=True) if answer is not None]
            await self._found.put(answer.entry for _, answer in described if not answer.first)
            await self._found.put_stand_ins(
                [
                    StandIn(entry=answer.entry, run=found.run, first=answer.first)
                    for found, answer in described
                    if answer.first
                ]
            )
        await resolve_stand_ins(
            self._repository,
            self._found,
            concurrency=self._concurrency,
            go_on=self._go_on,
            give_up=self._give_up_stand_in,
        )
        await self._found.settle_links()

    async def _read_packs(self) -> None:
        await read_packs(
            self._repository,
            self._found.members,
            concurrency=self._concurrency,
            counters=self._counters,
            go_on=self._go_on,
            give_up=lambda key, loss, lost: self._tell(key, loss.reason, loss.name, lost=lost),
        )
        await self._found.members.settle()

    async def _take_members(self) -> None:
        """Take what is chosen of the packs, and name what leads nowhere."""
        members = self._found.members
        await members.take_chosen()
        async for page in members.dangling():
            for member in page:
                extent = member.entry.extent
                reason = f"the content of its first name {member.first!r} is gone"
                if member.reference and extent is not None:
                    reason = f"its content in {extent.run}/{extent.key} is gone"
                self._tell(self._prefix + member.source, reason, member.entry.path)

    async def _ask(self, found: FoundObject) -> Described | None:
        if not found.key:
            return Described(entry=_plain_folder(found))
        self._counters.objects_asked += 1
        key = f"{self._prefix}{found.run}/{found.key}"
        try:
            described = await describe(self._repository, found.run, found.key)
        except (FormatError, ObjectMissingError) as error:
            reason = str(error).removeprefix(f"{found.key!r}: ")
            self._tell(key, reason, found.path, lost=not found.is_folder)
            return Described(entry=_plain_folder(found)) if found.is_folder else None
        entry = described.entry
        if described.guessed:
            reason = "the endpoint lost its metadata; mode, times and owner are guesses"
            self._tell(key, reason, found.path, lost=False)
            # Nothing is known of its time; that of its upload is nearest.
            entry = msgspec.structs.replace(entry, mtime_ns=found.modified_ns or run_time_ns(found.run))
        elif described.omitted:
            reason = f"its metadata had no room for: {', '.join(described.omitted)}"
            self._tell(key, reason, found.path, lost=False)
        return msgspec.structs.replace(described, entry=labelled(entry))

    def _give_up_stand_in(self, stand_in: StandIn, reason: str) -> None:
        self._tell(f"{self._prefix}{stand_in.run}/", reason, stand_in.entry.path)

    def _tell(self, key: str, reason: str, path: bytes | None, *, lost: bool = True) -> None:
        self._counters.unrecovered_objects += 1
        self._on_unrecovered(Unrecovered(key=key, reason=reason, path=path, lost=lost))


def _plain_folder(found: FoundObject) -> Entry:
    return Entry(
        path=found.path,
        kind=Kind.FOLDER,
        mode=FOLDER_MODE,
        mtime_ns=run_time_ns(found.run) if found.run else 0,
    )
