"""Packs of which little is needed: written anew, every snapshot and the next run know where."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.format.keys import snapshot_key
from asyncbackup.prune.section import prune_section
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.verify.section import verify_section
from tests.prunes import at, forget_all_but, objects, prune, sibling
from tests.workbench import Workbench, picture


@pytest.fixture(params=["plain", "zstd", "sealed"])
async def packed(tmp_path: Path, folder_destination: Path, request: pytest.FixtureRequest) -> Workbench:
    """A section whose small files share packs."""
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=request.param == "sealed")
    bench.configure(packed=True, zstd_level=0 if request.param == "plain" else 3)
    await bench.initialise()
    return bench


def fill(bench: Workbench, seed: int, *, files: int = 120) -> None:
    """Files that do not shrink, so that the sizes of packs tell what is in them."""
    random = Random(seed)
    for number in range(files):
        bench.write(f"d{number % 5}/f{number:03}", random.randbytes(20_000))


def packs(bench: Workbench) -> set[str]:
    return {key for key in objects(bench) if "/packs/" in key}


def large_pack(bench: Workbench, run: str) -> str:
    """The pack of a run that does not hold its hard links, which come together at its end."""
    (key,) = (key for key in packs(bench) if run in key and at(bench, key).stat().st_size > 1_000_000)
    return key


async def mostly_replaced(bench: Workbench) -> tuple[str, str]:
    """Two snapshots; the second needs a tenth of the first one's pack, among it every kind of entry."""
    fill(bench, 1)
    bench.write("same content", b"same" * 1000)
    bench.write("same content too", b"same" * 1000)
    bench.write("linked", b"linked" * 1000)
    os.link(bench.tree / "linked", bench.tree / "d0/linked too")
    (bench.tree / "symlink").symlink_to("d0/f000")
    (bench.tree / "hollow").mkdir()
    bench.write("empty", b"")
    first = (await bench.run()).snapshot
    random = Random(2)
    for number in range(12, 120):
        bench.write(f"d{number % 5}/f{number:03}", random.randbytes(20_000))
    second = (await bench.run()).snapshot
    return first, second


async def test_what_is_needed_moves_into_a_new_pack(packed: Workbench) -> None:
    first, second = await mostly_replaced(packed)
    before, old = packs(packed), large_pack(packed, first)
    looked = picture(packed.tree)
    await forget_all_but(packed, second)
    rehearsed = await prune_section(packed.settings, packed.section, dry_run=True)
    assert packs(packed) == before
    summary = await prune(packed)
    assert (summary.packs_rewritten, summary.snapshots_removed) == (1, 1)
    assert summary.packs_rewritten == rehearsed.packs_rewritten
    assert summary.objects_deleted == rehearsed.objects_deleted
    (new,) = packs(packed) - before
    assert new.startswith(f"home/data/{summary.prune}/packs/000001.tar")
    assert before - packs(packed) == {old}
    size = at(packed, new).stat().st_size
    assert size == summary.bytes_written
    assert 240_000 < size < 400_000, "a tenth of 2.4 MB"
    assert snapshot_key("home", second, 1) in objects(packed)
    assert snapshot_key("home", second) not in objects(packed)
    assert picture(await packed.restored()) == looked
    assert not (await verify_section(packed.settings, packed.section, read_percent=100.0)).damaged


async def test_the_next_run_knows_where_contents_lie(packed: Workbench) -> None:
    _, second = await mostly_replaced(packed)
    await forget_all_but(packed, second)
    await prune(packed)
    assert (await packed.run()).bytes_uploaded == 0
    packed.write("once more", (packed.tree / "d0/f000").read_bytes())
    assert (await packed.run()).bytes_uploaded < 10_000, "its content is held"
    assert picture(await packed.restored()) == picture(packed.tree)
    lost = Random(1).randbytes(20_000 * 13)[-20_000:]
    packed.write("of a forgotten snapshot", lost)
    assert (await packed.run()).bytes_uploaded >= 20_000, "its content went with the old pack"
    assert picture(await packed.restored(name="again")) == picture(packed.tree)
    assert not (await verify_section(packed.settings, packed.section, read_percent=100.0)).damaged
    assert (await prune(packed)).packs_rewritten == 0


async def test_a_database_rebuilt_from_revisions_is_as_good(packed: Workbench) -> None:
    _, second = await mostly_replaced(packed)
    other = sibling(packed)
    await rebuild_section(other.settings, other.section)
    await forget_all_but(packed, second)
    await prune(packed)
    await rebuild_section(other.settings, other.section)
    assert (await other.run()).bytes_uploaded == 0
    assert picture(await other.restored()) == picture(packed.tree)


async def test_differences_are_revised_where_their_lines_point_there(packed: Workbench) -> None:
    fill(packed, 1)
    first = (await packed.run()).snapshot
    looked = {}
    for number in range(4):
        packed.write(f"d0/f{number * 5:03}", b"%d" % number * 30_000)
        run = (await packed.run()).snapshot
        looked[run] = picture(packed.tree)
    third, last = sorted(looked)[2:]
    for number in range(15, 120):
        (packed.tree / f"d{number % 5}/f{number:03}").unlink()
    small = (await packed.run()).snapshot
    looked[small] = picture(packed.tree)
    await forget_all_but(packed, small)
    summary = await prune(packed)
    assert summary.packs_rewritten == 1
    assert first not in str(packs(packed))
    assert picture(await packed.restored()) == looked[small]
    packed.write("more", b"more")
    await packed.run()
    assert picture(await packed.restored(name="again")) == picture(packed.tree)
    assert {third, last}.isdisjoint(await packed.snapshots())


async def test_a_pack_that_is_mostly_needed_stays(packed: Workbench) -> None:
    fill(packed, 1)
    await packed.run()
    for number in range(40):
        (packed.tree / f"d{number % 5}/f{number:03}").unlink()
    last = (await packed.run()).snapshot
    await forget_all_but(packed, last)
    summary = await prune(packed)
    assert (summary.packs_rewritten, summary.manifests_rewritten) == (0, 0)
    summary = await prune_section(packed.settings, packed.section, repack_below_percent=90)
    assert summary.packs_rewritten == 1
    assert picture(await packed.restored()) == picture(packed.tree)
    assert (await prune(packed)).packs_rewritten == 0


async def test_a_damaged_pack_is_left_to_verify(packed: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    first, second = await mostly_replaced(packed)
    key = large_pack(packed, first)
    place = at(packed, key)
    stored = bytearray(place.read_bytes())
    for position in range(0, len(stored), 1000):
        stored[position] ^= 0xFF
    place.write_bytes(stored)
    await forget_all_but(packed, second)
    summary = await prune(packed)
    assert summary.packs_rewritten == 0
    assert key in packs(packed)
    assert "a pack is not written anew" in caplog.text


async def test_the_catalog_refers_to_nothing_that_is_gone(packed: Workbench) -> None:
    _, second = await mostly_replaced(packed)
    await forget_all_but(packed, second)
    await prune(packed)
    async with Catalog.open(
        packed.settings.database_path("home"), section="home", destination=packed.section.destination
    ) as catalog:
        for table, run, key in (
            ("entries", "extent_run", "extent_key"),
            ("contents", "extent_run", "extent_key"),
            ("packs", "run", "key"),
        ):
            rows = await catalog._connection.execute_fetchall(
                f"SELECT DISTINCT {run}, {key} FROM {table} WHERE {run} IS NOT NULL"  # noqa: S608
            )
            places = {f"home/data/{row[0]}/{row[1]}" for row in rows}
            assert places
            assert places <= objects(packed)
