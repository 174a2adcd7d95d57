"""What counts as changed: the table of docs/design.md, row by row, and what is deleted."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterable

import msgspec
import pytest

from asyncbackup.catalog.rows import SAVE_AGAIN_NS
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.model import (
    Action,
    Change,
    Entry,
    Extent,
    Failure,
    Kind,
    Pending,
    RunCounters,
    SourceEntry,
    kind_of_mode,
    split_path,
)
from asyncbackup.pipeline import detector as detector_module
from asyncbackup.pipeline.detector import (
    CHANGES_PER_BATCH,
    CONTENT_BYTES_PER_BATCH,
    PATH_BYTES_PER_BATCH,
    Detector,
)
from asyncbackup.pipeline.listing import FolderChunk, WalkBatch
from asyncbackup.pipeline.results import Buried, Outcome, Revived
from asyncbackup.pipeline.unchanged import UnchangedFolders
from tests.unit.pipeline.catalogs import MemoryEntries, MemoryLinks, MemoryListings
from tests.unit.pipeline.listings import status_of, unchanged_row

FILE, FOLDER, LINK = 0o100644, 0o040755, 0o120777
BEYOND = 2**64


def seen(
    path: bytes,
    mode: int = FILE,
    *,
    size: int = 7,
    mtime_ns: int = 1000,
    ctime_ns: int = 2000,
    uid: int = 1,
    gid: int = 2,
    nlink: int = 1,
    ino: int = 99,
) -> SourceEntry:
    folder, name = split_path(path)
    size = 0 if stat.S_ISDIR(mode) else size  # as the walker tells of a folder
    return SourceEntry(folder, name, mode, size, mtime_ns, ctime_ns, uid, gid, nlink, 5, ino, 8)


def saved(entry: SourceEntry, **changes: object) -> Entry:
    """What the catalog holds of it after a run."""
    row = Entry(
        path=entry.path,
        kind=kind_of_mode(entry.mode),
        mode=entry.mode,
        size=entry.size if stat.S_ISREG(entry.mode) else 0,
        mtime_ns=entry.mtime_ns,
        ctime_ns=entry.ctime_ns,
        uid=entry.uid,
        gid=entry.gid,
        nlink=entry.nlink if not stat.S_ISDIR(entry.mode) else 0,
        sha256=b"s" * 32,
        extent=Extent(run="r", key="k", length=7),
    )
    return msgspec.structs.replace(row, **changes)


class Detection:
    """One run of the detector over listings, and all that came of it."""

    def __init__(self) -> None:
        self.entries = MemoryEntries()
        self.links = MemoryLinks()
        self.listings = MemoryListings()
        self.counters = RunCounters()
        self.batches: list[list[Change]] = []
        self.outcomes: list[Outcome] = []

    async def run(self, *batches: WalkBatch, checksum: bool = False, find_moved: bool = False) -> Detection:
        listings_in: Sender[WalkBatch]
        listings_in, listings = open_channel("listings", 1000)
        changes_in: Sender[list[Change]]
        changes: Receiver[list[Change]]
        changes_in, changes = open_channel("changes", 1000)
        outcomes_in: Sender[Outcome]
        outcomes: Receiver[Outcome]
        outcomes_in, outcomes = open_channel("outcomes", 1000)
        with listings_in:
            await listings_in.send_all(batches)
        detector = Detector(
            self.entries,
            self.links,
            self.counters,
            UnchangedFolders(self.listings),
            checksum=checksum,
            find_moved=find_moved,
        )
        await detector.run(listings, changes_in, outcomes_in)
        self.batches = [batch async for batch in changes]
        self.outcomes = [outcome async for outcome in outcomes]
        return self

    @property
    def changes(self) -> dict[bytes, Change]:
        return {change.entry.path: change for batch in self.batches for change in batch}


def folder(
    path: bytes,
    *entries: SourceEntry,
    after: bytes | None = None,
    upto: bytes | None = None,
    unknown: tuple[bytes, ...] = (),
) -> FolderChunk:
    return FolderChunk(
        folder=path,
        rows=[unchanged_row(entry) for entry in entries],
        statuses=[status_of(entry) for entry in entries],
        after=after,
        upto=upto,
        unknown=unknown,
    )


def listing(
    *chunks: FolderChunk, unlisted: Iterable[Failure] = (), special: Iterable[bytes] = ()
) -> WalkBatch:
    return WalkBatch(chunks=chunks, unlisted=tuple(unlisted), special=tuple(special), excluded=0)


async def decide(
    now: SourceEntry, row: Entry | None, *, pending: Pending = Pending.COMMITTED, checksum: bool = False
) -> tuple[Detection, Change | None]:
    detection = Detection()
    if row is not None:
        detection.entries.add(row, pending)
    await detection.run(listing(folder(now.folder, now)), checksum=checksum)
    return detection, detection.changes.get(now.path)


BASE = seen(b"d/f")


@pytest.mark.parametrize(
    ("now", "row", "usual", "with_checksum"),
    [
        pytest.param(BASE, None, Action.UPLOAD, Action.UPLOAD, id="no row"),
        pytest.param(seen(b"d/f", size=8), saved(BASE), Action.UPLOAD, Action.UPLOAD, id="size"),
        pytest.param(seen(b"d/f", mtime_ns=1001), saved(BASE), Action.UPLOAD, Action.UPLOAD, id="mtime"),
        pytest.param(
            seen(b"d/f", mtime_ns=999), saved(BASE), Action.UPLOAD, Action.UPLOAD, id="mtime in the past"
        ),
        pytest.param(
            seen(b"d/f", size=8, mode=0o100600, ctime_ns=2001),
            saved(BASE),
            Action.UPLOAD,
            Action.UPLOAD,
            id="size and mode",
        ),
        pytest.param(
            seen(b"d/f", mode=0o100600, ctime_ns=2001),
            saved(BASE),
            Action.METADATA,
            Action.RECHECK,
            id="mode",
        ),
        pytest.param(
            seen(b"d/f", mode=0o104644, ctime_ns=2001),
            saved(BASE),
            Action.METADATA,
            Action.RECHECK,
            id="set-user-id bit",
        ),
        pytest.param(
            seen(b"d/f", uid=9, ctime_ns=2001), saved(BASE), Action.METADATA, Action.RECHECK, id="owner"
        ),
        pytest.param(
            seen(b"d/f", gid=9, ctime_ns=2001), saved(BASE), Action.METADATA, Action.RECHECK, id="group"
        ),
        pytest.param(
            seen(b"d/f", nlink=2, ctime_ns=2001), saved(BASE), Action.METADATA, Action.RECHECK, id="links"
        ),
        pytest.param(
            BASE, saved(BASE, uid=9), Action.METADATA, Action.RECHECK, id="owner but for once not the ctime"
        ),
        pytest.param(
            seen(b"d/f", ctime_ns=2001), saved(BASE), Action.RECHECK, Action.RECHECK, id="ctime, unexplained"
        ),
        pytest.param(BASE, saved(BASE, ctime_ns=0), Action.RECHECK, Action.RECHECK, id="ctime unknown"),
        pytest.param(
            BASE,
            saved(BASE, ctime_ns=0, nlink=0),
            Action.RECHECK,
            Action.RECHECK,
            id="ctime and links unknown, as after a rebuild from objects",
        ),
        pytest.param(BASE, saved(BASE), None, Action.RECHECK, id="nothing"),
        pytest.param(
            seen(b"d/f", ino=12345), saved(BASE), None, Action.RECHECK, id="the inode number is not compared"
        ),
        pytest.param(
            seen(b"d/f", mtime_ns=BEYOND, ctime_ns=BEYOND + 1),
            saved(seen(b"d/f", mtime_ns=BEYOND, ctime_ns=BEYOND + 1)),
            None,
            Action.RECHECK,
            id="nothing, after the year 2554",
        ),
        pytest.param(
            seen(b"d/f", mtime_ns=-1),
            saved(seen(b"d/f", mtime_ns=-1)),
            None,
            Action.RECHECK,
            id="before 1970",
        ),
        pytest.param(
            seen(b"d/f", size=0), saved(seen(b"d/f", size=0)), None, Action.RECHECK, id="nothing of nothing"
        ),
    ],
)
async def test_regular_files(
    now: SourceEntry, row: Entry | None, usual: Action | None, with_checksum: Action
) -> None:
    _, change = await decide(now, row)
    assert (change.action if change else None) == usual
    _, change = await decide(now, row, checksum=True)
    assert change is not None
    assert change.action == with_checksum
    assert change.known == row


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize(
    ("now", "row", "action"),
    [
        pytest.param(seen(b"x", FOLDER), None, Action.UPLOAD, id="new folder"),
        pytest.param(seen(b"x", FOLDER), saved(seen(b"x", FOLDER)), None, id="same folder"),
        pytest.param(
            seen(b"x", FOLDER, mtime_ns=9, ctime_ns=9),
            saved(seen(b"x", FOLDER)),
            Action.METADATA,
            id="folder with new children",
        ),
        pytest.param(
            seen(b"x", 0o040700, ctime_ns=9), saved(seen(b"x", FOLDER)), Action.METADATA, id="folder chmod"
        ),
        pytest.param(
            seen(b"x", FOLDER, ctime_ns=9), saved(seen(b"x", FOLDER)), Action.METADATA, id="folder xattr"
        ),
        pytest.param(
            seen(b"x", FOLDER, nlink=7), saved(seen(b"x", FOLDER)), None, id="a folder's links do not count"
        ),
        pytest.param(seen(b"x", LINK), None, Action.UPLOAD, id="new symlink"),
        pytest.param(seen(b"x", LINK), saved(seen(b"x", LINK)), None, id="same symlink"),
        pytest.param(
            seen(b"x", LINK, mtime_ns=9, ctime_ns=9),
            saved(seen(b"x", LINK)),
            Action.UPLOAD,
            id="symlink made anew",
        ),
        pytest.param(
            seen(b"x", LINK, ctime_ns=9), saved(seen(b"x", LINK)), Action.UPLOAD, id="symlink's owner"
        ),
    ],
)
async def test_folders_and_symlinks(
    now: SourceEntry, row: Entry | None, action: Action | None, checksum: bool
) -> None:
    _, change = await decide(now, row, checksum=checksum)
    assert (change.action if change else None) == action


@pytest.mark.parametrize(("before", "now"), list(itertools.permutations([FILE, FOLDER, LINK], 2)))
async def test_another_kind_is_uploaded_and_what_lay_below_is_buried_first(before: int, now: int) -> None:
    detection, change = await decide(seen(b"d/x", now), saved(seen(b"d/x", before)))
    assert change is not None
    assert (change.action, change.pending) == (Action.UPLOAD, Pending.CHANGED)
    buried = [outcome for outcome in detection.outcomes if isinstance(outcome, Buried)]
    assert buried == ([Buried(path=b"d/x", subtree=True)] if before == FOLDER else [])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Pending.COMMITTED, Pending.CHANGED),
        (Pending.NEW, Pending.NEW),
        (Pending.CHANGED, Pending.CHANGED),
        (Pending.DELETED, Pending.CHANGED),
    ],
)
async def test_how_a_change_stands_to_the_last_snapshot(row: Pending, expected: Pending) -> None:
    """Also if an interrupted run has saved another state in between."""
    _, change = await decide(seen(b"d/f", size=8), saved(BASE), pending=row)
    assert change is not None
    assert (change.pending, change.known_pending) == (expected, row)
    _, change = await decide(BASE, None)
    assert change is not None
    assert change.pending is Pending.NEW


@pytest.mark.parametrize(
    ("row", "figures"),
    [
        (Pending.COMMITTED, (0, 0, 1)),
        (Pending.NEW, (1, 0, 0)),
        (Pending.CHANGED, (0, 1, 0)),
        (Pending.DELETED, (0, 0, 1)),
    ],
)
async def test_what_an_interrupted_run_saved_is_news_all_the_same(
    row: Pending, figures: tuple[int, int, int]
) -> None:
    detection, change = await decide(BASE, saved(BASE), pending=row)
    counters = detection.counters
    assert change is None
    assert (counters.files_new, counters.files_changed, counters.files_unchanged) == figures
    assert (counters.files_scanned, counters.bytes_scanned, counters.bytes_unchanged) == (1, 7, 7)
    revived = [Revived(path=b"d/f")] if row is Pending.DELETED else []
    assert detection.outcomes == revived


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("now", [BASE, seen(b"d/f", ctime_ns=2001), seen(b"d/f", size=8)])
async def test_an_entry_believed_gone_that_is_there_is_not_lost_if_it_cannot_be_read(
    now: SourceEntry, checksum: bool
) -> None:
    """Its tombstone goes whatever becomes of reading it: as with any file that fails, the earlier
    version stays in the snapshot."""
    detection, _ = await decide(now, saved(BASE), pending=Pending.DELETED, checksum=checksum)
    assert detection.outcomes == [Revived(path=b"d/f")]


async def test_a_tombstone_of_another_kind_stays_buried() -> None:
    detection, change = await decide(BASE, saved(seen(b"d/f", FOLDER)), pending=Pending.DELETED)
    assert change is not None
    assert Revived(path=b"d/f") not in detection.outcomes


async def test_what_the_rows_have_and_the_listing_lacks_is_deleted() -> None:
    detection = Detection()
    for path, mode in ((b"d/a", FILE), (b"d/b", FOLDER), (b"d/c", LINK), (b"d/k", FILE)):
        detection.entries.add(saved(seen(path, mode)))
    detection.entries.add(saved(seen(b"d/dead")), Pending.DELETED)
    detection.entries.add(saved(seen(b"e/other")))
    await detection.run(listing(folder(b"d", seen(b"d/k"))))
    assert detection.changes == {}
    assert detection.outcomes == [
        Buried(path=b"d/a", subtree=False),
        Buried(path=b"d/b", subtree=True),
        Buried(path=b"d/c", subtree=False),
    ]


async def test_an_empty_listing_deletes_all_of_its_folder() -> None:
    detection = Detection()
    detection.entries.add(saved(seen(b"d/a")))
    await detection.run(listing(folder(b"d")))
    assert detection.outcomes == [Buried(path=b"d/a", subtree=False)]


async def test_deletions_at_the_borders_of_chunks_are_found_once() -> None:
    detection = Detection()
    for name in (b"a", b"b", b"b0", b"c", b"d", b"e", b"z"):
        detection.entries.add(saved(seen(b"f/" + name)))
    # The listing had b and d as last names of their chunks; b0 and z and a and d are gone.
    await detection.run(
        listing(folder(b"f", seen(b"f/b"), upto=b"b")),
        listing(folder(b"f", seen(b"f/c"), after=b"b", upto=b"d")),
        listing(folder(b"f", seen(b"f/e"), after=b"d")),
    )
    assert detection.changes == {}
    assert detection.outcomes == [
        Buried(path=b"f/a", subtree=False),
        Buried(path=b"f/b0", subtree=False),
        Buried(path=b"f/d", subtree=False),
        Buried(path=b"f/z", subtree=False),
    ]


@pytest.mark.parametrize("page", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("bounds", [(None, None), (None, b"y"), (b"a", None)])
async def test_rows_far_more_than_the_listing_has_are_compared_in_pages(
    monkeypatch: pytest.MonkeyPatch, page: int, bounds: tuple[bytes | None, bytes | None]
) -> None:
    """Of a folder that held a million files and has three by now, never more than a page is in memory."""
    monkeypatch.setattr(detector_module, "MAX_ROWS", page)
    detection = Detection()
    for name in b"bcdfhjm":
        detection.entries.add(saved(seen(b"f/%c" % name)))
    after, upto = bounds
    here = [seen(b"f/%c" % name) for name in b"dhx"]
    await detection.run(listing(folder(b"f", *here, after=after, upto=upto, unknown=(b"b", b"e", b"j"))))
    assert set(detection.changes) == {b"f/x"}
    assert detection.outcomes == [Buried(path=path, subtree=False) for path in (b"f/c", b"f/f", b"f/m")]
    assert detection.counters.files_unchanged == 2
    assert detection.entries.most_rows <= page + 1


async def test_the_root_is_compared_apart_from_its_children() -> None:
    detection = Detection()
    root = seen(b"", FOLDER)
    detection.entries.add(saved(root))
    detection.entries.add(saved(seen(b"gone")))
    await detection.run(listing(folder(b"", root, upto=b""), folder(b"", after=b"")))
    assert detection.changes == {}
    assert detection.outcomes == [Buried(path=b"gone", subtree=False)]
    assert detection.counters.folders == 1


async def test_unknown_names_are_neither_changed_nor_deleted_but_failed() -> None:
    detection = Detection()
    for name in (b"d/file", b"d/folder", b"d/gone"):
        detection.entries.add(saved(seen(name)))
    failures = [
        Failure(path=b"d/file", reason="cannot stat"),
        Failure(path=b"d/folder", reason="cannot stat", kind=Kind.FOLDER),
    ]
    await detection.run(listing(folder(b"d", unknown=(b"file", b"folder")), unlisted=failures))
    assert detection.changes == {}
    assert detection.outcomes == [*failures, Buried(path=b"d/gone", subtree=False)]
    assert detection.counters.files_scanned == 1, "scanned = new + changed + unchanged + failed"


async def test_a_folder_that_could_not_be_listed_keeps_its_rows() -> None:
    detection = Detection()
    closed = seen(b"closed", FOLDER)
    detection.entries.add(saved(closed))
    detection.entries.add(saved(seen(b"closed/x")))
    failure = Failure(path=b"closed", reason="cannot list", kind=Kind.FOLDER)
    await detection.run(listing(folder(b"", closed, after=b""), unlisted=[failure]))
    assert detection.outcomes == [failure]
    assert detection.changes == {}
    assert detection.counters.files_scanned == 0


async def test_ignored_kinds_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    detection = Detection()
    detection.entries.add(saved(seen(b"d/pipe")))
    with caplog.at_level("INFO", logger="asyncbackup"):
        await detection.run(listing(folder(b"d"), special=[b"d/pipe", b"d/\x1b[31m"]))
    assert detection.counters.files_ignored == 2
    assert detection.outcomes == [Buried(path=b"d/pipe", subtree=False)], "it is no file any more"
    text = caplog.text
    assert "d/pipe" in text
    assert "\x1b" not in text


async def test_an_unchanged_tree_costs_one_query_for_many_folders() -> None:
    detection = Detection()
    chunks = []
    for number in range(500):
        entry = seen(b"%d/x" % number)
        detection.entries.add(saved(entry))
        chunks.append(folder(b"%d" % number, entry))
    await detection.run(listing(*chunks))
    assert detection.entries.queries == 1
    assert detection.batches == []
    assert detection.outcomes == []
    assert detection.counters.files_unchanged == 500


async def test_changes_come_in_bounded_batches_in_the_order_of_the_listing() -> None:
    entries = [seen(b"d/%04d" % number) for number in range(2 * CHANGES_PER_BATCH + 1)]
    detection = await Detection().run(listing(folder(b"d", *entries)))
    assert [len(batch) for batch in detection.batches] == [CHANGES_PER_BATCH, CHANGES_PER_BATCH, 1]
    assert [change.entry for batch in detection.batches for change in batch] == entries
    assert detection.counters.files_scanned == len(entries)
    assert detection.counters.files_new == 0, "counted once they are saved"


async def test_batches_of_very_deep_changes_are_smaller() -> None:
    detection = Detection()
    deep = b"d" * (PATH_BYTES_PER_BATCH // 10)
    await detection.run(listing(folder(deep, *(seen(deep + b"/%04d" % number) for number in range(25)))))
    assert [len(batch) for batch in detection.batches] == [11, 11, 3]


async def test_large_files_are_changes_for_several_readers() -> None:
    """Each batch is one reader's: neighbours that are large must not wait for each other."""
    large = [seen(b"d/%d" % number, size=CONTENT_BYTES_PER_BATCH) for number in range(3)]
    small = [seen(b"d/small %d" % number) for number in range(5)]
    detection = Detection()
    await detection.run(listing(folder(b"d", *large, *small)))
    assert [len(batch) for batch in detection.batches] == [1, 1, 1, 5]


