"""Manifests: the JSON Lines, zstd-compressed, that say what a snapshot holds.

See docs/format.md, "Manifests". Entries stand in the order of (folder, name),
compared as bytes: the root first, a parent always before its children, the
children of one folder together.
"""

from __future__ import annotations

from asyncbackup.format.manifest_entries import entry_fits
from asyncbackup.format.manifest_lines import (
    FORMAT,
    MAX_DEPTH,
    MAX_LINE_BYTES,
    Deleted,
    ManifestHeader,
    ManifestTrailer,
)
from asyncbackup.format.manifest_reader import Item, ManifestReader, TreeItem
from asyncbackup.format.manifest_writer import ManifestWriter

__all__ = [
    "FORMAT",
    "MAX_DEPTH",
    "MAX_LINE_BYTES",
    "Deleted",
    "Item",
    "ManifestHeader",
    "ManifestReader",
    "ManifestTrailer",
    "ManifestWriter",
    "TreeItem",
    "entry_fits",
]
