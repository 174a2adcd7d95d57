"""Made-up entries, and what a catalog holds of them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from asyncbackup.catalog.catalog import Catalog, CatalogIdentity
from asyncbackup.catalog.rows import PENDING, entry_of_row
from asyncbackup.model import Entry, Extent, Kind, Pending

IDENTITY = CatalogIdentity("home", "file:///mnt/backups", "0123456789abcdef0123456789abcdef")
RUN = "20261122T195000Z-3fa2"

_TYPES = {Kind.FILE: 0o100644, Kind.FOLDER: 0o040755, Kind.SYMLINK: 0o120777}


def entry(path: bytes, kind: Kind = Kind.FILE, *, mtime_ns: int = 5, ctime_ns: int = 6) -> Entry:
    """An entry with its content in ``RUN``."""
    return Entry(
        path=path,
        kind=kind,
        mode=_TYPES[kind],
        size=len(path) if kind is Kind.FILE else 0,
        mtime_ns=mtime_ns,
        ctime_ns=ctime_ns,
        sha256=hashlib.sha256(path).digest() if kind is Kind.FILE else b"",
        target=b"somewhere" if kind is Kind.SYMLINK else b"",
        extent=Extent(run=RUN, key="files/" + path.hex(), length=len(path)),
    )


async def fill(catalog: Catalog, *paths: bytes, pending: Pending = Pending.COMMITTED) -> None:
    """Save files at these paths; a path that ends in a slash is a folder."""
    await catalog.entries.save(
        (entry(path.rstrip(b"/"), Kind.FOLDER if path.endswith(b"/") or not path else Kind.FILE), pending)
        for path in paths
    )


async def in_order(catalog: Catalog) -> AsyncIterator[list[Entry]]:
    """Every entry that is not deleted, in the order of a manifest, in the catalog's pages."""
    async for rows in catalog.entries.rows_in_order():
        yield [entry_of_row(row) for row in rows]


async def pending_of(catalog: Catalog) -> dict[bytes, Pending]:
    """Every row's path and mark, tombstones among them, in the order of the table."""
    rows = [
        row
        async for page in catalog.entries.pages("SELECT * FROM entries ORDER BY folder, name")
        for row in page
    ]
    return {entry_of_row(row).path: Pending(int(str(row[PENDING]))) for row in rows}
