"""What manifests promise, on disk: every object that a verification has to find, and what became of it.

Keys in here are relative to ``SECTION/data/`` and begin with the run. An object
is what lies under one key; a pack is an object with ``members``, the contents
that snapshots need of it.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.damage import DAMAGE_TABLES, DamageTable
from asyncbackup.catalog.scratch import Scratch
from asyncbackup.catalog.sums import SUM_TABLES, SumTable
from asyncbackup.errors import FormatError
from asyncbackup.format.envelope import unsealed_size
from asyncbackup.model import Kind
from asyncbackup.text import is_utf8

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.catalog.rows import Row
    from asyncbackup.model import Entry, Pack

_TABLES = """
CREATE TABLE staged (
    key TEXT NOT NULL,
    pack INTEGER NOT NULL,
    is_file INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    part_size INTEGER NOT NULL,
    encrypted INTEGER NOT NULL,
    compression TEXT NOT NULL,
    skip INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    size INTEGER NOT NULL
);
CREATE TABLE staged_packs (
    key TEXT NOT NULL,
    size INTEGER NOT NULL,
    capacity INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    encrypted INTEGER NOT NULL,
    compression TEXT NOT NULL
);
CREATE TABLE described (
    key TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    capacity INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    encrypted INTEGER NOT NULL,
    compression TEXT NOT NULL,
    disputed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE objects (
    key TEXT PRIMARY KEY,
    pack INTEGER NOT NULL,
    length INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    part_size INTEGER NOT NULL,
    encrypted INTEGER NOT NULL,
    compression TEXT NOT NULL,
    skip INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    size INTEGER NOT NULL,
    disputed INTEGER NOT NULL DEFAULT 0,
    listed INTEGER,
    state INTEGER NOT NULL DEFAULT 0,
    whole INTEGER NOT NULL DEFAULT 1,
    reason TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE members (
    key TEXT NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    compression TEXT NOT NULL,
    skip INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    encrypted INTEGER NOT NULL,
    bad INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (key, offset, length, compression, skip, size, sha256, encrypted)
) WITHOUT ROWID;
"""

_STAGED = (
    "key, pack, is_file, offset, length, checksum, part_size, encrypted, compression, skip, sha256, size"
)
_FIELDS = "key, pack, length, checksum, part_size, encrypted, compression, skip, sha256, size"
_PLACE = "offset, length, compression, skip, size, sha256"

_FOLDER = "substr(key, -1) = '/'"
_NO_FOLDER = "substr(key, -1) != '/'"

# An entry that was rebuilt without its checksum or digest says less of an object, not something else.
_ACCEPT_OBJECTS = f"""
INSERT INTO objects ({_FIELDS}) SELECT {_FIELDS} FROM staged WHERE NOT pack
ON CONFLICT (key) DO UPDATE SET
    disputed = disputed
        OR (length >= 0 AND excluded.length >= 0 AND length != excluded.length)
        OR encrypted != excluded.encrypted
        OR compression != excluded.compression
        OR (sha256 != x'' AND excluded.sha256 != x''
            AND (sha256 != excluded.sha256 OR skip != excluded.skip)),
    length = max(length, excluded.length),
    checksum = CASE WHEN checksum = '' THEN excluded.checksum ELSE checksum END,
    part_size = CASE WHEN part_size = 0 THEN excluded.part_size ELSE part_size END,
    skip = CASE WHEN sha256 = x'' THEN excluded.skip ELSE skip END,
    size = CASE WHEN sha256 = x'' THEN excluded.size ELSE size END,
    sha256 = CASE WHEN sha256 = x'' THEN excluded.sha256 ELSE sha256 END
WHERE length != excluded.length OR encrypted != excluded.encrypted OR compression != excluded.compression
    OR sha256 != excluded.sha256 OR skip != excluded.skip OR checksum != excluded.checksum
"""  # noqa: S608 - constants only
_ACCEPT_PACKS = f"""
INSERT OR IGNORE INTO objects ({_FIELDS})
SELECT DISTINCT key, 1, -1, '', 0, 0, '', 0, x'', 0 FROM staged WHERE pack
"""  # noqa: S608
# What is empty needs nothing of its pack; folders and symlinks are in the manifest whole.
_ACCEPT_MEMBERS = f"""
INSERT OR IGNORE INTO members (key, {_PLACE}, encrypted)
SELECT key, {_PLACE}, encrypted FROM staged WHERE pack AND is_file AND size > 0
"""  # noqa: S608
_ACCEPT_DESCRIPTIONS = """
INSERT INTO described (key, size, capacity, checksum, encrypted, compression)
SELECT key, size, capacity, checksum, encrypted, compression FROM staged_packs WHERE true
ON CONFLICT (key) DO UPDATE SET
    disputed = disputed OR size != excluded.size OR encrypted != excluded.encrypted
        OR compression != excluded.compression
        OR (checksum != '' AND excluded.checksum != '' AND checksum != excluded.checksum),
    checksum = CASE WHEN checksum = '' THEN excluded.checksum ELSE checksum END
WHERE size != excluded.size OR checksum != excluded.checksum OR encrypted != excluded.encrypted
    OR compression != excluded.compression
"""


class State(enum.IntEnum):
    """How far the look at one object has come."""

    EXPECTED = 0
    TO_READ = 1
    SOUND = 2
    DAMAGED = 3


class ExpectedObject(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One object as manifests describe it: ``length`` as stored, -1 where nothing says it.

    Of an object with one content, ``size`` bytes with the digest ``sha256``
    begin ``skip`` bytes into what it opens and expands to. Those of a ``pack``
    are its members; ``disputed`` ones are described in more than one way.
    """

    key: str
    length: int
    checksum: str
    encrypted: bool
    pack: bool = False
    part_size: int = 0
    compression: str = ""
    skip: int = 0
    sha256: bytes = b""
    size: int = 0
    disputed: bool = False


class Member(msgspec.Struct, frozen=True, gc=False):
    """One content of a pack: ``size`` bytes from ``skip`` of what ``length`` bytes from ``offset`` expand
    to. ``sha256`` is empty where no manifest has it."""

    offset: int
    length: int
    compression: str
    skip: int
    size: int
    sha256: bytes


class Verdict(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a look at one object gave. ``reason`` says what is damaged; unless ``whole``, of a pack that
    are only the members that were noted as bad."""

    key: str
    state: State
    reason: str = ""
    whole: bool = True


class ExpectedObjects:
    """The objects of some snapshots. Memory stays the same, whatever their number.

    ``damage`` is who needs what is damaged of them, ``sums`` what the snapshots add up to.
    """

    __slots__ = ("_scratch", "damage", "sums")

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self.damage = DamageTable(scratch)
        self.sums = SumTable(scratch)

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[ExpectedObjects]:
        """An empty table on the disk of ``folder``; it vanishes when the block ends."""
        async with Scratch.open(folder, _TABLES + DAMAGE_TABLES + SUM_TABLES) as scratch:
            yield cls(scratch)

    async def stage(self, entries: Iterable[Entry]) -> None:
        """Note the objects of a manifest that was not yet read to its end."""
        await self._scratch.execute_many(
            f"INSERT INTO staged ({_STAGED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            [
                (
                    f"{extent.run}/{extent.key}",
                    int(extent.in_pack),
                    int(is_file := entry.kind is Kind.FILE),
                    extent.offset,
                    # The extent of anything else says where it is, and nothing more.
                    extent.length if is_file else -1,
                    extent.checksum,
                    extent.part_size,
                    int(extent.encrypted),
                    extent.compression if is_file else "",
                    extent.skip if is_file else 0,
                    entry.sha256,
                    entry.size if is_file else 0,
                )
                for entry in entries
                if (extent := entry.extent) is not None
            ],
        )

    async def stage_packs(self, packs: Iterable[Pack]) -> None:
        """Note the packs that such a manifest describes. Some may hold nothing that is needed."""
        await self._scratch.execute_many(
            "INSERT INTO staged_packs (key, size, capacity, checksum, encrypted, compression) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    f"{pack.run}/{pack.key}",
                    pack.size,
                    _capacity(pack),
                    pack.checksum,
                    int(pack.encrypted),
                    pack.compression,
                )
                for pack in packs
            ],
        )

    async def accept(self) -> str:
        """Take over what was staged: its manifest is sound. Returns the key of a pack that the manifest
        refers to and does not describe, ``""`` if there is none."""
        for sql in (_ACCEPT_OBJECTS, _ACCEPT_PACKS, _ACCEPT_MEMBERS, _ACCEPT_DESCRIPTIONS):
            await self._scratch.execute(sql)
        rows = await self._scratch.all(
            "SELECT key FROM staged WHERE pack AND key NOT IN (SELECT key FROM staged_packs) LIMIT 1"
        )
        await self.discard()
        return cast("str", rows[0][0]) if rows else ""

    async def discard(self) -> None:
        """Forget what was staged: its manifest is damaged, and so may be what it said."""
        await self._scratch.execute("DELETE FROM staged")
        await self._scratch.execute("DELETE FROM staged_packs")

    async def describe_packs(self) -> None:
        """Once every manifest was taken over: bring what they say of packs together with their members.

        A content beyond its pack's end, or said to be stored in another way than it, is bad.
        """
        await self._scratch.execute(
            "UPDATE objects SET (length, checksum, encrypted, compression, disputed) = "
            "(SELECT d.size, d.checksum, d.encrypted, d.compression, d.disputed FROM described d "
            "WHERE d.key = objects.key) WHERE pack AND key IN (SELECT key FROM described)"
        )
        await self._scratch.execute(
            "UPDATE members SET bad = 1 WHERE EXISTS (SELECT 1 FROM described d WHERE d.key = members.key "
            "AND (members.offset + members.length > d.capacity OR members.encrypted != d.encrypted))"
        )
        # Without a description the members alone say whether it is sealed.
        await self._scratch.execute(
            "UPDATE objects SET encrypted = coalesce((SELECT max(m.encrypted) FROM members m "
            "WHERE m.key = objects.key), 0) WHERE pack AND key NOT IN (SELECT key FROM described)"
        )

    async def listed(self, objects: Iterable[tuple[str, int]]) -> int:
        """Note (key, size) pairs of the listing; how many of them are expected."""
        return await self._scratch.execute_many(
            "UPDATE objects SET listed = ? WHERE key = ? AND listed IS NULL",
            [(size, key) for key, size in objects if is_utf8(key)],
        )

    async def judge_listing(self) -> None:
        """Settle what the listing alone settles: wrong sizes are damage, right empty objects are sound.

        A pack with which anything is wrong is to be read: most of its contents may be whole.
        """
        await self._scratch.execute(
            "UPDATE objects SET state = ?, "
            "reason = 'it has ' || listed || ' bytes where ' || length || ' belong' "
            "WHERE state = 0 AND listed IS NOT NULL AND listed != length AND length >= 0 AND NOT pack",
            (State.DAMAGED,),
        )
        await self._scratch.execute(
            "UPDATE objects SET state = ?, reason = 'manifests disagree about its size or content' "
            "WHERE state = 0 AND disputed AND NOT pack",
            (State.DAMAGED,),
        )
        await self._scratch.execute(
            "UPDATE objects SET state = ? WHERE state = 0 AND listed IS NOT NULL "
            "AND NOT encrypted AND NOT pack AND (listed = 0 OR length < 0)",
            (State.SOUND,),
        )
        await self._scratch.execute(
            "UPDATE objects SET state = ? WHERE state = 0 AND pack AND "
            "(disputed OR listed != length OR key IN (SELECT key FROM members WHERE bad))",
            (State.TO_READ,),
        )

    def unlisted(self, *, folders: bool) -> AsyncIterator[list[ExpectedObject]]:
        """What the listing did not show, in pages: the objects of folders, or all others."""
        return self._pages(f"state = 0 AND listed IS NULL AND {_FOLDER if folders else _NO_FOLDER}")

    async def count_listed_folders(self) -> int:
        """How many objects of folders were found."""
        return await self._scratch.number(
            f"SELECT count(*) FROM objects WHERE listed IS NOT NULL AND {_FOLDER}"  # noqa: S608
        )

    async def spare_folders(self) -> int:
        """Call all objects of folders sound that are not damaged; how many those are."""
        return await self._scratch.execute(
            f"UPDATE objects SET state = {State.SOUND:d} WHERE state = 0 AND {_FOLDER}"  # noqa: S608
        )

    def in_state(self, state: State) -> AsyncIterator[list[ExpectedObject]]:
        """Every object in a state, in pages; verdicts may be given meanwhile."""
        return self._pages(f"state = {state:d}")

    async def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Write down what became of objects."""
        await self._scratch.execute_many(
            "UPDATE objects SET state = ?, reason = ?, whole = ? WHERE key = ?",
            [(verdict.state, verdict.reason, int(verdict.whole), verdict.key) for verdict in verdicts],
        )

    async def members(self, key: str, *, after: Member | None, limit: int) -> list[Member]:
        """The next contents of a pack that are not known to be bad, in the order of their places."""
        bound = "" if after is None else f"AND ({_PLACE}) > (?, ?, ?, ?, ?, ?) "
        rows = await self._scratch.all(
            f"SELECT DISTINCT {_PLACE} FROM members WHERE key = ? AND NOT bad {bound}"  # noqa: S608
            f"ORDER BY {_PLACE} LIMIT ?",
            (key, *(() if after is None else msgspec.structs.astuple(after)), limit),
        )
        return [Member(*cast("tuple[int, int, str, int, int, bytes]", row)) for row in rows]

    async def note_bad(self, key: str, members: Iterable[Member]) -> None:
        """Note contents of a pack that are not what was saved."""
        await self._scratch.execute_many(
            f"UPDATE members SET bad = 1 WHERE key = ? AND ({_PLACE}) = (?, ?, ?, ?, ?, ?)",  # noqa: S608
            [(key, *msgspec.structs.astuple(member)) for member in members],
        )

    async def has_bad(self, key: str) -> bool:
        """Whether a content of this pack is bad."""
        return bool(await self._scratch.all("SELECT 1 FROM members WHERE key = ? AND bad LIMIT 1", (key,)))

    async def choose_to_read(self, percent: float) -> int:
        """Choose that part of the undecided objects at random, at least one; the number chosen."""
        undecided = await self._scratch.number("SELECT count(*) FROM objects WHERE state = 0")
        wanted = undecided if percent >= 100 else min(undecided, max(1, round(undecided * percent / 100)))
        if wanted < undecided:
            return await self._scratch.execute(
                "UPDATE objects SET state = ? WHERE key IN "
                "(SELECT key FROM objects WHERE state = 0 ORDER BY random() LIMIT ?)",
                (State.TO_READ, wanted),
            )
        return await self._scratch.execute("UPDATE objects SET state = ? WHERE state = 0", (State.TO_READ,))

    async def totals(self) -> tuple[int, int]:
        """The number of objects and the sum of their stored sizes."""
        row = (await self._scratch.all("SELECT count(*), coalesce(sum(max(length, 0)), 0) FROM objects"))[0]
        return cast("tuple[int, int]", row)

    async def count(self, state: State) -> int:
        """How many objects are in a state."""
        return await self._scratch.number("SELECT count(*) FROM objects WHERE state = ?", (state,))

    async def _pages(self, where: str) -> AsyncIterator[list[ExpectedObject]]:
        sql = (
            f"SELECT {_FIELDS}, disputed FROM objects WHERE key > ? AND {where} "  # noqa: S608
            "ORDER BY key LIMIT ?"
        )
        async for rows in self._scratch.keyed_pages(sql, after=""):
            yield [_expected(row) for row in rows]


def _capacity(pack: Pack) -> int:
    """The size of a pack before it was sealed; 0 where no pack can have the size that is said."""
    if not pack.encrypted:
        return pack.size
    try:
        return unsealed_size(pack.size)
    except FormatError:
        return 0


def _expected(row: Row) -> ExpectedObject:
    key, pack, length, checksum, part_size, encrypted, compression, skip, sha256, size, disputed = cast(
        "tuple[str, int, int, str, int, int, str, int, bytes, int, int]", row
    )
    return ExpectedObject(
        key=key,
        pack=bool(pack),
        length=length,
        checksum=checksum,
        part_size=part_size,
        encrypted=bool(encrypted),
        compression=compression,
        skip=skip,
        sha256=sha256,
        size=size,
        disputed=bool(disputed),
    )
