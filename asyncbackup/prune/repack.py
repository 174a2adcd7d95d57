"""Writing packs anew of which little is needed (docs/format.md, "Forgetting and pruning")."""

from __future__ import annotations

import logging
from contextlib import aclosing
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.pruning import catalog_entries
from asyncbackup.errors import FormatError
from asyncbackup.format.envelope import Opener, Sealer
from asyncbackup.format.escape import escape_path
from asyncbackup.format.expand import MAX_FRAME_BYTES, Expander
from asyncbackup.format.keys import extent_key, pack_key, run_prefix
from asyncbackup.format.pack_builder import BuiltPack, PackBuilder, likeness
from asyncbackup.format.pack_reader import PackMember, PackReader
from asyncbackup.model import ZSTD, Entry, Extent, Kind, Pack
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.repository.manifest_upload import ManifestUpload
from asyncbackup.store.checksums import single_checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.catalog.needed import NeededObjects
    from asyncbackup.catalog.needed_packs import NewPlace, Place
    from asyncbackup.format.manifest import TreeItem
    from asyncbackup.model import RunId
    from asyncbackup.prune.forest import Node
    from asyncbackup.repository.open import Repository
    from asyncbackup.repository.snapshots import SnapshotInfo

log = logging.getLogger(__name__)

MAX_PACK_BYTES = 64 * 1024 * 1024
"""Larger packs, which this writer does not make, stay as they are: a pack is rewritten in memory."""
WORTH = 0.9
"""A pack that would not become smaller than this part of the old one stays as it is."""
DEFAULT_LEVEL = 3


class Repacked(msgspec.Struct, frozen=True):
    """One pack and the one that replaces it."""

    old: Pack
    new: Pack


