"""The stored selection of a restore: what shall be restored, and how far it has come.

A database of its own for every distinct restore, so that an interrupted one
goes on where it was and a million entries cost no memory. Its rows are numbered
in the order of the manifest, (folder, name), so a folder always comes before
what lies in it. Files whose content lies in a pack can also be had in the order
of the packs. It is discarded once everything was restored.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from asyncbackup.catalog.database import connect
from asyncbackup.catalog.selection_rows import entry_of_stored, packed_extent, stored_entry
from asyncbackup.errors import CatalogError, FormatError, SectionBusyError
from asyncbackup.model import Entry, Kind

if TYPE_CHECKING:
    import aiosqlite

    from asyncbackup.catalog.rows import Row, SqlValue

log = logging.getLogger(__name__)

SELECTION_VERSION = 2
PAGE_ROWS = 512
"""Rows of one page: enough to make a thread hop cheap."""
PAGE_PATH_BYTES = 1024 * 1024
"""What the paths of a page may add up to, about: ten thousand folders deep, each is tens of kilobytes."""

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    role INTEGER NOT NULL,
    implied INTEGER NOT NULL,
    packed INTEGER NOT NULL,
    leader INTEGER,
    own_place BLOB,
    parent_place BLOB,
    size INTEGER NOT NULL,
    hardlink TEXT NOT NULL,
    extent_run TEXT,
    extent_key TEXT,
    extent_offset INTEGER,
    entry BLOB NOT NULL
);
CREATE TABLE groups (label TEXT PRIMARY KEY, leader INTEGER NOT NULL) WITHOUT ROWID;
"""
_INSERT = (
    "INSERT INTO entries (id, state, role, implied, packed, own_place, parent_place, size, hardlink, "
    "extent_run, extent_key, extent_offset, entry) VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = "SELECT id, state, role, implied, leader, entry FROM entries"

_PACKED_IS = {None: "", False: "AND packed = 0", True: "AND packed = 1"}


class Role(enum.IntEnum):
    """How an entry is restored. ``LINK`` is a further name of a file that another row carries."""

    FILE = 0
    FOLDER = 1
    SYMLINK = 2
    LINK = 3


_ROLES = {Kind.FILE: Role.FILE, Kind.FOLDER: Role.FOLDER, Kind.SYMLINK: Role.SYMLINK}


class State(enum.IntEnum):
    """How far one entry has come."""

    TODO = 0
    DONE = 1
    SKIPPED = 2
    """Left as it was found, as the overwrite mode says."""
    FAILED = 3
    """Tried in vain; tried again when the restore goes on."""
    CANDIDATE = 4
    """A folder that was not asked for; kept only if something below it was."""
    MADE = 5
    """A folder that did not exist before this restore: its metadata is restored in any case."""
    UNSURE = 6
    """A file that was done before the machine was started again: read before it is believed."""


# Enumerations are called for each row: a look-up costs a tenth.
_STATES = tuple(State)
_ROLES_BY_NUMBER = tuple(Role)


class Candidate(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One entry to store. ``selected`` is false for a folder that is needed only if something
    below it is selected. ``own_place`` and ``parent_place`` are digests of the entry's and its
    folder's path, needed only if anything is not selected.
    """

    entry: Entry
    selected: bool
    own_place: bytes | None = None
    parent_place: bytes | None = None


class SelectedEntry(msgspec.Struct, frozen=True, gc=False):
    """One row. ``implied`` folders were not asked for: they are made where they are missing,
    and otherwise left alone. ``leader`` is the row of the file that a ``LINK`` is linked to."""

    id: int
    state: State
    role: Role
    implied: bool
    leader: int | None
    entry: Entry


class SelectionTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What a selection holds, implied folders apart. ``bytes_total`` counts linked content once."""

    files: int = 0
    folders: int = 0
    symlinks: int = 0
    hardlinks: int = 0
    bytes_total: int = 0


class Selection:
    """An open selection; this process holds it until it is closed."""

    def __init__(self, connection: aiosqlite.Connection, path: Path, *, complete: bool, boot: str) -> None:
        self.path = path
        self.complete = complete
        """Whether the selection was made to its end. When opened so, an earlier restore was interrupted."""
        self.boot = boot
        """What was given as the identity of the machine's boot when the selection was opened last."""
        self._connection = connection
        self._lock = asyncio.Lock()
        self._last_id = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, identity: Mapping[str, str], *, boot: str) -> AsyncIterator[Selection]:
        """The selection stored for ``identity``, or a new one where there is none to go on with.

        A damaged database, one of another identity and one whose making was
        interrupted are discarded: they cost time, never data. So is one that is not complete when it is left.

        Raises ``SectionBusyError`` while another process restores from it, and ``CatalogError``.
        """
        wanted = msgspec.json.encode(dict(sorted(identity.items())))
        connection, earlier_boot = await _open_or_begin(path, wanted, boot)
        selection = cls(connection, path, complete=earlier_boot is not None, boot=earlier_boot or boot)
        try:
            yield selection
        finally:
            if not selection.complete:
                # Nobody goes on with a part, perhaps of what was misread. (While it is still held.)
                selection.discard()
            await connection.close()

    async def add(self, candidates: Iterable[Candidate]) -> None:
        """Store entries, in the manifest's order. Raises ``FormatError`` for values no file system has."""
        try:
            rows, groups = self._numbered(candidates)
            async with self._transaction() as connection:
                await connection.executemany(_INSERT, rows)
                await connection.executemany(
                    "INSERT OR IGNORE INTO groups (label, leader) VALUES (?, ?)", groups
                )
        except (OverflowError, UnicodeEncodeError) as error:
            raise FormatError(
                f"the manifest holds a value that no file system has ({error}); verify the snapshot"
            ) from error

    async def seal(self, *, filtered: bool) -> None:
        """Finish making the selection: keep the folders that lead to selected entries, settle which
        name of each hard-link group carries the content. From here on it can be gone on with."""
        async with self._transaction() as connection:
            if filtered:
                await _imply_folders(connection)
            await connection.execute(
                f"UPDATE entries SET role = {Role.LINK}, "  # noqa: S608 - constants only
                "leader = (SELECT g.leader FROM groups g WHERE g.label = hardlink) "
                f"WHERE role IN ({Role.FILE}, {Role.SYMLINK}) AND hardlink != '' "
                "AND id != (SELECT g.leader FROM groups g WHERE g.label = hardlink)"
            )
            await connection.execute(
                "CREATE INDEX entries_leader ON entries (leader) WHERE leader IS NOT NULL"
            )
            # Once, when all rows are there: cheaper than with every row, and sorted on disk. The
            # number is in it, or each page would pass over all copies of a content before its own.
            await connection.execute(
                "CREATE INDEX entries_packed ON entries (extent_run, extent_key, extent_offset, id) "
                "WHERE packed = 1"
            )
            await connection.execute("DROP TABLE groups")
            await connection.execute("INSERT INTO meta (name, value) VALUES ('complete', x'01')")
        self.complete = True

    async def begin_again(self, *, boot: str) -> None:
        """Prepare going on: what failed is to do again, so are links and every folder's metadata.

        If the machine was started since, it may have crashed: its files are
        then unsure. An empty ``boot`` is unknown, and no two of them are the same.
        """
        rebooted = not boot or boot != self.boot
        changes = [
            (State.TODO, f"state = {State.FAILED}"),
            (State.TODO, f"state = {State.DONE} AND role = {Role.LINK}"),
            (State.MADE, f"state = {State.DONE} AND role = {Role.FOLDER}"),
        ]
        if rebooted:
            changes.append((State.UNSURE, f"state = {State.DONE} AND role = {Role.FILE}"))
        async with self._transaction() as connection:
            for state, condition in changes:
                await connection.execute(f"UPDATE entries SET state = {state} WHERE {condition}")  # noqa: S608
            await connection.execute("UPDATE meta SET value = ? WHERE name = 'boot'", (boot.encode(),))

    async def relocate(self, entries: Sequence[Entry], *, first: int) -> int:
        """Note where the contents of failed entries lie now. ``entries`` are those that were added, in the
        same order, from the one with the number ``first`` (from 1) on. Returns how many have moved."""
        rows = []
        for number, entry in enumerate(entries, first):
            stored = stored_entry(entry)
            rows.append((*_place_of(entry), stored, number, stored))
        async with self._transaction() as connection:
            cursor = await connection.executemany(
                "UPDATE entries SET packed = ?, extent_run = ?, extent_key = ?, extent_offset = ?, entry = ? "  # noqa: S608
                f"WHERE id = ? AND state = {State.FAILED} AND entry != ?",
                rows,
            )
            return max(0, cursor.rowcount)

    async def totals(self) -> SelectionTotals:
        """What the selection holds."""
        rows = await self._fetch(
            "SELECT role, count(*), cast(total(size) AS INTEGER) FROM entries WHERE implied = 0 GROUP BY role"
        )
        sums = [(_int(role), _int(count), _int(size)) for role, count, size in rows]
        counts = {role: count for role, count, _ in sums}
        links = counts.get(Role.LINK, 0)
        return SelectionTotals(
            files=counts.get(Role.FILE, 0) + links,
            folders=counts.get(Role.FOLDER, 0),
            symlinks=counts.get(Role.SYMLINK, 0),
            hardlinks=links,
            bytes_total=sum(size for role, _, size in sums if role == Role.FILE),
        )

    async def pages(
        self,
        roles: Sequence[Role],
        *,
        states: Sequence[State] = tuple(State),
        reverse: bool = False,
        packed: bool | None = None,
    ) -> AsyncGenerator[list[SelectedEntry], None]:
        """The rows of these roles and states in the manifest's order (or from its end), in pages.

        Only those whose content lies in a pack if ``packed``, only the others if ``False``.
        Rows may be marked while the pages are read.
        """
        compare, order = ("<", "DESC") if reverse else (">", "ASC")
        position = (1 << 63) - 1 if reverse else 0
        sql = (
            f"{_SELECT} WHERE id {compare} ? AND role IN ({_numbers(roles)}) "
            f"AND state IN ({_numbers(states)}) {_PACKED_IS[packed]} ORDER BY id {order} LIMIT ?"
        )
        limit = PAGE_ROWS
        while rows := await self._fetch(sql, (position, limit)):
            page = [_selected(row) for row in rows]
            limit = _next_limit(page)
            position = page[-1].id
            yield page

    async def packed_pages(self) -> AsyncGenerator[list[SelectedEntry], None]:
        """The files (links apart) whose content lies in a pack, in the order of the packs, in pages.

        Rows may be marked while the pages are read.
        """
        sql = (
            f"{_SELECT} WHERE packed = 1 AND role = {Role.FILE} "
            "AND (extent_run, extent_key, extent_offset, id) > (?, ?, ?, ?) "
            "ORDER BY extent_run, extent_key, extent_offset, id LIMIT ?"
        )
        limit = PAGE_ROWS
        position: tuple[str, str, int, int] = ("", "", 0, 0)
        while rows := await self._fetch(sql, (*position, limit)):
            page = [_selected(row) for row in rows]
            limit = _next_limit(page)
            extent = page[-1].entry.extent
            assert extent is not None, "a packed row has an extent"
            position = (extent.run, extent.key, extent.offset, page[-1].id)
            yield page

    async def rows(self, ids: Iterable[int]) -> dict[int, SelectedEntry]:
        """Single rows by number."""
        numbers = sorted(set(ids))
        found: dict[int, SelectedEntry] = {}
        for begin in range(0, len(numbers), PAGE_ROWS):
            part = numbers[begin : begin + PAGE_ROWS]
            for row in await self._fetch(f"{_SELECT} WHERE id IN ({_numbers(part)})"):
                selected = _selected(row)
                found[selected.id] = selected
        return found

    async def mark(self, states: Sequence[tuple[int, State]]) -> None:
        """Note how far rows have come, in one transaction."""
        by_state: dict[State, list[int]] = {}
        for number, state in dict(states).items():
            by_state.setdefault(state, []).append(number)
        async with self._transaction() as connection:
            for state, numbers in by_state.items():
                for begin in range(0, len(numbers), PAGE_ROWS):
                    # One statement for many rows: each would wait for the interpreter's lock anew.
                    part = _numbers(numbers[begin : begin + PAGE_ROWS])
                    await connection.execute(f"UPDATE entries SET state = {state} WHERE id IN ({part})")  # noqa: S608

    async def promote(self, link: SelectedEntry, *, adopt: bool) -> None:
        """Let a further name have content of its own; with ``adopt`` it becomes the leader of the others."""
        async with self._transaction() as connection:
            if adopt:
                await connection.execute(
                    "UPDATE entries SET leader = ? WHERE leader = ? AND id != ?",
                    (link.id, link.leader, link.id),
                )
            await connection.execute(
                "UPDATE entries SET role = ?, leader = NULL WHERE id = ?",
                (int(_ROLES[link.entry.kind]), link.id),
            )

    def discard(self) -> None:
        """Remove the database's files; the selection must not be used any more."""
        _remove_files(self.path)

    def _numbered(
        self, candidates: Iterable[Candidate]
    ) -> tuple[list[tuple[SqlValue, ...]], list[tuple[str, int]]]:
        """Rows of the tables ``entries`` and ``groups``."""
        rows: list[tuple[SqlValue, ...]] = []
        groups: list[tuple[str, int]] = []
        for candidate in candidates:
            entry = candidate.entry
            self._last_id += 1
            packed, *place = _place_of(entry)
            rows.append(
                (
                    self._last_id,
                    int(State.TODO if candidate.selected else State.CANDIDATE),
                    int(_ROLES[entry.kind]),
                    packed,
                    candidate.own_place,
                    candidate.parent_place,
                    entry.size,
                    entry.hardlink,
                    *place,
                    stored_entry(entry),
                )
            )
            if entry.hardlink and entry.kind is not Kind.FOLDER:
                groups.append((entry.hardlink, self._last_id))
        return rows, groups

    async def _fetch(self, sql: str, parameters: tuple[SqlValue, ...] = ()) -> list[Row]:
        with _translated(self.path):
            return [cast("Row", row) for row in await self._connection.execute_fetchall(sql, parameters)]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        async with self._lock:
            with _translated(self.path):
                await self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    await self._connection.execute("ROLLBACK")
                    raise
                await self._connection.execute("COMMIT")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise CatalogError(
                f"no space left for the selection {path}; free some and restore again"
            ) from error
        raise CatalogError(
            f"the selection {path}: {error}; check the folder's permissions and its disk"
        ) from error
    except sqlite3.DatabaseError as error:
        raise CatalogError(
            f"the selection {path} is damaged ({error}); restore again, and it is made anew"
        ) from error


async def _open_or_begin(path: Path, identity: bytes, boot: str) -> tuple[aiosqlite.Connection, str | None]:
    """An open database, and the boot of an earlier, complete selection if it is one."""
    while True:
        if _exists(path):
            connection = await _connect_existing(path)
            if connection is None:
                continue
            earlier_boot = await _earlier_boot(connection, identity)
            if earlier_boot is not None:
                return connection, earlier_boot
            # Removed while it is still locked, so that nobody else goes on with it meanwhile.
            _remove_files(path)
            await connection.close()
        try:
            connection = await connect(path, create=True)
        except CatalogError:
            if _exists(path):  # somebody else was quicker
                continue
            raise
        try:
            with _translated(path):
                await connection.execute(f"PRAGMA user_version = {SELECTION_VERSION}")
                await connection.executescript(_TABLES)
                await connection.executemany(
                    "INSERT INTO meta (name, value) VALUES (?, ?)",
                    [("identity", identity), ("boot", boot.encode())],
                )
        except BaseException:
            await connection.close()
            _remove_files(path)
            raise
        return connection, None


async def _connect_existing(path: Path) -> aiosqlite.Connection | None:
    """The database's connection, ``None`` if it was unreadable and is removed now."""
    try:
        connection = await connect(path, create=False)
    except SectionBusyError as error:
        raise SectionBusyError(
            f"another restore with the same arguments is under way (it holds {path}); wait for it to end"
        ) from error
    except CatalogError as error:
        damaged = isinstance(error.__cause__, sqlite3.DatabaseError)
        if not damaged or isinstance(error.__cause__, sqlite3.OperationalError):
            raise
        log.warning("the selection %s is damaged and is made anew", path)
        _remove_files(path)
        return None
    if not _exists(path):  # its restore ended between our look and our lock
        await connection.close()
        return None
    return connection


async def _earlier_boot(connection: aiosqlite.Connection, identity: bytes) -> str | None:
    try:
        version = list(await connection.execute_fetchall("PRAGMA user_version"))
        rows = list(await connection.execute_fetchall("SELECT name, value FROM meta"))
    except sqlite3.DatabaseError:
        return None
    meta = {str(name): bytes(value) for name, value in rows}
    if version[0][0] != SELECTION_VERSION or meta.get("identity") != identity or "complete" not in meta:
        return None
    return meta.get("boot", b"").decode(errors="replace")


async def _imply_folders(connection: aiosqlite.Connection) -> None:
    await connection.execute("CREATE INDEX entries_place ON entries (own_place) WHERE own_place IS NOT NULL")
    await connection.execute(
        "WITH RECURSIVE needed (place) AS ("  # noqa: S608 - constants only
        f"SELECT parent_place FROM entries WHERE state = {State.TODO} AND parent_place IS NOT NULL "
        "UNION SELECT entries.parent_place FROM needed JOIN entries ON entries.own_place = needed.place "
        "WHERE entries.parent_place IS NOT NULL) "
        f"UPDATE entries SET state = {State.TODO}, implied = 1 "
        f"WHERE state = {State.CANDIDATE} AND own_place IN (SELECT place FROM needed)"
    )
    await connection.execute(f"DELETE FROM entries WHERE state = {State.CANDIDATE}")  # noqa: S608
    await connection.execute("DROP INDEX entries_place")


def _place_of(entry: Entry) -> tuple[SqlValue, ...]:
    """The columns ``packed``, ``extent_run``, ``extent_key``, ``extent_offset``."""
    extent = packed_extent(entry)
    return (0, None, None, None) if extent is None else (1, extent.run, extent.key, extent.offset)


def _selected(row: Row) -> SelectedEntry:
    number, state, role, implied, leader, entry = cast("tuple[int, int, int, int, int | None, bytes]", row)
    return SelectedEntry(
        number,
        _STATES[state],
        _ROLES_BY_NUMBER[role],
        bool(implied),
        leader,
        entry_of_stored(entry),
    )


def _next_limit(page: Sequence[SelectedEntry]) -> int:
    path_bytes = sum(len(row.entry.path) for row in page)
    return min(PAGE_ROWS, len(page) * PAGE_PATH_BYTES // (path_bytes + 1) + 1)


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(str(int(value)) for value in values)


def _exists(path: Path) -> bool:
    return path.exists()


def _int(value: SqlValue) -> int:
    return cast("int", value)


def _remove_files(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