async def test_large_files_that_are_not_read_are_one_batch() -> None:
    large = [seen(b"d/%d" % number, size=CONTENT_BYTES_PER_BATCH) for number in range(3)]
    detection = Detection()
    for entry in large:
        detection.entries.add(saved(entry, mode=0o100600))
    await detection.run(listing(folder(b"d", *large)))
    assert [len(batch) for batch in detection.batches] == [3]


async def test_moved_files_are_looked_for_where_something_was_saved() -> None:
    now = seen(b"d/new", ino=77)
    empty = await Detection().run(listing(folder(b"d", now)), find_moved=True)
    assert [change.action for change in empty.changes.values()] == [Action.UPLOAD]
    assert empty.entries.queries == 2, "whether there is anything, and the folder"
    detection = Detection()
    detection.entries.add(saved(now, path=b"d/old", dev=now.dev, ino=now.ino))
    await detection.run(listing(folder(b"d", now)), find_moved=True)
    assert [change.action for change in detection.changes.values()] == [Action.MOVED]


async def test_further_names_of_an_inode_are_set_aside() -> None:
    detection = Detection()
    one = [seen(name, nlink=3, ino=7) for name in (b"d/a", b"d/b", b"e/c")]
    alone = seen(b"d/z", nlink=2, ino=8)
    await detection.run(listing(folder(b"d", one[0], one[1], alone)), listing(folder(b"e", one[2])))
    assert set(detection.changes) == {b"d/a", b"d/z"}
    assert detection.links.deferred == [(b"d/b", Pending.NEW, b"d/a"), (b"e/c", Pending.NEW, b"d/a")]


