"""Prunes of a workbench's section that stop where a test says, and what lies at its folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.errors import Interrupted
from asyncbackup.flow.stop import StopRequest
from asyncbackup.format.keys import data_prefix, forgotten_key
from asyncbackup.prune.hold import hold_section
from asyncbackup.prune.section import prune_repository
from asyncbackup.repository.marks import MIN_AGE_NS
from asyncbackup.repository.open import open_repository
from tests.workbench import Workbench

if TYPE_CHECKING:
    from asyncbackup.prune.summary import PruneSummary
    from asyncbackup.store.base import Body, ObjectPage, PutResult, Store

Act = Callable[[], Awaitable[None]]


class Killed(BaseException):
    """What ends a prune where a kill would."""


class ObservedStore:
    """A store that stops for good at its ``kill_at``-th change (from 1): before it is made, or ``after``.

    ``changes`` has every change that was begun. ``at_listing`` is done before a listing of that prefix.
    """

    def __init__(
        self,
        store: Store,
        *,
        kill_at: int = 0,
        after: bool = False,
        at_listing: tuple[str, Act] | None = None,
    ) -> None:
        self._store = store
        self._kill_at = kill_at
        self._after = after
        self._at_listing = at_listing
        self.changes: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: bytes,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> PutResult:
        self._begin(f"put {key}")
        result = await self._store.put(key, body, sha256=sha256, metadata=metadata, if_absent=if_absent)
        self._end()
        return result

    async def delete(self, keys: Sequence[str]) -> None:
        # One at a time: a kill in the midst of a batch leaves any part of it.
        for key in keys:
            self._begin(f"delete {key}")
            await self._store.delete([key])
            self._end()

    async def list(self, prefix: str) -> AsyncIterator[ObjectPage]:
        if self._at_listing is not None and self._at_listing[0] == prefix:
            await self._at_listing[1]()
        async for page in self._store.list(prefix):
            yield page

    def _begin(self, change: str) -> None:
        dead = 0 < self._kill_at < len(self.changes) + 1
        if dead or (len(self.changes) + 1 == self._kill_at and not self._after):
            self._kill_at = self._kill_at if dead else len(self.changes)
            raise Killed
        self.changes.append(change)

    def _end(self) -> None:
        if self._after and len(self.changes) == self._kill_at:
            raise Killed


async def prune(
    bench: Workbench,
    *,
    min_age_ns: int = MIN_AGE_NS,
    kill_at: int = 0,
    after: bool = False,
    stop: StopRequest | None = None,
    at_listing_of_data: Act | None = None,
    changes: list[str] | None = None,
) -> PruneSummary:
    """One prune of the section, with its database if there is one. ``changes`` is given what it changed."""
    section, settings = bench.section, bench.settings
    async with AsyncExitStack() as stack:
        catalog = hold = None
        path = settings.database_path(section.name)
        if not path.exists():
            hold = stack.enter_context(hold_section(path.with_suffix(".prune")))
        else:
            catalog = await stack.enter_async_context(
                Catalog.open(path, section=section.name, destination=section.destination)
            )
        repository = await stack.enter_async_context(open_repository(settings, section))
        at_listing = (data_prefix(section.name), at_listing_of_data) if at_listing_of_data else None
        store = ObservedStore(repository.store, kill_at=kill_at, after=after, at_listing=at_listing)
        observed = msgspec.structs.replace(repository, store=store)
        try:
            return await prune_repository(
                observed,
                catalog,
                hold,
                scratch_folder=settings.state_dir,
                min_age_ns=min_age_ns,
                zstd_level=section.zstd_level,
                stop=stop,
            )
        finally:
            if changes is not None:
                changes += store.changes


async def forget(bench: Workbench, *snapshots: str) -> None:
    """Mark snapshots as forgotten."""
    async with open_repository(bench.settings, bench.section) as repository:
        for snapshot in snapshots:
            await repository.store.put(forgotten_key("home", snapshot), b"", sha256=sha256().digest())


async def forget_all_but(bench: Workbench, *kept: str) -> None:
    """Mark every other snapshot as forgotten."""
    await forget(bench, *(run for run in await bench.snapshots() if run not in kept))


def at(bench: Workbench, key: str) -> Path:
    """Where an object lies at the destination folder."""
    return Path(bench.section.destination.removeprefix("file://")) / key


def objects(bench: Workbench) -> set[str]:
    """Every file at the destination folder, relative to it."""
    root = at(bench, "")
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def sibling(bench: Workbench, name: str = "other") -> Workbench:
    """The same section on another machine: the same tree and destination, a state folder of its own."""
    other = object.__new__(Workbench)
    other.base, other.tree, other.section = bench.base, bench.tree, bench.section
    other.settings = msgspec.structs.replace(bench.settings, state_dir=bench.base / name)
    return other


class StopOnceThere(StopRequest):
    """A request to stop that is made once an object that matches is at the destination folder."""

    def __init__(self, root: Path, pattern: str) -> None:
        super().__init__()
        self._root = root
        self._pattern = pattern

    @property
    def requested(self) -> bool:
        return any(self._root.glob(self._pattern))


async def leave(bench: Workbench, name: str = "new") -> str:
    """A run that is interrupted once the file of that name is uploaded; its id."""
    stop = StopOnceThere(at(bench, "home/data"), f"*/files/{name}")
    with pytest.raises(Interrupted):
        await bench.run(stop=stop)
    (found,) = at(bench, "home/data").glob(f"*/files/{name}")
    return found.parent.parent.name
