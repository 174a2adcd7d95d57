"""Long histories: every snapshot restores, and what a snapshot costs is what changed."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from asyncbackup import engine
from asyncbackup.format.keys import snapshot_key
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.repository.manifests import read_header, read_manifest, read_trailer
from asyncbackup.repository.open import open_repository
from tests.workbench import Workbench, age, picture

SNAPSHOTS = 40
FILES = 80


class DeadError(Exception):
    """Where a run of these tests dies."""


async def die(*_: object, **__: object) -> None:
    raise DeadError


async def died(bench: Workbench, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """A run whose process dies before that step of the commit."""
    with monkeypatch.context() as patched:
        patched.setattr(engine, before, die)
        with pytest.raises(DeadError):
            await bench.run()


def plant(bench: Workbench, files: int = FILES) -> None:
    for number in range(files):
        bench.write(f"d{number % 5}/f{number:03}", b"%d" % number)


def change(bench: Workbench, chance: random.Random) -> None:
    """A day's work: some of everything."""
    files = sorted(path for path in bench.tree.rglob("*") if path.is_file() and not path.is_symlink())
    chance.choice(files).write_bytes(chance.randbytes(20))
    age(chance.choice(files))
    chance.choice(files).chmod(chance.choice((0o600, 0o640)))
    bench.write(f"d{chance.randrange(5)}/n{chance.randrange(1000)}", chance.randbytes(5))
    gone = chance.choice(files)
    gone.unlink()
    match chance.randrange(6):
        case 0:
            bench.write(f"{gone.relative_to(bench.tree)}/now/a folder", b"was a file")
        case 1:
            gone.symlink_to("somewhere")
        case 2:
            folders = sorted(path for path in bench.tree.rglob("*") if path.is_dir())
            emptied = [path for path in folders if sum(1 for _ in path.rglob("*")) < 8]
            if emptied:
                shutil.rmtree(chance.choice(emptied))
        case _:
            pass


async def manifests_read(bench: Workbench, snapshot: str) -> int:
    """How many manifests it takes to read a snapshot; a chain asks each for its size first."""
    async with open_repository(bench.settings, bench.section) as repository:
        async with aclosing(read_manifest(repository, snapshot)) as batches:
            async for _ in batches:
                pass
        return repository.store.requests.get("HeadObject", 0) or 1


async def test_a_long_history_with_deaths_in_between(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(1)
    plant(bench)
    pictures: dict[str, dict[bytes, tuple[object, ...]]] = {}
    full: list[str] = []
    for _ in range(SNAPSHOTS):
        change(bench, chance)
        match chance.randrange(8):
            case 0:
                await died(bench, monkeypatch, "write_manifest")
                change(bench, chance)
            case 1 | 2 as step:
                await died(bench, monkeypatch, "settle" if step == 1 else "note_written")
                (unknown,) = set(await bench.snapshots()) - pictures.keys()
                pictures[unknown] = picture(bench.tree)
                change(bench, chance)
            case _:
                pass
        summary = await bench.run()
        pictures[summary.snapshot] = picture(bench.tree)
        if not summary.base:
            full.append(summary.snapshot)
    assert await bench.snapshots() == sorted(pictures)
    assert 1 <= len(full) < SNAPSHOTS // 2
    for snapshot, wanted in pictures.items():
        target = await bench.restored(snapshot=snapshot)
        assert picture(target) == wanted
        shutil.rmtree(target)


async def test_no_snapshot_needs_more_manifests_than_its_number_has_bits(bench: Workbench) -> None:
    plant(bench)
    snapshots = []
    for number in range(20):
        bench.write("d0/f000", b"%d" % number)
        snapshots.append((await bench.run()).snapshot)
    for number, snapshot in enumerate(snapshots):
        assert await manifests_read(bench, snapshot) == number.bit_count() + 1


async def test_an_unchanged_run_writes_a_difference_without_entries(bench: Workbench) -> None:
    plant(bench)
    first = await bench.run()
    assert first.base == ""
    second = await bench.run()
    assert second.base == first.snapshot
    assert second.manifest_bytes < 1000 < first.manifest_bytes
    stored = bench.base / "destination" / snapshot_key("home", second.snapshot)
    assert stored.stat().st_size == second.manifest_bytes
    async with open_repository(bench.settings, bench.section) as repository:
        trailer = await read_trailer(repository, second.snapshot)
        header = await read_header(repository, second.snapshot)
    assert (trailer.entries, trailer.deleted) == (0, 0)
    assert (trailer.files, trailer.folders, trailer.bytes) == (
        FILES,
        6,
        sum(len(str(n)) for n in range(FILES)),
    )
    assert (header.base, header.depth) == (first.snapshot, 1)
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_an_older_database_rests_on_what_it_knows(bench: Workbench, tmp_path: Path) -> None:
    """As after a loss of power, or put back from a backup."""
    plant(bench)
    first = await bench.run()
    database = bench.settings.database_path("home")
    shutil.copy(database, tmp_path / "kept")
    bench.write("d0/f000", b"second")
    await bench.run()
    shutil.copy(tmp_path / "kept", database)
    bench.write("d0/f001", b"third")
    third = await bench.run()
    assert third.base == first.snapshot
    # By its id: within one second a database that is too old cannot keep the order of ids.
    assert picture(await bench.restored(snapshot=third.snapshot)) == picture(bench.tree)


async def test_a_rebuilt_database_goes_on_with_differences(bench: Workbench) -> None:
    plant(bench)
    for number in range(4):
        bench.write("d0/f000", b"%d" % number)
        last = await bench.run()
    bench.settings.database_path("home").unlink()
    await rebuild_section(bench.settings, bench.section)
    bench.write("d0/f001", b"after")
    summary = await bench.run()
    assert summary.base == last.snapshot
    async with open_repository(bench.settings, bench.section) as repository:
        assert (await read_header(repository, summary.snapshot)).depth == 3, "two of the base, 3 = 0b11"
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_much_change_makes_a_full_manifest(bench: Workbench) -> None:
    plant(bench)
    await bench.run()
    for number in range(FILES // 3):
        bench.write(f"d{number % 5}/f{number:03}", b"changed")
    summary = await bench.run()
    assert summary.base == ""
    assert await manifests_read(bench, summary.snapshot) == 1
    assert picture(await bench.restored()) == picture(bench.tree)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_the_tool_without_asyncbackup_reads_differences(
    tmp_path: Path, folder_destination: Path, encrypted: bool
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=encrypted)
    await bench.initialise()
    plant(bench, 60)
    chance = random.Random(3)
    for _ in range(8):
        summary = await bench.run()
        change(bench, chance)
    summary = await bench.run()
    assert summary.base
    tool = Path(__file__).parents[2] / "tools" / "decrypt.py"
    secret = ["--passphrase-file", str(bench.section.encryption.passphrase_file)] if encrypted else []
    done = await asyncio.create_subprocess_exec(
        sys.executable, tool, *secret, folder_destination, "restore",
        snapshot_key("home", summary.snapshot), tmp_path / "by hand",
    )  # fmt: skip
    assert await done.wait() == 0
    restored = await bench.restored()
    names = {path.relative_to(restored) for path in restored.rglob("*")}
    assert names == {path.relative_to(tmp_path / "by hand") for path in (tmp_path / "by hand").rglob("*")}
    for name in names:
        if (restored / name).is_file() and not (restored / name).is_symlink():
            assert (tmp_path / "by hand" / name).read_bytes() == (restored / name).read_bytes()