async def test_linked_symlinks_and_folders_are_not_set_aside() -> None:
    detection = Detection()
    links = [seen(name, LINK, nlink=2, ino=7) for name in (b"d/a", b"d/b")]
    folders = [seen(name, FOLDER, nlink=5, ino=8 + number) for number, name in enumerate((b"d/c", b"d/e"))]
    await detection.run(listing(folder(b"d", *links, *folders)))
    assert len(detection.changes) == 4
    assert detection.links.deferred == []


async def test_a_name_whose_metadata_alone_changed_waits_for_nobody() -> None:
    detection = Detection()
    old, new = (seen(name, nlink=2, ino=7, ctime_ns=2001) for name in (b"d/old", b"d/new"))
    detection.entries.add(saved(seen(b"d/old", ino=7)))
    await detection.run(listing(folder(b"d", new, old)))
    assert {path: change.action for path, change in detection.changes.items()} == {
        b"d/new": Action.UPLOAD,
        b"d/old": Action.METADATA,
    }


async def test_unchanged_names_claim_nothing() -> None:
    detection = Detection()
    old = seen(b"d/a", nlink=2, ino=7)
    detection.entries.add(saved(old))
    await detection.run(listing(folder(b"d", old, seen(b"d/b", nlink=2, ino=7))))
    assert set(detection.changes) == {b"d/b"}


