"""``verify --repair``: what is damaged and still in the tree is whole in the next snapshot."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.catalog.rows import SAVE_AGAIN_NS
from asyncbackup.errors import CatalogMissingError, SectionBusyError
from asyncbackup.format.keys import data_prefix, snapshot_key
from asyncbackup.model import Pending, RunId
from asyncbackup.repository.open import open_repository
from asyncbackup.verify.section import verify_section
from tests.pipeline.pack_fixtures import put_manifest, put_pack
from tests.workbench import Workbench, age, picture

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from asyncbackup.model import RunSummary
    from asyncbackup.verify.summary import Damage, VerifySummary


class Repair:
    """One ``verify --repair``: what it found, what the run did, and what it said is lost."""

    def __init__(self) -> None:
        self.runs: list[RunSummary] = []
        self.lost: list[Damage] = []
        self.summary: VerifySummary | None = None

    async def go(self, bench: Workbench, *, read_percent: float = 100) -> VerifySummary:
        async def save_again(found: VerifySummary) -> None:
            assert found.damaged_objects
            self.runs.append(await bench.run())

        self.summary = await verify_section(
            bench.settings,
            bench.section,
            read_percent=read_percent,
            save_again=save_again,
            on_lost=self.lost.append,
        )
        return self.summary


async def sound(bench: Workbench, snapshot: str = "latest") -> bool:
    summary = await verify_section(bench.settings, bench.section, snapshots=[snapshot], read_percent=100)
    return not summary.damaged


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(body)


def catalog_of(bench: Workbench) -> AbstractAsyncContextManager[Catalog]:
    return Catalog.open(
        bench.settings.database_path("home"), section="home", destination=bench.section.destination
    )


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("action", ["flip", "delete", "truncate"])
async def test_a_damaged_file_is_saved_again(
    tmp_path: Path, folder_destination: Path, encrypted: bool, action: str
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=encrypted)
    await bench.initialise()
    bench.write("docs/damaged", b"one content")
    bench.write("docs/whole", b"another")
    await bench.run()
    (path,) = folder_destination.rglob("files/docs/damaged")
    if action == "flip":
        flip(path)
    elif action == "delete":
        path.unlink()
    else:
        os.truncate(path, 3)
    repair = Repair()
    summary = await repair.go(bench)
    assert [damage.paths for damage in summary.damaged] == [(b"docs/damaged",)]
    assert (summary.files_to_save, summary.files_lost, repair.lost) == (1, 0, [])
    (run,) = repair.runs
    assert (run.files_changed, run.files_unchanged, run.files_new) == (1, 1, 0)
    first, second = await bench.snapshots()
    assert await sound(bench)
    assert not await sound(bench, first)
    assert picture(await bench.restored(snapshot=second)) == picture(bench.tree)
    # Nothing is left to be saved again.
    again = await bench.run()
    assert (again.files_unchanged, again.bytes_read) == (2, 0)


async def test_without_damage_nothing_is_run(bench: Workbench) -> None:
    bench.write("file")
    await bench.run()
    repair = Repair()
    summary = await repair.go(bench)
    assert (summary.damaged, repair.runs, await bench.snapshots()) == ((), [], await bench.snapshots())
    assert len(await bench.snapshots()) == 1


async def test_what_is_not_in_the_tree_any_more_is_lost(bench: Workbench, folder_destination: Path) -> None:
    gone = bench.write("gone", b"gone by now")
    changed = bench.write("changed", b"as it was")
    bench.write("kept", b"kept")
    await bench.run()
    for path in folder_destination.rglob("home/data/*/files/*"):
        flip(path)
    gone.unlink()
    changed.write_bytes(b"as it is")
    age(changed)
    repair = Repair()
    summary = await repair.go(bench)
    (first, _) = await bench.snapshots()
    assert summary.files_lost == 2
    assert sorted(damage.paths for damage in repair.lost) == [(b"changed",), (b"gone",)]
    assert {damage.snapshots for damage in repair.lost} == {(first,)}
    assert summary.lost == tuple(repair.lost)
    assert await sound(bench)
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_damage_of_old_versions_alone_runs_nothing(bench: Workbench, folder_destination: Path) -> None:
    path = bench.write("file", b"old")
    await bench.run()
    path.write_bytes(b"new version")
    await bench.run()
    first, _ = await bench.snapshots()
    (old,) = folder_destination.glob(f"home/data/{first}/files/file")
    old.unlink()
    repair = Repair()
    summary = await repair.go(bench)
    assert (summary.files_to_save, summary.files_lost, repair.runs) == (0, 1, [])
    assert [damage.paths for damage in repair.lost] == [(b"file",)]


async def test_a_content_that_changed_on_the_disk_itself_is_lost(
    bench: Workbench, folder_destination: Path
) -> None:
    """Same size, same mtime, other bytes: what is there is saved, and is not what was lost."""
    path = bench.write("file", b"content")
    await bench.run()
    status = path.stat()
    path.write_bytes(b"cOntent")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    flip(next(folder_destination.rglob("files/file")))
    repair = Repair()
    summary = await repair.go(bench)
    assert (summary.files_to_save, summary.files_lost) == (1, 1)
    assert await sound(bench)
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_links_and_folders_are_saved_again_too(bench: Workbench, folder_destination: Path) -> None:
    bench.write("one", b"linked")
    os.link(bench.tree / "one", bench.tree / "two")
    (bench.tree / "symlink").symlink_to("one")
    (bench.tree / "folder").mkdir()
    await bench.run()
    (run,) = await bench.snapshots()
    async with open_repository(bench.settings, bench.section) as repository:
        prefix = f"{data_prefix('home')}{run}/files/"
        await repository.store.delete([f"{prefix}{name}" for name in ("one", "two", "symlink", "folder/")])
    repair = Repair()
    summary = await repair.go(bench)
    assert summary.damaged_objects == 4
    assert (summary.files_to_save, summary.files_lost) == (2, 0)
    assert await sound(bench)
    assert picture(await bench.restored()) == picture(bench.tree)
    entries = await bench.entries()
    assert {entry.extent.run for path, entry in entries.items() if path and entry.extent} == {
        (await bench.snapshots())[1]
    }


async def test_a_file_that_became_something_else_is_lost(bench: Workbench, folder_destination: Path) -> None:
    path = bench.write("file", b"content")
    bench.write("other", b"other")
    await bench.run()
    before = await bench.entries()
    flip(next(folder_destination.rglob("files/file")))
    path.unlink()
    os.mkfifo(path)
    repair = Repair()
    summary = await repair.go(bench)
    assert [damage.paths for damage in summary.lost] == [(b"file",)]
    assert b"file" in before
    assert b"file" not in await bench.entries()
    assert await sound(bench)


async def test_a_mark_lasts_until_the_file_was_saved(bench: Workbench, folder_destination: Path) -> None:
    """A run that never comes to its end leaves it for the next one."""
    bench.write("file", b"content")
    await bench.run()
    flip(next(folder_destination.rglob("files/file")))

    async def nothing(_: VerifySummary) -> None:
        return None

    summary = await verify_section(bench.settings, bench.section, read_percent=100, save_again=nothing)
    assert (summary.files_to_save, summary.files_lost) == (1, 1)
    async with catalog_of(bench) as catalog:
        entry = await catalog.entries.get(b"file")
        assert entry is not None
        assert entry.extent is not None
        assert (entry.ctime_ns, entry.dev, entry.ino) == (SAVE_AGAIN_NS, 0, 0)
        assert entry.sha256 == hashlib.sha256(b"content").digest()
    run = await bench.run()
    assert run.files_changed == 1
    assert await sound(bench)


async def test_a_damaged_pack_is_needed_no_more(bench: Workbench, folder_destination: Path) -> None:
    """Everything in it is saved again, also what is whole: no later snapshot refers to it."""
    files: dict[bytes, bytes | None] = {b"a": b"1" * 600, b"b": b"2" * 600, b"c": b"3" * 600}
    for name, content in files.items():
        bench.write(name, content or b"")
    await bench.run()
    (first,) = await bench.snapshots()
    entries = await bench.entries()
    async with open_repository(bench.settings, bench.section) as repository:
        packed = await put_pack(repository, RunId(first), files)
        moved = {
            path: msgspec.structs.replace(entry, extent=packed.entries[path].extent)
            for path, entry in entries.items()
            if path in files
        }
        await put_manifest(repository, RunId(first), (entries | moved).values(), packs=[packed.pack])
    async with catalog_of(bench) as catalog:
        await catalog.entries.save((entry, Pending.COMMITTED) for entry in moved.values())
    pack = folder_destination / packed.key
    extent = packed.entries[b"b"].extent
    assert extent is not None
    body = bytearray(pack.read_bytes())
    body[extent.offset] ^= 1
    with pack.open("r+b") as file:
        file.write(body)
    repair = Repair()
    summary = await repair.go(bench)
    assert [(damage.key, damage.paths) for damage in summary.damaged] == [(packed.key, (b"b",))]
    assert (summary.files_to_save, summary.files_lost) == (3, 0)
    assert await sound(bench)
    saved = await bench.entries()
    assert all(
        entry.extent is not None and entry.extent.run != first for path, entry in saved.items() if path
    )


async def test_contents_of_damaged_objects_are_forgotten(bench: Workbench, folder_destination: Path) -> None:
    bench.write("damaged", b"1")
    bench.write("whole", b"2")
    await bench.run()
    entries = await bench.entries()
    rows = []
    for name in (b"damaged", b"whole"):
        extent = entries[name].extent
        assert extent is not None
        rows.append((entries[name].sha256, 1, extent.run, extent.key, 0, 1, "", 0, 0, "", 0))
    async with catalog_of(bench) as catalog, catalog._lock.transaction() as connection:
        await connection.executemany(
            "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
        )
    flip(next(folder_destination.rglob("files/damaged")))

    async def nothing(_: VerifySummary) -> None:
        return None

    await verify_section(bench.settings, bench.section, read_percent=100, save_again=nothing)
    async with catalog_of(bench) as catalog:
        left = await catalog._connection.execute_fetchall("SELECT sha256 FROM contents")
    assert [bytes(row[0]) for row in left] == [entries[b"whole"].sha256]


@pytest.mark.parametrize("action", ["flip", "delete"])
async def test_after_a_lost_manifest_the_next_snapshot_rests_on_a_sound_one(
    bench: Workbench, folder_destination: Path, action: str
) -> None:
    bench.write("file", b"1")
    await bench.run()
    bench.write("more", b"2")
    await bench.run()
    _, second = await bench.snapshots()
    manifest = folder_destination / snapshot_key("home", second)
    if action == "flip":
        flip(manifest)
    else:
        manifest.unlink()
    repair = Repair()
    summary = await repair.go(bench)
    assert (summary.broken_snapshots, summary.files_to_save) == ((second,), 0)
    assert len(repair.runs) == 1
    assert await sound(bench)
    assert picture(await bench.restored()) == picture(bench.tree)
    async with catalog_of(bench) as catalog:
        committed = [record.run for record in await catalog.runs.all() if record.committed]
    assert second not in committed
    assert repair.runs[0].snapshot in committed


async def test_a_repair_needs_the_database_and_holds_it(bench: Workbench, folder_destination: Path) -> None:
    bench.write("file", b"1")
    await bench.run()
    flip(next(folder_destination.rglob("files/file")))
    async with catalog_of(bench):
        with pytest.raises(SectionBusyError):
            await Repair().go(bench)
    held: list[bool] = []

    def look(_: Damage) -> None:
        held.append(True)

    async def free(_: VerifySummary) -> None:
        async with catalog_of(bench):
            held.append(False)

    await verify_section(bench.settings, bench.section, read_percent=100, save_again=free, on_damage=look)
    assert held == [True, False]
    bench.settings.database_path("home").unlink()
    with pytest.raises(CatalogMissingError, match="initdb"):
        await Repair().go(bench)
