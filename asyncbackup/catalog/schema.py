"""The tables of a section's database.

``entries`` is the tree as it was last saved, with the rows that the run under
way has added marked by ``pending`` (see :class:`asyncbackup.model.Pending`).
Its key is (folder, name), so that a folder's rows lie together and a scan in
key order gives the order of a manifest.

``dev`` and ``ino`` find a moved file again; they are 0 where nobody will ask.

``contents`` says where each content lies that the section's snapshots hold,
also those that are no longer in the tree; ``packs`` describes the packs.
``touched`` are the paths that changed since the last full manifest, with the
``number`` of the snapshot (counted from that manifest) that changed them last.
``totals`` is what the entries that are not deleted add up to, by the type bits
of their modes; triggers keep it, so that no run has to count the whole tree.

``listings`` has for some folders the digest of the listing that its rows would
make if none was pending; triggers take it away with the first change of a row.
It came after the first databases of this version, which get it when opened.

``part_hashes`` has the digests of the parts of large plain objects, 32 bytes a
part, as long as an entry refers to the object. (A blob of up to 320,000 bytes
is why it has row ids.)

Columns for times have no declared type: nanoseconds beyond the year 2262 do
not fit SQLite's 64-bit integer and are kept as text, which a typed column
would turn into a rounded float.
"""

from __future__ import annotations

APPLICATION_ID = 0x41424B50  # "ABKP": lets file(1) and us tell this database from any other
SCHEMA_VERSION = 2

TABLES = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE entries (
    folder BLOB NOT NULL,
    name BLOB NOT NULL,
    pending INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns NOT NULL,
    ctime_ns NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    nlink INTEGER NOT NULL,
    owner TEXT NOT NULL,
    group_name TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    target BLOB NOT NULL,
    hardlink TEXT NOT NULL,
    sparse INTEGER NOT NULL,
    xattrs BLOB,
    extent_run TEXT,
    extent_key TEXT,
    extent_offset INTEGER,
    extent_length INTEGER,
    extent_checksum TEXT,
    extent_part_size INTEGER,
    extent_encrypted INTEGER,
    extent_compression TEXT,
    extent_skip INTEGER,
    dev INTEGER NOT NULL,
    ino INTEGER NOT NULL,
    PRIMARY KEY (folder, name)
) WITHOUT ROWID;

CREATE INDEX entries_ino ON entries (ino) WHERE ino != 0;

CREATE INDEX entries_parts ON entries (extent_run, extent_key) WHERE extent_part_size > 0;