async def test_a_failing_detector_ends_nothing() -> None:
    """Its channels stay open, so that nobody downstream takes the failure for the end."""

    class Broken(MemoryEntries):
        async def stats_of_folders(
            self, folders: object, *, limit: int
        ) -> list[tuple[int | str | bytes | None, ...]]:
            raise ZeroDivisionError

    detection = Detection()
    detection.entries = Broken()
    with pytest.raises(ZeroDivisionError):
        await detection.run(listing(folder(b"d", BASE)))


@pytest.mark.parametrize("kind", [FILE, FOLDER, LINK], ids=["file", "folder", "symlink"])
async def test_what_was_marked_is_saved_again_whatever_its_stat_says(kind: int) -> None:
    """And nothing is taken over from its row, of which the content is damaged."""
    now = seen(b"d/f", kind)
    marked = saved(now, ctime_ns=SAVE_AGAIN_NS)
    for checksum in (False, True):
        _, change = await decide(now, marked, checksum=checksum)
        assert change == Change(entry=now, action=Action.UPLOAD, pending=Pending.CHANGED)
    # A change of mode alone is no reason to keep what is damaged.
    _, change = await decide(msgspec.structs.replace(now, mode=kind & ~0o4), marked)
    assert change is not None
    assert (change.action, change.known) == (Action.UPLOAD, None)


