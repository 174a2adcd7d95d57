"""Entries as a selection stores them."""

from __future__ import annotations

import msgspec
import pytest

from asyncbackup.catalog.selection_rows import entry_of_stored, packed_extent, stored_entry
from asyncbackup.errors import CatalogError
from asyncbackup.model import Entry, Extent
from tests.unit.restore.backup import file_entry, folder_entry, symlink_entry

RUN = "20260921T141320Z-da77"
IN_PACK = Extent(RUN, "packs/000001.tar.zst", 700, 512, encrypted=True, compression="zstd", skip=1536)


@pytest.mark.parametrize(
    "entry",
    [
        folder_entry("", nlink=3),
        symlink_entry("l", "t", hardlink="1:2"),
        file_entry(
            "f", size=2**62, mtime_ns=-1, sparse=True, sha256=b"s" * 32, xattrs=((b"user.x", b"\0\xff"),)
        ),
        file_entry("f", mtime_ns=2**80, extent=IN_PACK),
        file_entry("f", mtime_ns=-(2**80), extent=Extent(RUN, "files/f", 5)),
    ],
)
def test_what_restore_needs_comes_back(entry: Entry) -> None:
    assert entry_of_stored(stored_entry(entry)) == entry


def test_what_restore_does_not_need_is_left_out() -> None:
    entry = file_entry("f", extent=msgspec.structs.replace(IN_PACK, checksum="c", part_size=5))
    more = msgspec.structs.replace(entry, owner="\udcff", group="g", ctime_ns=7, dev=1, ino=2)
    assert entry_of_stored(stored_entry(more)) == msgspec.structs.replace(entry, extent=IN_PACK)


def test_only_files_with_content_lie_in_packs() -> None:
    assert packed_extent(file_entry("f", size=1, extent=IN_PACK)) == IN_PACK
    assert packed_extent(file_entry("f", size=0, extent=IN_PACK)) is None
    assert packed_extent(folder_entry("f", size=1, extent=IN_PACK)) is None
    assert packed_extent(file_entry("f", size=1, extent=Extent(RUN, "files/f", 1))) is None
    assert packed_extent(file_entry("f", size=1)) is None


@pytest.mark.parametrize(
    "body", [b"", b"\xff", msgspec.msgpack.encode([1, 2]), stored_entry(file_entry("f", mode=0))]
)
def test_damage_is_the_databases(body: bytes) -> None:
    with pytest.raises(CatalogError, match="the stored selection is damaged"):
        entry_of_stored(body)
