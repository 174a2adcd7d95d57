"""The detector: listings in, changes out. ``lstat`` and the catalog decide, nothing is read.

The table of decisions, with its reasons, is in docs/design.md ("What changed").
A folder is compared as a whole: what its rows have and its listing lacks is
deleted. So an unchanged run writes no entry to the catalog.
"""

from __future__ import annotations

import logging
import stat
from bisect import bisect_right
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Protocol

import msgspec

from asyncbackup.catalog.entries import MAX_FOLDERS_PER_QUERY
from asyncbackup.catalog.rows import (
    CTIME_NS,
    GID,
    MODE,
    MTIME_NS,
    NLINK,
    PENDING,
    SAVE_AGAIN_NS,
    SIZE,
    UID,
    Row,
    entry_of_row,
)
from asyncbackup.model import Action, Change, Kind, Pending, RunCounters, SourceEntry, join_path
from asyncbackup.pipeline.listing import totals_of
from asyncbackup.pipeline.results import Buried, Outcome, Revived
from asyncbackup.text import terminal_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from asyncbackup.flow.channel import Receiver, Sender
    from asyncbackup.pipeline.listing import FolderChunk, WalkBatch
    from asyncbackup.pipeline.unchanged import UnchangedFolders

log = logging.getLogger(__name__)

_FOLDER_OF = attrgetter("folder")
_ROWS_FOLDER, _NAME_OF = itemgetter(0), itemgetter(1)

CHANGES_PER_BATCH = 256
PATH_BYTES_PER_BATCH = 1024 * 1024
"""Of changes that lie very deep a batch has fewer."""
CONTENT_BYTES_PER_BATCH = 32 * 1024 * 1024
"""And of large files, which one reader after another takes: neighbours are read side by side."""
MAX_ROWS = 16_384
"""Rows that are compared at once. A listing is bounded; what the catalog knows of its folders is not,
where a million files were deleted."""


class KnownEntries(Protocol):
    """What the detector asks of the catalog's entries."""

    async def stats_of_folders(self, folders: Sequence[bytes], *, limit: int) -> list[Row]: ...

    async def stats_of_range(
        self, folder: bytes, after: bytes | None, upto: bytes | None, *, limit: int
    ) -> list[Row]: ...

    async def rows_of_names(self, names: Sequence[tuple[bytes, bytes]]) -> list[Row]: ...

    async def rows_of_inodes(self, inodes: Sequence[tuple[int, int]]) -> list[Row]: ...

    async def is_empty(self) -> bool: ...


class KnownLinks(Protocol):
    """What the detector asks of the catalog's hard links."""

    async def claim(self, names: Sequence[tuple[str, bytes]]) -> dict[str, bytes]: ...

    async def defer(self, links: Iterable[tuple[SourceEntry, Pending, bytes]]) -> None: ...