class Repacking:
    """One prune's packs. ``go_on`` is called often and raises to stop."""

    def __init__(
        self,
        repository: Repository,
        needed: NeededObjects,
        prune: RunId,
        *,
        zstd_level: int,
        go_on: Callable[[], None],
    ) -> None:
        self._repository = repository
        self._needed = needed
        self._prune = prune
        self._level = zstd_level or DEFAULT_LEVEL
        self._go_on = go_on
        self._built = 0

    async def write_packs(
        self, packs: Sequence[Pack], nodes: Iterable[Node], catalog: Catalog | None
    ) -> list[Repacked]:
        """Write those of ``packs`` anew that are sound and become smaller. Nothing refers to the new ones."""
        places = frozenset(map(_place, packs))
        if catalog is not None:
            async for entries in catalog_entries(catalog):
                self._go_on()
                await self._needed.packs.note_members(entries, places)
        # The newest first: a member's header says what its entry was at last.
        for node in sorted(nodes, key=lambda node: -node.number):
            async with (
                ManifestStream(self._repository, node.info.id, revision=node.info.revision) as stream,
                aclosing(stream.items()) as batches,
            ):
                async for batch in batches:
                    self._go_on()
                    entries = [item for item in batch if isinstance(item, Entry)]
                    await self._needed.packs.note_members(entries, places)
        done: list[Repacked] = []
        for pack in packs:
            self._go_on()
            try:
                new = await self._write(pack)
            except FormatError as error:
                log.warning("a pack is not written anew: %s; 'asyncbackup verify' says what it costs", error)
                continue
            if new is not None:
                done.append(Repacked(pack, new))
        return done

    async def revise(self, node: Node, repacked: Mapping[tuple[str, str], Pack]) -> SnapshotInfo:
        """Write a revision of one manifest whose lines say where contents lie now."""
        info = node.info
        packs: list[Pack] = []

        async def described(some: list[Pack]) -> None:
            packs.extend(some)

        staying: set[tuple[str, str]] = set()
        used: set[tuple[str, str]] = set()
        async with (
            ManifestStream(self._repository, info.id, revision=info.revision, on_packs=described) as stream,
            aclosing(stream.items()) as batches,
        ):
            header = msgspec.structs.replace(stream.header, revision=info.revision + 1)
            async with ManifestUpload(self._repository, header) as upload:
                async for batch in batches:
                    self._go_on()
                    await upload.add(await self._moved(batch, repacked, staying, used))
                # Lines of a forgotten one that no snapshot shows any more stay with the old pack.
                lines = [pack for pack in packs if _place(pack) not in repacked or _place(pack) in staying]
                lines += [repacked[place] for place in used]
                unique = {_place(pack): pack for pack in lines}
                await upload.add_packs([unique[place] for place in sorted(unique)])
                assert stream.trailer is not None, "all items were taken"
                receipt = await upload.commit(stream.trailer)
        return msgspec.structs.replace(info, key=upload.key, size=receipt.size, revision=info.revision + 1)

    async def _moved(
        self,
        batch: Sequence[TreeItem],
        repacked: Mapping[tuple[str, str], Pack],
        staying: set[tuple[str, str]],
        used: set[tuple[str, str]],
    ) -> list[TreeItem]:
        items = list(batch)
        places: list[Place] = []
        positions: list[int] = []
        for position, item in enumerate(items):
            extent = item.extent if isinstance(item, Entry) else None
            if extent is not None and (extent.run, extent.key) in repacked:
                places.append((extent.run, extent.key, extent.offset, extent.skip))
                positions.append(position)
        if not places:
            return items
        found = await self._needed.packs.moved(places)
        for number, position in enumerate(positions):
            place = places[number][:2]
            new = found.get(number)
            if new is None:
                staying.add(place)
                continue
            used.add(place)
            item = items[position]
            assert isinstance(item, Entry)
            assert item.extent is not None
            items[position] = msgspec.structs.replace(item, extent=_extent(new, item.extent))
        return items

    async def _write(self, pack: Pack) -> Pack | None:
        if pack.size > MAX_PACK_BYTES:
            return None
        in_thread = self._repository.threads.run
        key = extent_key(self._repository.section, Extent(pack.run, pack.key, 0))
        stored = await self._repository.store.get(key, limit=pack.size)
        opened = await in_thread(self._open, key, stored, pack)
        builder = PackBuilder(zstd_level=self._level if pack.compression else 0)
        adding = await in_thread(_Adding, builder, opened, pack, key)
        async for entries in self._needed.packs.members(pack):
            await in_thread(adding.add, entries)
        built = await in_thread(builder.finish)
        if built.size > WORTH * len(opened):
            return None
        self._built += 1
        new_key = pack_key(self._built, compressed=bool(pack.compression))
        encrypted = self._repository.seals
        body_key = run_prefix(self._repository.section, self._prune) + new_key
        body, digest = await in_thread(self._seal, body_key, built)
        await self._repository.store.put(body_key, body, sha256=digest)
        await self._needed.packs.note_moved(
            (
                (pack.run, pack.key, *place),
                (self._prune, new_key, at.offset, at.length, at.skip, int(encrypted)),
            )
            for place, at in zip(adding.places, adding.placements(built), strict=True)
        )
        return Pack(
            run=self._prune,
            key=new_key,
            size=sum(len(piece) for piece in body),
            checksum=single_checksum(digest),
            encrypted=encrypted,
            compression=pack.compression,
        )

    def _open(self, key: str, stored: bytes, pack: Pack) -> bytes:
        if not pack.encrypted:
            return stored
        repository = self._repository
        if repository.key is None:
            raise FormatError(f"{key} is encrypted, and the section names no secret")
        opener = Opener(
            repository.key,
            repository=repository.repository_id,
            section=repository.section,
            object_key=key,
        )
        return opener.feed(stored) + opener.finish()

    def _seal(self, key: str, built: BuiltPack) -> tuple[list[bytes | bytearray | memoryview], bytes]:
        repository = self._repository
        if not repository.seals:
            return list(built.body), built.sha256
        assert repository.key is not None, "a section that seals has a key"
        sealer = Sealer(
            repository.key,
            repository=repository.repository_id,
            section=repository.section,
            object_key=key,
            size=built.size,
        )
        sealed = bytearray(sealer.start())
        for piece in built.body:
            sealed += sealer.update(piece)
        sealed += sealer.finalize()
        return [sealed], sha256(sealed).digest()


