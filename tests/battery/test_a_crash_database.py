"""(a) A database that is cut short, lost, old, damaged or another's: a clear error, or a right run."""

from __future__ import annotations

import random
import shutil
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import CatalogError
from asyncbackup.rebuild.section import rebuild_section
from tests.battery.invariants import check_invariants, check_restores
from tests.battery.selection import FULL, SEED, selected
from tests.battery.syscalls import killed_at, needs_strace
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.invariants import Picture
    from tests.battery.score import Score

LAYOUTS = ("mirror", "packed")
DATABASE_CALLS = ("fsync,fdatasync", "pwrite64")
FLIPS = range(100 if FULL else 6)


async def make_bench(base: Path, layout: str) -> tuple[Workbench, dict[str, Picture]]:
    """A section of a folder with two snapshots and changes since."""
    (base / "destination").mkdir()
    bench = Workbench(base, f"file://{base}/destination")
    bench.configure(packed=layout == "packed")
    chosen = random.Random(layout)
    for number in range(60):
        bench.write(f"d{number % 5}/f{number:03}", chosen.randbytes(number * 20))
    (bench.tree / "link").symlink_to("d0/f000")
    await bench.initialise()
    earlier = {}
    for generation in range(2):
        bench.write("changing", b"%d" % generation)
        earlier[(await bench.run()).snapshot] = picture(bench.tree)
    for number in range(25):
        bench.write(f"d{number % 5}/f{number:03}", chosen.randbytes(number * 21))
    bench.write("new", b"new")
    return bench, earlier


@needs_strace
@pytest.mark.parametrize("calls", DATABASE_CALLS)
async def test_killed_at_every_write_of_the_database(tmp_path: Path, score: Score, calls: str) -> None:
    bench, earlier = await make_bench(tmp_path, "packed")
    database = bench.settings.database_path("home")
    paths = [database, database.with_name(database.name + "-wal")]
    arguments = ["-c", str(bench.config_file()), "--quiet", "run"]
    for number in count(1) if FULL else (1, 3):
        if not killed_at(arguments, calls, number, score, paths=paths):
            assert FULL, "the planned kill did not come"
            break
        bench.write("new", b"%d" % number * 20)
        await check_restores(bench, list(earlier)[-1], earlier[list(earlier)[-1]])
    assert score.kills >= 2
    await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_lost_database(tmp_path: Path, layout: str) -> None:
    bench, earlier = await make_bench(tmp_path, layout)
    bench.settings.database_path("home").unlink()
    with pytest.raises(CatalogError, match=r"initdb.*syncdb_remote"):
        await bench.run()
    await rebuild_section(bench.settings, bench.section)
    await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_database_of_last_week(tmp_path: Path, layout: str) -> None:
    bench, earlier = await make_bench(tmp_path, layout)
    database = bench.settings.database_path("home")
    shutil.copy(database, tmp_path / "old")
    for number in range(3):
        bench.write("new", b"%d" % number)
        bench.write(f"d0/new{number}", b"only the newer database knows it")
        earlier[(await bench.run()).snapshot] = picture(bench.tree)
    shutil.copy(tmp_path / "old", database)
    await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_the_database_of_another_section(tmp_path: Path, layout: str) -> None:
    bench, earlier = await make_bench(tmp_path, layout)
    other = tmp_path / "other"
    other.mkdir()
    foreign = Workbench(other, bench.section.destination)
    foreign.section = msgspec.structs.replace(foreign.section, name="work")
    foreign.settings = msgspec.structs.replace(foreign.settings, state_dir=bench.settings.state_dir)
    foreign.write("file", b"content")
    await foreign.initialise()
    await foreign.run()
    mine, others = bench.settings.database_path("home"), bench.settings.database_path("work")
    mine.rename(tmp_path / "swap")
    others.rename(mine)
    (tmp_path / "swap").rename(others)
    for swapped in (bench, foreign):
        with pytest.raises(CatalogError, match="is the database of section"):
            await swapped.run()
    mine.rename(tmp_path / "swap")
    others.rename(mine)
    (tmp_path / "swap").rename(others)
    await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize(
    ("layout", "seed"), selected(((a, b) for a in LAYOUTS for b in FLIPS), 6, name="flips")
)
async def test_flipped_bits(tmp_path: Path, layout: str, seed: int) -> None:
    bench, earlier = await make_bench(tmp_path, layout)
    chosen = random.Random(f"{SEED} {seed}")
    database = bench.settings.database_path("home")
    with database.open("r+b") as file:
        for _ in range(chosen.choice((1, 1, 10, 100))):
            position = chosen.randrange(database.stat().st_size)
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes([byte ^ 1 << chosen.randrange(8)]))
    damage = ""
    try:
        await bench.run()
    except CatalogError as error:
        damage = str(error)
    if damage:
        assert str(database) in damage, "the message names the file"
        assert "syncdb_remote" in damage, "and the way out"
        database.rename(tmp_path / "damaged")
        await rebuild_section(bench.settings, bench.section)
    await check_invariants(bench, earlier=earlier)