class Detector:
    """Compares listings with the catalog. With ``checksum`` every file is read, whatever its stat says.

    With ``find_moved`` a new path of a known inode is taken for the file that it was. Linked files below
    ``links_together_below`` bytes wait for their further names, so that all come together.
    """

    def __init__(
        self,
        entries: KnownEntries,
        links: KnownLinks,
        counters: RunCounters,
        unchanged: UnchangedFolders,
        *,
        checksum: bool = False,
        find_moved: bool = False,
        links_together_below: int = 0,
    ) -> None:
        self._entries = entries
        self._links = links
        self._unchanged = unchanged
        self._counters = counters
        self._checksum = checksum
        self._find_moved = find_moved and not checksum
        self._links_together_below = links_together_below

    async def run(
        self,
        listings: Receiver[WalkBatch],
        changes: Sender[list[Change]],
        outcomes: Sender[Outcome],
    ) -> None:
        """Work until the listings end. Deletions and failures go straight to ``outcomes``."""
        with listings, changes, outcomes:
            if self._find_moved and await self._entries.is_empty():
                self._find_moved = False  # Nothing can have moved.
            if not self._checksum:
                await self._unchanged.begin()
            async for batch in listings:
                self._counters.files_ignored += len(batch.special)
                for path in batch.special:
                    log.info("ignored: %s is neither a file, a folder nor a symlink", terminal_path(path))
                # What cannot be looked at fails, and whatever fails was scanned.
                self._counters.files_scanned += sum(f.kind is Kind.FILE for f in batch.unlisted)
                await outcomes.send_all(batch.unlisted)
                whole = [c for c in batch.chunks if c.after is None and c.upto is None]
                for begin in range(0, len(whole), MAX_FOLDERS_PER_QUERY):
                    unchanged, part = await self._unchanged.told_apart(
                        whole[begin : begin + MAX_FOLDERS_PER_QUERY]
                    )
                    if unchanged:
                        self._pass_by(unchanged)
                    if not part:
                        continue
                    folders = [c.folder for c in part]
                    rows = await self._entries.stats_of_folders(folders, limit=MAX_ROWS + 1)
                    if len(rows) <= MAX_ROWS:
                        await self._unchanged.note(await self._compare(part, rows, changes, outcomes))
                        continue
                    for chunk in part:
                        await self._compare_in_pages(chunk, changes, outcomes)
                for chunk in batch.chunks:
                    if chunk.after is not None or chunk.upto is not None:
                        await self._compare_in_pages(chunk, changes, outcomes)
            await self._unchanged.finish()

    async def _compare_in_pages(
        self, chunk: FolderChunk, changes: Sender[list[Change]], outcomes: Sender[Outcome]
    ) -> None:
        """Compare one chunk with its rows, cut where a page of rows ends."""
        seen, statuses, unknown, after = chunk.rows, chunk.statuses, chunk.unknown, chunk.after
        while True:
            rows = await self._entries.stats_of_range(chunk.folder, after, chunk.upto, limit=MAX_ROWS)
            if len(rows) < MAX_ROWS:
                rest = msgspec.structs.replace(chunk, rows=seen, statuses=statuses, unknown=unknown)
                await self._compare([rest], rows, changes, outcomes)
                return
            after = _bytes(rows[-1][1])
            cut = bisect_right(seen, after, key=_NAME_OF)
            unknown_cut = bisect_right(unknown, after)
            page = msgspec.structs.replace(
                chunk, rows=seen[:cut], statuses=statuses[:cut], unknown=unknown[:unknown_cut]
            )
            await self._compare([page], rows, changes, outcomes)
            seen, statuses, unknown = seen[cut:], statuses[cut:], unknown[unknown_cut:]

    async def _compare(
        self,
        chunks: Sequence[FolderChunk],
        rows: Sequence[Row],
        changes: Sender[list[Change]],
        outcomes: Sender[Outcome],
    ) -> Sequence[FolderChunk]:
        """Compare chunks with all their rows, which are in the order of their keys. Returns those that
        are as the rows say.

        Nearly every folder of a daily run is as it was: then its rows are, one for one, those that the
        walker made of what it saw, which a single comparison of lists tells.
        """
        ordered = chain.from_iterable(chunk.rows for chunk in sorted(chunks, key=_FOLDER_OF))
        if not self._checksum and rows == list(ordered) and not any(chunk.unknown for chunk in chunks):
            self._pass_by(chunks)
            return chunks
        rows_of: dict[object, list[Row]] = {
            folder: list(its_rows) for folder, its_rows in groupby(rows, _ROWS_FOLDER)
        }
        found: list[Change] = []
        described: list[int] = []
        as_saved: list[FolderChunk] = []
        for chunk in chunks:
            its_rows = rows_of.get(chunk.folder, [])
            if its_rows == chunk.rows and not self._checksum:
                self._pass_by([chunk])
                as_saved.append(chunk)
                continue
            for change, row in await self._compare_chunk(chunk, its_rows, outcomes):
                if row is not None and row[CTIME_NS] != SAVE_AGAIN_NS:
                    described.append(len(found))
                found.append(change)
        found = await self._set_links_aside(await self._with_known(found, described))
        if self._find_moved:
            found = await self._recognise_moved(found)
        for part in _batches(found):
            await changes.send(part)
        return as_saved

    async def _compare_chunk(
        self, chunk: FolderChunk, rows: list[Row], outcomes: Sender[Outcome]
    ) -> list[tuple[Change, Row | None]]:
        """What changed in one chunk, each with its row, if any. What it has not and rows have is buried."""
        self._counters.current_path = chunk.folder
        known: dict[object, Row] = {row[1]: row for row in rows}
        found: list[tuple[Change, Row | None]] = []
        unchanged: list[Row] = []
        for number, seen in enumerate(chunk.rows):
            row = known.pop(seen[1], None)
            # After a rebuild the number of links may be unknown.
            if row is not None and not self._checksum and row[:NLINK] == seen[:NLINK]:
                unchanged.append(seen)
                continue
            entry = chunk.entry(number)
            change = self._decide(entry, row)
            if change is not None:
                found.append((change, row))
            if row is None:
                continue
            if stat.S_IFMT(_int(row[MODE])) == stat.S_IFMT(entry.mode):
                if row[PENDING] == Pending.DELETED:
                    # Also before a change: should reading it fail, its earlier version stays.
                    await outcomes.send(Revived(path=entry.path))
            elif stat.S_ISDIR(_int(row[MODE])):
                await outcomes.send(Buried(path=entry.path, subtree=True))
        self._count_unchanged(unchanged)
        for name in chunk.unknown:
            known.pop(name, None)
        for row in known.values():
            if row[PENDING] != Pending.DELETED:
                path = join_path(_bytes(row[0]), _bytes(row[1]))
                await outcomes.send(Buried(path=path, subtree=stat.S_ISDIR(_int(row[MODE]))))
        return found

    def _pass_by(self, chunks: Sequence[FolderChunk]) -> None:
        """Count chunks in which nothing has changed."""
        self._counters.current_path = chunks[-1].folder
        self._count_unchanged(list(chain.from_iterable(chunk.rows for chunk in chunks)))

    def _count_unchanged(self, rows: Sequence[Row]) -> None:
        totals = totals_of(rows)
        counters = self._counters
        counters.files_scanned += totals.files
        counters.files_unchanged += totals.files
        counters.bytes_scanned += totals.size
        counters.bytes_unchanged += totals.size
        counters.folders += totals.folders
        counters.symlinks += totals.symlinks

    async def _with_known(self, found: list[Change], described: Sequence[int]) -> list[Change]:
        """The changes, those at the places ``described`` with all that their rows say."""
        if not described:
            return found
        names = [(found[place].entry.folder, found[place].entry.name) for place in described]
        rows = {(row[0], row[1]): row for row in await self._entries.rows_of_names(names)}
        for place, name in zip(described, names, strict=True):
            found[place] = msgspec.structs.replace(found[place], known=entry_of_row(rows[name]))
        return found

    def _decide(self, entry: SourceEntry, row: Row | None) -> Change | None:
        counters = self._counters
        counters.current_path = entry.folder
        is_file = stat.S_ISREG(entry.mode)
        if is_file:
            counters.files_scanned += 1
            counters.bytes_scanned += entry.size
        elif stat.S_ISDIR(entry.mode):
            counters.folders += 1
        else:
            counters.symlinks += 1
        action = self._action(entry, row)
        if action is None:
            if is_file:
                # A row that an interrupted run saved is news to the next snapshot all the same.
                match row[PENDING] if row is not None else 0:
                    case Pending.NEW:
                        counters.files_new += 1
                    case Pending.CHANGED:
                        counters.files_changed += 1
                    case _:
                        counters.files_unchanged += 1
                counters.bytes_unchanged += entry.size
            return None
        pending = Pending.NEW if row is None or row[PENDING] == Pending.NEW else Pending.CHANGED
        if row is None or row[CTIME_NS] == SAVE_AGAIN_NS:
            # What is stored of it is damaged: nothing of it is to be taken over.
            return Change(entry=entry, action=action, pending=pending)
        # What else is known of it is read later, together with that of others.
        return Change(
            entry=entry,
            action=action,
            pending=pending,
            known_pending=Pending(_int(row[PENDING])),
        )

    def _action(self, entry: SourceEntry, row: Row | None) -> Action | None:
        if row is None or stat.S_IFMT(_int(row[MODE])) != stat.S_IFMT(entry.mode):
            return Action.UPLOAD
        if row[CTIME_NS] == SAVE_AGAIN_NS:
            return Action.UPLOAD
        same_owner_and_mode = row[MODE] == entry.mode and row[UID] == entry.uid and row[GID] == entry.gid
        same_mtime = _time(row[MTIME_NS]) == entry.mtime_ns
        same_ctime = _time(row[CTIME_NS]) == entry.ctime_ns
        if not stat.S_ISREG(entry.mode):
            if same_ctime and same_mtime and same_owner_and_mode:
                return None
            return Action.METADATA if stat.S_ISDIR(entry.mode) else Action.UPLOAD
        if row[SIZE] != entry.size or not same_mtime:
            return Action.UPLOAD
        if same_ctime and same_owner_and_mode:
            return Action.RECHECK if self._checksum else None
        links_moved = row[NLINK] != 0 and row[NLINK] != entry.nlink
        if not self._checksum and (links_moved or not same_owner_and_mode):
            return Action.METADATA
        return Action.RECHECK

    async def _set_links_aside(self, found: list[Change]) -> list[Change]:
        """Keep the first name met of every inode; further names wait until its content is saved."""
        linked = [c for c in found if c.entry.nlink > 1 and stat.S_ISREG(c.entry.mode)]
        if not linked:
            return found
        firsts = await self._links.claim([(inode_label(c.entry), c.entry.path) for c in linked])
        aside: dict[int, tuple[SourceEntry, Pending, bytes]] = {}
        for change in linked:
            first = firsts[inode_label(change.entry)]
            waits = first != change.entry.path or (
                change.action is Action.UPLOAD and change.entry.size < self._links_together_below
            )
            if change.action is not Action.METADATA and waits:
                aside[id(change)] = (change.entry, change.pending, first)
        if aside:
            await self._links.defer(aside.values())
        return [change for change in found if id(change) not in aside]

    async def _recognise_moved(self, found: list[Change]) -> list[Change]:
        """Turn new files whose inode, size and mtime another row has into moved ones."""
        wanted = {
            (change.entry.dev, change.entry.ino): change
            for change in found
            if change.known is None and change.entry.nlink == 1 and _is_content(change.entry)
        }
        if not wanted:
            return found
        moved: dict[int, Change] = {}
        for row in await self._entries.rows_of_inodes(list(wanted)):
            was = entry_of_row(row)
            change = wanted[was.dev, was.ino]
            seen = change.entry
            same = (was.size, was.mtime_ns) == (seen.size, seen.mtime_ns)
            if same and was.kind is Kind.FILE and was.sha256 and was.extent is not None:
                moved[id(change)] = msgspec.structs.replace(change, action=Action.MOVED, link_to=was)
        return [moved.get(id(change), change) for change in found]


def _is_content(entry: SourceEntry) -> bool:
    return stat.S_ISREG(entry.mode) and entry.size > 0


def inode_label(entry: SourceEntry) -> str:
    """What names of one inode have in common."""
    return f"{entry.dev:x}:{entry.ino:x}"


def _batches(changes: list[Change]) -> Iterator[list[Change]]:
    begin = path_bytes = content_bytes = 0
    for end, change in enumerate(changes):
        if (
            end - begin == CHANGES_PER_BATCH
            or path_bytes >= PATH_BYTES_PER_BATCH
            or content_bytes >= CONTENT_BYTES_PER_BATCH
        ):
            yield changes[begin:end]
            begin, path_bytes, content_bytes = end, 0, 0
        path_bytes += len(change.entry.folder)
        content_bytes += change.content_bytes
    if begin < len(changes):
        yield changes[begin:]


def _time(value: object) -> int:
    return value if isinstance(value, int) else int(str(value))


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"a number is expected, not {value!r}")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"bytes are expected, not {value!r}")
    return value