async def test_a_folder_with_the_digest_that_is_known_is_not_asked_for_row_by_row() -> None:
    detection = Detection()
    same, other = folder(b"f", seen(b"f/a"), seen(b"f/l", LINK)), folder(b"g", seen(b"g/a", size=100))
    for entry in (seen(b"f/a"), seen(b"f/l", LINK), seen(b"g/a")):
        detection.entries.add(saved(entry))
    detection.listings.noted = {b"f": same.digest(), b"g": same.digest()}
    await detection.run(listing(same))
    assert detection.entries.queries == 0
    counters = detection.counters
    assert (counters.files_scanned, counters.files_unchanged, counters.symlinks) == (1, 1, 1)
    assert (counters.bytes_scanned, counters.bytes_unchanged, counters.current_path) == (7, 7, b"f")
    await detection.run(listing(same, other))
    assert set(detection.changes) == {b"g/a"}


@pytest.mark.parametrize("how", ["checksum", "unknown", "part"])
async def test_where_a_folder_is_not_known_as_a_whole_its_digest_counts_for_nothing(how: str) -> None:
    detection = Detection()
    seen_now = folder(
        b"f", seen(b"f/a"), unknown=(b"b",) if how == "unknown" else (), upto=b"a" if how == "part" else None
    )
    for name in (b"a", b"b", b"c"):
        detection.entries.add(saved(seen(b"f/" + name)))
    detection.listings.noted = {b"f": seen_now.digest()}
    await detection.run(listing(seen_now), checksum=how == "checksum")
    buried = [outcome.path for outcome in detection.outcomes if isinstance(outcome, Buried)]
    assert buried == {"checksum": [b"f/b", b"f/c"], "unknown": [b"f/c"], "part": []}[how]
    assert set(detection.changes) == ({b"f/a"} if how == "checksum" else set())


