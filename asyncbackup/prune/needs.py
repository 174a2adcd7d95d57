"""What kept snapshots and the next run need, and which of the objects at the destination are none of that."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from asyncbackup.catalog.needed import ListedObject, NeededObjects
from asyncbackup.catalog.pruning import catalog_entries
from asyncbackup.format.escape import escape_path
from asyncbackup.format.hidden import HIDDEN, HiddenNames
from asyncbackup.format.keys import (
    FILES,
    LONG,
    LONG_PATH_SUFFIX,
    data_prefix,
    long_key,
    plain_key,
)
from asyncbackup.format.runid import is_run_id
from asyncbackup.model import PACKS, Entry, Kind, Pack
from asyncbackup.prune.forest import Node, read_forest
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.text import is_utf8

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Set

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.format.manifest import TreeItem
    from asyncbackup.model import RunId
    from asyncbackup.prune.summary import PruneCounters
    from asyncbackup.repository.open import Repository
    from asyncbackup.repository.snapshots import SnapshotInfo

_OURS = (FILES, LONG, PACKS, HIDDEN)
"""What a writer makes below a run's folder; everything else there is somebody else's."""


class Needs:
    """Fills ``needed``. ``go_on`` is called often and raises to stop."""

    def __init__(
        self,
        repository: Repository,
        needed: NeededObjects,
        counters: PruneCounters,
        go_on: Callable[[], None],
    ) -> None:
        self._repository = repository
        self._needed = needed
        self._counters = counters
        self._go_on = go_on
        self._hidden = None if repository.key is None else HiddenNames(repository.key)
        self._hidden_runs: set[str] = set()
        """Runs whose stand-ins with hidden names are noted."""

    async def of_snapshots(
        self, manifests: Mapping[RunId, SnapshotInfo], kept: Set[RunId]
    ) -> dict[RunId, Node]:
        """Note the objects of the ``kept`` ones of ``manifests``; the manifests that they need.

        No snapshot is put together for it: the lines of a kept manifest are
        all needed, and of a forgotten one on which kept ones rest those that
        no manifest above hides. Each is read once, a forgotten difference twice.
        """
        forest = await read_forest(self._repository, manifests, kept)
        self._counters.manifests_total = len(forest)
        for node in forest.values():
            if node.kept or node.below_forgotten:
                await self._read_above(node)
        for node in forest.values():
            if not node.kept:
                await self._read_forgotten(node)
        return forest

    async def of_catalog(self, catalog: Catalog) -> None:
        """Note the objects that the next run of this machine may refer to or complete."""
        async for entries in catalog_entries(catalog):
            self._go_on()
            await self._need(entries)
        await self._needed.need([(upload.run, upload.key) for upload in await catalog.uploads.all()])

    async def sort_out_objects(self) -> None:
        """List everything that runs uploaded; what is not needed is doomed."""
        prefix = data_prefix(self._repository.section)
        async for page in self._repository.store.list(prefix):
            self._go_on()
            found: list[ListedObject] = []
            for info in page:
                run, _, key = info.key.removeprefix(prefix).partition("/")
                if is_run_id(run) and key.startswith(_OURS) and is_utf8(key):
                    base = key
                    if key.startswith(LONG):
                        base = key.removesuffix(LONG_PATH_SUFFIX)
                    found.append(ListedObject(run, key, base, info.size))
            await self._note_hidden({each.run for each in found if each.key.startswith(HIDDEN)})
            await self._needed.sort_out(found)
            self._counters.objects_listed += len(page)

    async def _note_hidden(self, runs: set[str]) -> None:
        """Note how stand-ins of ``runs`` are called that are still needed."""
        if self._hidden is None:
            return
        for run in sorted(runs - self._hidden_runs):
            self._hidden_runs.add(run)
            async for paths in self._needed.linked():
                self._go_on()
                await self._needed.need_hidden(
                    run,
                    [self._hidden.key_of(path, section=self._repository.section, run=run) for path in paths],
                )

    async def _read_above(self, node: Node) -> None:
        """The lines of a manifest that is kept, or that hides lines of a forgotten one, or both."""
        async with self._opened(node) as stream, aclosing(stream.items()) as batches:
            async for batch in batches:
                self._go_on()
                if node.kept:
                    await self._need(_entries(batch))
                if node.below_forgotten:
                    await self._needed.note_lines(node.number, (item.path for item in batch))
        self._counters.manifests_read += node.kept

    def _opened(self, node: Node) -> ManifestStream:
        async def described(packs: list[Pack]) -> None:
            await self._needed.packs.describe(node.number, packs)

        info = node.info
        return ManifestStream(self._repository, info.id, revision=info.revision, on_packs=described)

    async def _read_forgotten(self, node: Node) -> None:
        async with self._opened(node) as stream, aclosing(stream.items()) as batches:
            seen: dict[frozenset[int], bool] = {}
            async for batch in batches:
                self._go_on()
                entries = _entries(batch)
                others = await self._needed.nodes_of([entry.path for entry in entries])
                visible: list[Entry] = []
                for entry in entries:
                    nodes = others.get(entry.path)
                    if nodes is None:
                        visible.append(entry)
                        continue
                    if (shown := seen.get(nodes)) is None:
                        shown = seen[nodes] = node.sees(nodes)
                    if shown:
                        visible.append(entry)
                await self._need(visible)
        self._counters.manifests_read += 1

    async def _need(self, entries: Sequence[Entry]) -> None:
        await self._needed.need(
            (entry.extent.run, entry.extent.key) for entry in entries if entry.extent is not None
        )
        await self._needed.packs.need(entries)
        linked = [
            (entry.path, entry.extent.key)
            for entry in entries
            if entry.hardlink and entry.extent is not None and entry.kind is Kind.FILE
        ]
        await self._needed.need_beside(key for path, content in linked for key in _stand_ins(path, content))
        await self._needed.need_linked(path for path, content in linked if content.startswith(HIDDEN))


def _entries(batch: Sequence[TreeItem]) -> list[Entry]:
    return [item for item in batch if isinstance(item, Entry)]


def _stand_ins(path: bytes, content: str) -> tuple[str, ...]:
    """The keys of which one may be that of a linked name's stand-in, none where the name has the content."""
    plain, long = plain_key(escape_path(path), Kind.FILE), long_key(path)
    if content in {plain, long} or content.startswith(PACKS):
        return ()
    return plain, long