class _Adding:
    """Puts the needed members of an opened pack into a new one, and all its references: which of them
    are needed nobody knows. ``places`` are contents' offset and skip."""

    def __init__(self, builder: PackBuilder, opened: bytes, pack: Pack, key: str) -> None:
        self._builder = builder
        self._opened = opened
        self._pack = pack
        self._key = key
        self._frame: tuple[int, bytes] = (-1, b"")
        self._first: Entry | None = None
        self._runs: dict[tuple[int, int, bytes], str] = {}
        """Which run saved each member: not the pack's own, if that was written by a prune as well."""
        reader = PackReader(pack)
        for batch in reader.batches(opened):
            for item in batch:
                if not isinstance(item, PackMember) or item.entry.extent is None:
                    continue
                if item.reference:
                    builder.add_reference(item.entry)
                else:
                    extent = item.entry.extent
                    self._runs[extent.offset, extent.skip, item.entry.path] = item.run
        self._indexes: list[int] = []
        self.places: list[tuple[int, int]] = []

    def add(self, entries: Sequence[Entry]) -> None:
        """Append entries in the order of their contents. Raises ``FormatError`` for a damaged content."""
        for entry in entries:
            extent = entry.extent
            assert extent is not None, "it lies in the pack"
            place = (extent.offset, extent.skip)
            first = self._first
            if self.places and self.places[-1] == place and first is not None:
                if entry.kind is Kind.FILE and first.size == entry.size:
                    self._add_again(entry, first, extent)
                continue
            content = self._content(entry, extent) if entry.kind is Kind.FILE else b""
            self._indexes.append(self._builder.add(entry, content, run=self._run(entry, extent)))
            self.places.append(place)
            self._first = entry

    def _add_again(self, entry: Entry, first: Entry, extent: Extent) -> None:
        """Append a further entry of a content that the new pack has."""
        run = self._run(entry, extent)
        if entry.hardlink and entry.hardlink == first.hardlink:
            self._builder.add(entry, link_to=first.path, run=run)
        elif likeness(entry) == likeness(first):
            self._builder.add(entry, link_to=first.path, copy=True, run=run)
        else:
            # Whoever extracts a link gives one file the owner and mode of the other.
            self._builder.add(entry, self._content(entry, extent), run=run)

    def _run(self, entry: Entry, extent: Extent) -> str:
        return self._runs.get((extent.offset, extent.skip, entry.path), self._pack.run)

    def placements(self, built: BuiltPack) -> list[Extent]:
        """Where each of ``places`` lies in the finished pack."""
        found = [built.placements[index] for index in self._indexes]
        return [Extent("", "", at.length, offset=at.offset, skip=at.skip) for at in found]

    def _content(self, entry: Entry, extent: Extent) -> bytes:
        if self._pack.compression == ZSTD:
            if self._frame[0] != extent.offset:
                frame = memoryview(self._opened)[extent.offset : extent.offset + extent.length]
                self._frame = (extent.offset, _expanded(frame, self._key))
            content = self._frame[1][extent.skip : extent.skip + entry.size]
        else:
            content = self._opened[extent.offset : extent.offset + extent.length]
        whole = len(content) == entry.size
        if not whole or (entry.sha256 and sha256(content).digest() != entry.sha256):
            raise FormatError(f"{self._key}: the content of {escape_path(entry.path)!r} in it is damaged")
        return content


def _place(pack: Pack) -> tuple[str, str]:
    return pack.run, pack.key


def _expanded(frame: memoryview, key: str) -> bytes:
    pieces: list[bytes] = []
    left = MAX_FRAME_BYTES
    for piece in Expander(name=key).feed(frame):
        left -= len(piece)
        if left < 0:
            raise FormatError(f"{key}: a frame of it expands to over {MAX_FRAME_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _extent(new: NewPlace, old: Extent) -> Extent:
    run, key, offset, length, skip, encrypted = new
    return msgspec.structs.replace(
        old, run=run, key=key, offset=offset, length=length, skip=skip, encrypted=bool(encrypted)
    )