async def test_folders_found_to_be_as_saved_are_noted_and_no_others() -> None:
    detection = Detection()
    whole = [folder(b"f%d" % number, seen(b"f%d/a" % number)) for number in range(3)]
    part = folder(b"p", seen(b"p/a"), upto=b"a")
    blind = folder(b"u", seen(b"u/a"), unknown=(b"b",))
    changed = folder(b"c", seen(b"c/a", size=100), seen(b"c/b"))
    empty = folder(b"e")
    for path in (b"f0/a", b"f1/a", b"f2/a", b"p/a", b"u/a", b"c/a", b"c/b"):
        detection.entries.add(saved(seen(path)))
    expected = {chunk.folder: chunk.digest() for chunk in whole}
    await detection.run(listing(whole[0], whole[1], empty), checksum=True)
    assert detection.listings.noted == {}
    # All of a batch as it was, and then among others that are not.
    await detection.run(listing(whole[0], whole[1], empty), listing(whole[2], part, blind, changed))
    assert detection.listings.noted == expected
    assert set(detection.changes) == {b"c/a"}


async def test_of_a_folder_compared_in_pages_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_module, "MAX_ROWS", 3)
    detection = Detection()
    for name in b"bcdfh":
        detection.entries.add(saved(seen(b"f/%c" % name)))
    # The last page has nothing but what the listing has.
    await detection.run(listing(folder(b"f", seen(b"f/f"), seen(b"f/h"))))
    assert len(detection.outcomes) == 3
    assert detection.listings.noted == {}
