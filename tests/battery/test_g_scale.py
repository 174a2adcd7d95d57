"""(g) Trees of extreme size and shape: memory stays under its ceiling, open files under 256.

Every command is a process of its own whose kernel refuses a 257th open file.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from asyncbackup.format.manifest import ManifestHeader, ManifestTrailer
from asyncbackup.format.runid import new_run_id
from asyncbackup.model import RunId
from asyncbackup.repository.manifest_upload import ManifestUpload
from asyncbackup.repository.manifests import read_manifest
from asyncbackup.repository.open import open_repository
from tests.battery.big_trees import deep, look_down, many, roomy_folder, same_files
from tests.battery.measured import clean
from tests.battery.selection import FULL, selected
from tests.workbench import MIB, Workbench

if TYPE_CHECKING:
    from pathlib import Path

FEW, MANY = (100, 1000) if FULL else (5, 10)
"""Folders of a thousand files: a hundred thousand files against a million."""
BYTES_A_FILE = 50
FILLING_BYTES = 0 if FULL else 32 * MIB
"""What a selection's trees are too small to fill: buffers that are used again, packs of 8,192 members."""
IN_ONE_FOLDER = 100_000 if FULL else 3000
DEPTH, NAME = (10_000, "d") if FULL else (300, "a folder with a name of its own")
LARGE_BYTES = (5 * 1024 + 1) * MIB if FULL else 100 * MIB
SNAPSHOTS = 10_000 if FULL else 60
LONG_SECONDS = 1800 if FULL else 300


def make_bench(base: Path, *, packed: bool = False) -> Workbench:
    """A section with a folder in memory as its destination, and the default limits."""
    destination = base / "destination"
    destination.mkdir()
    bench = Workbench(base, f"file://{destination}")
    bench.configure(packed=packed)
    return bench


@pytest.mark.timeout(LONG_SECONDS)
def test_memory_does_not_grow_with_the_tree() -> None:
    """A first run, an unchanged one, a verification: of the larger tree within a tenth of what the smaller
    one took, and 50 bytes a file."""
    peaks: dict[int, dict[str, int]] = {}
    for folders in (FEW, MANY):
        with roomy_folder() as base:
            bench = make_bench(base, packed=True)
            many(bench.tree, folders=folders, files_each=1000)
            clean(bench, "initdb")
            peaks[folders] = {what: clean(bench, what.split()[0]) for what in ("run", "run again", "verify")}
            print(f"{folders} thousand files: {peaks[folders]}")
    for what, small in peaks[FEW].items():
        assert peaks[MANY][what] <= small * 1.1 + BYTES_A_FILE * 1000 * MANY + FILLING_BYTES, what


@pytest.mark.parametrize("packed", selected((False, True), 1, name="wide"))
@pytest.mark.timeout(LONG_SECONDS)
def test_very_many_files_in_one_folder(packed: bool) -> None:
    with roomy_folder() as base:
        bench = make_bench(base, packed=packed)
        many(bench.tree, folders=1, files_each=IN_ONE_FOLDER)
        for command in ("initdb", "run", "run", "verify"):
            clean(bench, command)
        clean(bench, "restore", "--target", str(base / "restored"))
        assert same_files(bench.tree, base / "restored")


@pytest.mark.parametrize("packed", selected((False, True), 1, name="deep"))
@pytest.mark.timeout(LONG_SECONDS)
def test_very_many_folders_below_each_other(packed: bool) -> None:
    """Paths far longer than the system takes, and no recursion anywhere."""
    with roomy_folder() as base:
        bench = make_bench(base, packed=packed)
        deep(bench.tree, depth=DEPTH, name=NAME)
        for command in ("initdb", "run", "run", "verify"):
            clean(bench, command)
        clean(bench, "restore", "--target", str(base / "restored"))
        wanted = look_down(bench.tree, name=NAME)
        assert len(wanted) == DEPTH + 2
        assert look_down(base / "restored", name=NAME) == wanted


@pytest.mark.timeout(LONG_SECONDS)
def test_a_very_large_file() -> None:
    """Over 5 GiB, what S3 takes in one request and copies in one, with something at both ends."""
    with roomy_folder() as base:
        bench = make_bench(base)
        path = bench.write("large", random.Random(5).randbytes(MIB))
        with path.open("r+b") as file:
            file.truncate(LARGE_BYTES)
            file.seek(-100, 2)
            file.write(b"the end".rjust(100))
        for command in ("initdb", "run", "run", "verify"):
            clean(bench, command)
        (stored,) = (base / "destination").glob("home/data/*/files/large")
        assert stored.stat().st_size == LARGE_BYTES
        stored_blocks = stored.stat().st_blocks
        clean(bench, "restore", "--target", str(base / "restored"))
        restored = base / "restored/large"
        assert same_files(bench.tree, base / "restored")
        assert restored.stat().st_blocks < stored_blocks / 2, "its holes are holes again"


@pytest.mark.timeout(LONG_SECONDS)
async def test_very_many_snapshots() -> None:
    """Their manifests are written as a run writes them; ten thousand processes would add nothing."""
    with roomy_folder() as base:
        bench = make_bench(base)
        for number in range(5):
            bench.write(f"file {number}", b"content %d" % number)
        clean(bench, "initdb")
        clean(bench, "run")
        async with open_repository(bench.settings, bench.section) as repository:
            run = (await bench.snapshots())[0]
            entries = [entry async for page in read_manifest(repository, run) for entry in page]
            for _ in range(SNAPSHOTS - 1):
                run = new_run_id(0, after=RunId(run))
                header = ManifestHeader(
                    snapshot=run, section="home", repository=repository.repository_id, started_ns=0
                )
                async with ManifestUpload(repository, header) as upload:
                    await upload.add(entries)
                    await upload.commit(ManifestTrailer(finished_ns=0))
        assert len(await bench.snapshots()) == SNAPSHOTS
        # The last of them lies ahead of the clock, which no run has to know of.
        for command in ("snapshots --details", "find file*", "verify", "syncdb_remote", "run"):
            clean(bench, *command.split(maxsplit=1))
        clean(bench, "restore", "--target", str(base / "restored"))
        assert same_files(bench.tree, base / "restored")
        clean(bench, "forget", "--keep-last", "3")
        clean(bench, "prune", "--min-age", "0h")
        assert len(await bench.snapshots()) == 3
        assert len(list((base / "destination/home/snapshots").iterdir())) == 3