CREATE TABLE contents (
    sha256 BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    extent_run TEXT NOT NULL,
    extent_key TEXT NOT NULL,
    extent_offset INTEGER NOT NULL,
    extent_length INTEGER NOT NULL,
    extent_checksum TEXT NOT NULL,
    extent_part_size INTEGER NOT NULL,
    extent_encrypted INTEGER NOT NULL,
    extent_compression TEXT NOT NULL,
    extent_skip INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX contents_size ON contents (size) WHERE size >= 65536;

CREATE TABLE packs (
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    size INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    encrypted INTEGER NOT NULL,
    compression TEXT NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;

CREATE TABLE touched (
    folder BLOB NOT NULL,
    name BLOB NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (folder, name)
) WITHOUT ROWID;

CREATE TABLE totals (
    kind INTEGER PRIMARY KEY,
    entries INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);

INSERT INTO totals VALUES (32768, 0, 0), (16384, 0, 0), (40960, 0, 0);

CREATE TABLE runs (
    run TEXT PRIMARY KEY,
    started_ns INTEGER NOT NULL,
    finished_ns INTEGER,
    committed INTEGER NOT NULL DEFAULT 0,
    depth INTEGER NOT NULL DEFAULT 0,
    number INTEGER NOT NULL DEFAULT 0,
    summary BLOB
) WITHOUT ROWID;

CREATE INDEX runs_number ON runs (number) WHERE committed = 1;

CREATE TABLE uploads (
    folder BLOB NOT NULL,
    name BLOB NOT NULL,
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    upload_id TEXT PRIMARY KEY,
    part_size INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns NOT NULL,
    ctime_ns NOT NULL
) WITHOUT ROWID;

CREATE TABLE parts (
    upload_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    PRIMARY KEY (upload_id, number)
) WITHOUT ROWID;

CREATE TABLE part_hashes (
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    part_size INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (run, key)
);

CREATE TABLE inodes (
    label TEXT PRIMARY KEY,
    path BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE links (
    path BLOB PRIMARY KEY,
    entry BLOB NOT NULL,
    pending INTEGER NOT NULL,
    first BLOB NOT NULL
) WITHOUT ROWID;

CREATE INDEX links_first ON links (first, path);
"""

PENDING_INDEX = "CREATE INDEX entries_pending ON entries (pending) WHERE pending != 0"

LISTINGS = """
CREATE TABLE listings (
    folder BLOB PRIMARY KEY,
    digest BLOB NOT NULL
) WITHOUT ROWID
"""

_COUNTED = "{0}.pending IN (0, 2)"
_ADD = "UPDATE totals SET entries = entries + 1, bytes = bytes + NEW.size WHERE kind = NEW.mode & 61440;"
_SUBTRACT = "UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.size WHERE kind = OLD.mode & 61440;"
_OLD, _NEW = _COUNTED.format("OLD"), _COUNTED.format("NEW")
_TOTALS_CHANGED = (
    "CREATE TRIGGER entries_changed AFTER UPDATE OF pending, mode, size ON entries "
    f"WHEN ({_OLD}) != ({_NEW}) OR ({_NEW} AND (OLD.mode != NEW.mode OR OLD.size != NEW.size)) BEGIN "
    f"{_SUBTRACT[:-1]} AND {_OLD}; {_ADD[:-1]} AND {_NEW}; END"
)
TOTALS_TRIGGERS = (
    f"CREATE TRIGGER entries_added AFTER INSERT ON entries WHEN {_NEW} BEGIN {_ADD} END",
    f"CREATE TRIGGER entries_removed AFTER DELETE ON entries WHEN {_OLD} BEGIN {_SUBTRACT} END",
    _TOTALS_CHANGED,
)
"""What keeps ``totals``, which count neither what is new since the last snapshot (that is cheaper to count
once than with every row) nor what is deleted. They need ``PRAGMA recursive_triggers``, or the rows that an
INSERT OR REPLACE replaces would not be subtracted."""

_FORGET = "BEGIN DELETE FROM listings WHERE folder = {0}.folder; END"
_LISTING_BURIED = (
    "CREATE TRIGGER listings_buried AFTER UPDATE OF pending ON entries "
    f"WHEN (OLD.pending = 3) != (NEW.pending = 3) {_FORGET.format('OLD')}"
)
LISTINGS_TRIGGERS = (
    f"CREATE TRIGGER listings_added AFTER INSERT ON entries {_FORGET.format('NEW')}",
    f"CREATE TRIGGER listings_removed AFTER DELETE ON entries WHEN OLD.pending != 3 {_FORGET.format('OLD')}",
    "CREATE TRIGGER listings_changed AFTER UPDATE OF folder, name, mode, size, mtime_ns, ctime_ns, uid, gid, "
    f"nlink ON entries {_FORGET.format('OLD')}",
    _LISTING_BURIED,
)
"""What forgets a digest of ``listings``: an entry that comes or goes, is buried or taken back, or is another
than it was. (One that is buried, 3, is no part of a listing: that its row goes changes nothing.) Again
``recursive_triggers`` tell them of rows that are replaced."""

TRIGGERS = (*TOTALS_TRIGGERS, *LISTINGS_TRIGGERS)
SETTLING_TRIGGERS = (_TOTALS_CHANGED, _LISTING_BURIED)
"""Taken away while a commit settles what is pending: it counts that in one step, and buries nothing more."""


def name_of_trigger(statement: str) -> str:
    """The name of the trigger that a statement creates."""
    return statement.split()[2]
