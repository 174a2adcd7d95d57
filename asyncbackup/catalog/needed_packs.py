"""How much of each pack a prune has to keep, and where what was packed anew lies. Tables of ``needed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

import msgspec

from asyncbackup.model import Entry, Pack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from asyncbackup.catalog.scratch import Scratch

Place: TypeAlias = tuple[str, str, int, int]
"""Run, key, offset and skip of an extent: what tells a content of a pack from all others."""
NewPlace: TypeAlias = tuple[str, str, int, int, int, int]
"""Run, key, offset, length, skip of the new extent, and whether it is sealed."""

FRAME_BYTES = 512 * 1024
"""About what a frame expands to; its members share its stored size by that."""
HEADER_BYTES = 2048
"""About what stands before a member's content in a pack."""

# A pack's last frame may expand to any little; it counts as needed. Sealing adds a byte in a thousand.
_AT_END = "(offset + length) * 1025 / 1024 + 128 >= packs.size"
_CANDIDATES = f"""
SELECT run, key, packs.size, encrypted, compression, sum(
    CASE
        WHEN compression = '' THEN content
        WHEN {_AT_END} THEN length
        ELSE min(length, length * content / {FRAME_BYTES})
    END
) AS needed
FROM packs JOIN (
    SELECT run, key, offset, max(length) AS length, sum(size + {HEADER_BYTES}) AS content
    FROM parts GROUP BY run, key, offset
) USING (run, key)
GROUP BY run, key HAVING needed * 10000 < packs.size * ? ORDER BY run, key
"""  # noqa: S608 - constants only

_decoder = msgspec.msgpack.Decoder(Entry)
_encoder = msgspec.msgpack.Encoder()


class NeededPacks:
    """The part of :class:`~asyncbackup.catalog.needed.NeededObjects` that knows of packs."""

    __slots__ = ("_scratch",)

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    async def need(self, entries: Iterable[Entry]) -> None:
        """Note the contents of entries that lie in packs."""
        rows = [
            (extent.run, extent.key, extent.offset, extent.skip, extent.length, entry.size)
            for entry in entries
            if (extent := entry.extent) is not None and extent.in_pack
        ]
        if rows:
            await self._scratch.execute_many("INSERT OR IGNORE INTO parts VALUES (?, ?, ?, ?, ?, ?)", rows)

    async def describe(self, node: int, packs: Sequence[Pack]) -> None:
        """Note packs that the manifest with that number names."""
        await self._scratch.execute_many(
            "INSERT OR IGNORE INTO packs VALUES (?, ?, ?, ?, ?)",
            [(p.run, p.key, p.size, int(p.encrypted), p.compression) for p in packs],
        )
        await self._scratch.execute_many(
            "INSERT OR IGNORE INTO named VALUES (?, ?, ?)", [(node, p.run, p.key) for p in packs]
        )

    async def mostly_unneeded(self, *, percent: float) -> list[tuple[Pack, int]]:
        """Packs of which less than ``percent`` is needed, but something; each with about how many bytes."""
        rows = await self._scratch.all(_CANDIDATES, (round(percent * 100),))
        return [
            (Pack(run, key, size, "", bool(encrypted), compression), needed)
            for run, key, size, encrypted, compression, needed in cast(
                "list[tuple[str, str, int, int, str, int]]", rows
            )
        ]

    async def note_members(self, entries: Iterable[Entry], packs: frozenset[tuple[str, str]]) -> None:
        """Keep entries whose contents lie in ``packs``. Of several for one name the first counts."""
        rows = [
            (extent.run, extent.key, extent.offset, extent.skip, entry.path, _encoder.encode(entry))
            for entry in entries
            if (extent := entry.extent) is not None and (extent.run, extent.key) in packs
        ]
        if rows:
            await self._scratch.execute_many("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?, ?, ?)", rows)

    async def members(self, pack: Pack) -> AsyncIterator[list[Entry]]:
        """The needed entries of one pack in the order of their contents, in pages."""
        sql = (
            "SELECT entry FROM members JOIN parts USING (run, key, offset, skip) "
            "WHERE run = ? AND key = ? ORDER BY offset, skip, path"
        )
        async for rows in self._scratch.pages(sql, (pack.run, pack.key)):
            yield [_decoder.decode(cast("bytes", row[0])) for row in rows]

    async def note_moved(self, moves: Iterable[tuple[Place, NewPlace]]) -> None:
        """Note where contents lie now."""
        await self._scratch.execute_many(
            "INSERT OR REPLACE INTO moved VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*old, *new) for old, new in moves],
        )

    async def moved(self, places: Sequence[Place]) -> dict[int, NewPlace]:
        """Where those of ``places`` lie now that were moved, by their position."""
        await self._scratch.execute("DELETE FROM staged")
        await self._scratch.execute_many(
            "INSERT INTO staged VALUES (?, ?, ?, ?, ?)",
            [(position, *place) for position, place in enumerate(places)],
        )
        rows = await self._scratch.all(
            "SELECT number, new_run, new_key, new_offset, new_length, new_skip, new_encrypted "
            "FROM staged CROSS JOIN moved USING (run, key, offset, skip)"
        )
        return {
            number: place
            for number, *rest in cast("list[tuple[int, str, str, int, int, int, int]]", rows)
            for place in [cast("NewPlace", tuple(rest))]
        }

    async def naming(self, packs: frozenset[tuple[str, str]]) -> set[int]:
        """The numbers of the manifests that name one of ``packs``."""
        found: set[int] = set()
        for run, key in packs:
            rows = await self._scratch.all("SELECT node FROM named WHERE run = ? AND key = ?", (run, key))
            found.update(cast("int", row[0]) for row in rows)
        return found
