"""What a rebuild from manifests says of contents and packs: those of every snapshot, each once."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog, CatalogIdentity
from asyncbackup.catalog.replace import replacing
from asyncbackup.format.keys import forgotten_key, snapshot_key
from asyncbackup.format.manifest import ManifestTrailer, ManifestWriter
from asyncbackup.model import EMPTY_SHA256, Entry, Extent, Kind, Pack, Pending, RunId, split_path
from asyncbackup.rebuild.section import rebuild_section
from tests.pipeline.repository_fixtures import FIRST, SECOND, THIRD, header_of, repository_at, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.repository.open import Repository

Case = tuple["Settings", "SectionSettings"]


def packed(tmp_path: Path, *, is_packed: bool = True, encrypted: bool = False) -> Case:
    (tmp_path / "store").mkdir(exist_ok=True)
    settings, section = settings_for(tmp_path, f"file://{tmp_path}/store", encrypted=encrypted)
    return settings, msgspec.structs.replace(section, packed=is_packed)


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def entry(path: bytes, content: bytes, extent: Extent) -> Entry:
    if not extent.in_pack and not extent.encrypted:
        extent = msgspec.structs.replace(extent, length=len(content))
    return Entry(
        path=path, kind=Kind.FILE, mode=0o100644, size=len(content), sha256=digest(content), extent=extent
    )


def member(run: str, offset: int, *, number: int = 1) -> Extent:
    return Extent(run, f"packs/{number:06d}.tar.zst", 100, offset=offset, compression="zstd", skip=512)


def pack(run: str, *, number: int = 1) -> Pack:
    return Pack(run, f"packs/{number:06d}.tar.zst", 4096, "sum", compression="zstd")


async def write(
    repository: Repository,
    run: RunId,
    entries: Iterable[Entry],
    *,
    base: str | None = None,
    depth: int = 0,
    deleted: Iterable[bytes] = (),
    packs: Iterable[Pack] = (),
    totals: tuple[int, int] = (0, 0),
) -> None:
    """The manifest of a snapshot; ``totals`` are the files and bytes of a difference."""
    header = msgspec.structs.replace(header_of(repository, run), base=base, depth=depth)
    writer = ManifestWriter(header)
    body = writer.add(sorted(entries, key=lambda entry: split_path(entry.path)))
    if base is not None:
        body += writer.add_deleted(deleted)
    body += writer.add_packs(packs)
    body += writer.finish(ManifestTrailer(finished_ns=1, files=totals[0], bytes=totals[1]))
    await repository.store.put(snapshot_key("home", run), body, sha256=digest(body))


def rows(case: Case, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(case[0].database_path("home"))) as connection:
        return list(connection.execute(sql))


def contents(case: Case) -> dict[bytes, tuple[object, ...]]:
    """Digest → run, key, offset of the content's place."""
    found = rows(case, "SELECT sha256, extent_run, extent_key, extent_offset FROM contents")
    return {row[0]: row[1:] for row in found if isinstance(row[0], bytes)}


async def two_snapshots(repository: Repository) -> None:
    """A full one, and a difference that replaces ``a`` and deletes ``b``."""
    await write(
        repository,
        FIRST,
        [entry(b"a", b"1", member(FIRST, 0)), entry(b"b", b"2", member(FIRST, 100, number=2))],
        packs=[pack(FIRST), pack(FIRST, number=2)],
    )
    await write(
        repository,
        SECOND,
        [entry(b"a", b"33", member(SECOND, 0))],
        base=FIRST,
        depth=1,
        deleted=[b"b"],
        packs=[pack(SECOND)],
        totals=(1, 2),
    )


async def test_the_contents_of_every_snapshot_are_known(tmp_path: Path) -> None:
    case = packed(tmp_path)
    async with repository_at(*case) as repository:
        await two_snapshots(repository)
    summary = await rebuild_section(*case)
    assert summary.files == 1
    assert contents(case) == {
        digest(b"1"): (FIRST, "packs/000001.tar.zst", 0),
        digest(b"2"): (FIRST, "packs/000002.tar.zst", 100),
        digest(b"33"): (SECOND, "packs/000001.tar.zst", 0),
    }
    assert rows(case, "SELECT * FROM contents WHERE extent_offset = 100") == [
        (digest(b"2"), 1, FIRST, "packs/000002.tar.zst", 100, 100, "", 0, 0, "zstd", 512)
    ]
    assert rows(case, "SELECT * FROM packs ORDER BY run, key") == [
        (FIRST, "packs/000001.tar.zst", 4096, "sum", 0, "zstd"),
        (FIRST, "packs/000002.tar.zst", 4096, "sum", 0, "zstd"),
        (SECOND, "packs/000001.tar.zst", 4096, "sum", 0, "zstd"),
    ]


async def test_a_difference_can_rest_on_what_was_rebuilt(tmp_path: Path) -> None:
    case = packed(tmp_path)
    async with repository_at(*case) as repository:
        await two_snapshots(repository)
    await rebuild_section(*case)
    assert rows(case, "SELECT run, depth, number FROM runs ORDER BY run") == [(FIRST, 0, 0), (SECOND, 1, 0)]
    assert rows(case, "SELECT * FROM touched") == []


async def test_the_totals_of_the_tree_are_counted_and_kept_up_again(tmp_path: Path) -> None:
    case = packed(tmp_path)
    async with repository_at(*case) as repository:
        root = Entry(path=b"", kind=Kind.FOLDER, mode=0o040755)
        link = Entry(path=b"l", kind=Kind.SYMLINK, mode=0o120777, size=1, target=b"a")
        await write(
            repository, FIRST, [root, link, entry(b"a", b"333", member(FIRST, 0))], packs=[pack(FIRST)]
        )
    for _ in range(2):
        await rebuild_section(*case)
        assert rows(case, "SELECT * FROM totals ORDER BY kind") == [
            (16384, 1, 0),
            (32768, 1, 3),
            (40960, 1, 1),
        ]
    settings, section = case
    async with Catalog.open(
        settings.database_path("home"), section="home", destination=section.destination
    ) as catalog:
        await catalog.entries.save([(entry(b"b", b"4444", member(FIRST, 0)), Pending.NEW)])
        totals = await catalog.history.totals()
    assert (totals.files, totals.folders, totals.symlinks, totals.bytes) == (2, 1, 1, 7)


async def test_every_manifest_is_read_once_beside_the_newest(tmp_path: Path) -> None:
    case = packed(tmp_path)
    async with repository_at(*case) as repository:
        await two_snapshots(repository)
        third = [entry(b"c", b"4", member(THIRD, 0)), entry(b"a", b"33", member(SECOND, 0))]
        await write(repository, THIRD, third, packs=[pack(SECOND), pack(THIRD)])
    summary = await rebuild_section(*case)
    # The descriptor and the three manifests.
    assert summary.requests["GetObject"] == 4
    assert len(contents(case)) == 4


async def test_what_only_a_forgotten_snapshot_had_is_not_claimed(tmp_path: Path) -> None:
    case = packed(tmp_path)
    async with repository_at(*case) as repository:
        await two_snapshots(repository)
        kept = [entry(b"c", b"4", member(THIRD, 0))]
        await write(repository, THIRD, kept, base=SECOND, depth=2, packs=[pack(THIRD)], totals=(2, 3))
        await repository.store.put(forgotten_key("home", FIRST), b"", sha256=EMPTY_SHA256)
    await rebuild_section(*case)
    assert contents(case).keys() == {digest(b"33"), digest(b"4")}
    # Its packs are described in the manifest that the others rest on, and a prune may have deleted them.
    assert rows(case, "SELECT run FROM packs ORDER BY run") == [(SECOND,), (THIRD,)]


async def test_of_a_snapshot_above_a_forgotten_one_the_whole_is_known(tmp_path: Path) -> None:
    case = packed(tmp_path)
    async with repository_at(*case) as repository:
        await write(
            repository,
            FIRST,
            [entry(b"a", b"1", member(FIRST, 0)), entry(b"b", b"2", member(FIRST, 100))],
            packs=[pack(FIRST)],
        )
        changed = [entry(b"a", b"33", member(SECOND, 0))]
        await write(repository, SECOND, changed, base=FIRST, depth=1, packs=[pack(SECOND)], totals=(2, 3))
        await write(repository, THIRD, [entry(b"c", b"4", member(THIRD, 0))], packs=[pack(THIRD)])
        await repository.store.put(forgotten_key("home", FIRST), b"", sha256=EMPTY_SHA256)
    await rebuild_section(*case)
    assert contents(case).keys() == {digest(b"2"), digest(b"33"), digest(b"4")}


async def test_a_mirror_pays_nothing(tmp_path: Path) -> None:
    case = packed(tmp_path, is_packed=False)
    async with repository_at(*case) as repository:
        for run, content in ((FIRST, b"1"), (SECOND, b"2")):
            await write(repository, run, [entry(b"a", content, Extent(run, "files/a", 1))])
    summary = await rebuild_section(*case)
    assert summary.requests["GetObject"] == 2
    assert contents(case) == {}


async def test_a_section_that_was_packed_once_keeps_its_contents(tmp_path: Path) -> None:
    case = packed(tmp_path, is_packed=False)
    async with repository_at(*case) as repository:
        await two_snapshots(repository)
    await rebuild_section(*case)
    assert len(contents(case)) == 3


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_of_two_places_the_one_stored_as_today_counts(tmp_path: Path, encrypted: bool) -> None:
    case = packed(tmp_path, encrypted=encrypted)
    plain = Extent(FIRST, "files/a", 1)
    sealed = Extent(FIRST, "files/b", 89, encrypted=True)
    newest, other = (plain, sealed) if encrypted else (sealed, plain)
    identity = CatalogIdentity("home", "file:///somewhere", "0" * 32)
    async with (
        Catalog.create(case[0].database_path("home"), identity) as catalog,
        replacing(catalog, sealed=encrypted) as new,
    ):
        await new.add_entries([entry(b"a", b"1", newest)])
        await new.add_contents_of_entries()
        await new.add_contents([entry(b"z", b"1", other), entry(b"y", b"1", newest)])
    assert contents(case) == {digest(b"1"): (FIRST, other.key, 0)}


async def test_of_an_unreadable_snapshot_nothing_is_taken(tmp_path: Path) -> None:
    case = packed(tmp_path)
    async with repository_at(*case) as repository:
        many = [entry(b"%03d" % n, b"x%d" % n, member(FIRST, n)) for n in range(500)]
        await write(repository, FIRST, many, packs=[pack(FIRST)])
        await write(repository, SECOND, [entry(b"a", b"1", member(SECOND, 0))], packs=[pack(SECOND)])
    path = tmp_path / "store" / snapshot_key("home", FIRST)
    os.truncate(path, path.stat().st_size - 3)
    summary = await rebuild_section(*case)
    assert (summary.snapshot, summary.snapshots) == (SECOND, 2)
    assert any(FIRST in note and "passed over" in note for note in summary.notes)
    assert contents(case).keys() == {digest(b"1")}
    assert rows(case, "SELECT run FROM packs") == [(SECOND,)]
