"""What a prune deletes, and above all what it leaves."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.errors import CatalogBehindError, FormatError, SectionBusyError
from asyncbackup.format.keys import run_mark_key, snapshot_key
from asyncbackup.prune.forget import forget_section
from asyncbackup.prune.policy import KeepPolicy
from asyncbackup.prune.section import prune_section
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.repository.marks import RunMark, list_prunes, list_run_marks, put_mark
from asyncbackup.repository.open import open_repository
from asyncbackup.verify.section import verify_section
from tests.prunes import Killed, at, forget, forget_all_but, leave, objects, prune, sibling
from tests.workbench import Workbench, picture


async def three_runs(bench: Workbench) -> list[str]:
    """Three snapshots, none of which rests on another: ``same`` stays, ``changing`` and ``too`` change,
    ``first`` goes after the first."""
    runs = []
    bench.write("same", b"same")
    bench.write("docs/first", b"first")
    for content in (b"one", b"two!", b"three"):
        bench.write("changing", content)
        bench.write("too", content)
        runs.append((await bench.run()).snapshot)
        (bench.tree / "docs/first").unlink(missing_ok=True)
    return runs


async def test_what_only_forgotten_snapshots_needed_goes(bench: Workbench) -> None:
    first, second, third = await three_runs(bench)
    await forget_all_but(bench, third)
    before = objects(bench)
    summary = await prune(bench)
    left = objects(bench)
    gone = {
        f"home/data/{first}/files/changing",
        f"home/data/{first}/files/docs/first",
        f"home/data/{second}/files/changing",
        f"home/data/{first}/files/too",
        f"home/data/{second}/files/too",
        snapshot_key("home", first),
        snapshot_key("home", second),
    }
    assert {key for key in before - left if "/data/" in key or "/snapshots/" in key} == gone
    assert f"home/data/{first}/files/same" in left
    assert not [key for key in left if "/forgotten/" in key or first in key.partition("/runs/")[2]]
    assert (summary.snapshots, summary.snapshots_removed) == (1, 2)
    assert summary.bytes_deleted > len(b"one" + b"first" + b"two!")
    assert await bench.snapshots() == [third]
    assert picture(await bench.restored()) == picture(bench.tree)
    damaged = await verify_section(bench.settings, bench.section, read_percent=100.0)
    assert not damaged.damaged
    again = await bench.run()
    assert (again.bytes_uploaded, again.files_unchanged) == (0, 3)


async def test_a_forgotten_snapshot_on_which_others_rest_keeps_its_manifest(bench: Workbench) -> None:
    for number in range(40):
        bench.write(f"f{number:02}", b"content")
    looked = {}
    runs = []
    for number in range(10):
        bench.write("always", b"%d" % number)
        bench.write(f"f{number:02}", b"changed")
        bench.write(f"f{number * 3:02}", b"changed again in %d" % number)
        runs.append((await bench.run()).snapshot)
        looked[runs[-1]] = picture(bench.tree)
    kept = [runs[3], runs[6], runs[9]]
    await forget_all_but(bench, *kept)
    await prune(bench)
    assert await bench.snapshots() == kept
    left = objects(bench)
    assert snapshot_key("home", runs[0]) in left, "all the others rest on it"
    assert f"home/forgotten/{runs[0]}" in left
    assert f"home/data/{runs[0]}/files/f05" in left, "the third has not yet changed it"
    assert f"home/data/{runs[0]}/files/f01" not in left
    named = {entry.extent for run in kept for entry in (await bench.entries(run)).values() if entry.extent}
    needed = {f"home/data/{extent.run}/{extent.key}" for extent in named if not extent.key.endswith("/")}
    assert {key for key in left if "/data/" in key} == needed
    for run in kept:
        assert picture(await bench.restored(snapshot=run, name=run)) == looked[run]
    assert (await prune(bench)).objects_deleted == 0
    bench.write("always", b"at last")
    await bench.run()
    assert picture(await bench.restored()) == picture(bench.tree)
    await forget_all_but(bench, (await bench.snapshots())[-1])
    await prune(bench)
    assert picture(await bench.restored(name="last")) == picture(bench.tree)


async def test_without_anything_to_do_nothing_is_left_behind(bench: Workbench) -> None:
    await three_runs(bench)
    before = objects(bench)
    summary = await prune(bench)
    assert (summary.objects_deleted, summary.prune) == (0, "")
    assert objects(bench) == before
    assert "DeleteObjects" in summary.requests


async def test_a_dry_run_says_the_same_and_writes_nothing(bench: Workbench) -> None:
    runs = await three_runs(bench)
    await forget_all_but(bench, runs[1])
    before = objects(bench)
    rehearsed = await prune_section(bench.settings, bench.section, dry_run=True)
    assert objects(bench) == before
    assert not {"PutObject", "DeleteObjects"} & rehearsed.requests.keys()
    summary = await prune(bench)
    assert summary.objects_deleted == rehearsed.objects_deleted == len(before & gone_data(before, bench))
    assert summary.bytes_deleted == rehearsed.bytes_deleted


def gone_data(before: set[str], bench: Workbench) -> set[str]:
    return {key for key in before - objects(bench) if "/data/" in key or "/snapshots/" in key}


async def test_a_forgotten_last_snapshot_is_what_the_next_run_goes_on_from(bench: Workbench) -> None:
    first, _, third = await three_runs(bench)
    await forget(bench, third)
    await prune(bench)
    kept = {f"home/data/{third}/files/{name}" for name in ("changing", "too")}
    assert third not in str(objects(bench) - kept)
    summary = await bench.run()
    assert summary.bytes_uploaded == 0, "the database kept what it had saved"
    assert picture(await bench.restored()) == picture(bench.tree)
    assert first in await bench.snapshots()


async def test_objects_of_an_interrupted_run_stay_while_the_database_has_them(bench: Workbench) -> None:
    runs = await three_runs(bench)
    bench.write("new", b"new")
    interrupted = await leave(bench)
    await forget_all_but(bench, runs[2])
    await prune(bench)
    assert f"home/data/{interrupted}/files/new" in objects(bench)
    summary = await bench.run()
    assert (summary.files_new, summary.bytes_uploaded) == (1, 0)
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_objects_of_a_dead_run_that_no_database_has_go(bench: Workbench) -> None:
    runs = await three_runs(bench)
    bench.write("new", b"new")
    interrupted = await leave(bench)
    await rebuild_section(bench.settings, bench.section)
    with pytest.raises(SectionBusyError, match=interrupted):
        await prune(bench)
    await prune(bench, min_age_ns=0)
    assert interrupted not in str(objects(bench))
    assert (await bench.run()).files_new == 1
    assert len(await bench.snapshots()) == len(runs) + 1


@pytest.mark.parametrize("sealed", [False, True])
async def test_further_names_and_long_paths_go_with_their_snapshots(
    tmp_path: Path, folder_destination: Path, sealed: bool
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=sealed)
    await bench.initialise()
    long = "/".join(["d" * 200] * 8)
    os.makedirs(bench.tree / long)
    bench.write("one", b"one content")
    os.link(bench.tree / "one", bench.tree / "two")
    first = (await bench.run()).snapshot
    assert any(f"{first}/long/" in key for key in objects(bench))
    third = bench.tree / "third name"
    os.link(bench.tree / "one", third)
    second = (await bench.run()).snapshot
    linked = picture(bench.tree)
    await forget_all_but(bench, second)
    await prune(bench)
    assert f"home/data/{second}/files/third name" in objects(bench)
    assert f"home/data/{first}/files/two" in objects(bench), "a copy, or what names the first"
    assert picture(await bench.restored()) == linked
    (bench.tree / "one").unlink()
    (bench.tree / "two").unlink()
    third.unlink()
    os.removedirs(bench.tree / long)
    bench.tree.mkdir(exist_ok=True)
    bench.write("else")
    last = (await bench.run()).snapshot
    await forget_all_but(bench, last)
    await prune(bench)
    assert {key for key in objects(bench) if "/data/" in key} == {f"home/data/{last}/files/else"}


async def test_stand_ins_with_hidden_names_stay_as_long_as_they_are_needed(
    tmp_path: Path, folder_destination: Path
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=True)
    bench.configure(encryption=msgspec.structs.replace(bench.section.encryption, hide_names=True))
    await bench.initialise()
    bench.write("one", b"one content")
    os.link(bench.tree / "one", bench.tree / "two")
    first = (await bench.run()).snapshot
    stored = {key for key in objects(bench) if f"{first}/hidden/" in key}
    assert len(stored) == 3, "the root, the file, and what names the file"
    assert b"host" not in at(bench, run_mark_key("home", first)).read_bytes()
    for number in range(9):
        bench.write(f"else {number}")
    second = (await bench.run()).snapshot
    await forget_all_but(bench, second)
    await prune(bench)
    assert stored <= objects(bench)
    assert picture(await bench.restored()) == picture(bench.tree)
    (bench.tree / "one").unlink()
    (bench.tree / "two").unlink()
    for number in range(9):
        bench.write(f"else {number}", b"changed")
    last = (await bench.run()).snapshot
    await forget_all_but(bench, last)
    await prune(bench)
    assert len(stored & objects(bench)) == 1, "the root, which a new time alone does not upload again"


async def test_a_damaged_manifest_stops_it_before_anything_is_deleted(bench: Workbench) -> None:
    runs = await three_runs(bench)
    await forget(bench, runs[0])
    at(bench, snapshot_key("home", runs[1])).write_bytes(b"no manifest")
    before = objects(bench)
    with pytest.raises(FormatError, match=r"nothing was deleted"):
        await prune(bench)
    assert objects(bench) == before


async def test_a_missing_snapshot_is_no_reason_to_stop(bench: Workbench) -> None:
    """Whoever cannot mend a damaged snapshot may forget it."""
    runs = await three_runs(bench)
    at(bench, snapshot_key("home", runs[1])).write_bytes(b"no manifest")
    await forget(bench, runs[1])
    await prune(bench)
    assert await bench.snapshots() == [runs[0], runs[2]]


async def test_foreign_objects_are_left_alone(bench: Workbench) -> None:
    runs = await three_runs(bench)
    for key in ("home/data/notes.txt", f"home/data/{runs[0]}/notes.txt", "home/else", "other/data/x"):
        place = at(bench, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    await forget_all_but(bench, runs[2])
    await prune(bench)
    assert f"home/data/{runs[0]}/notes.txt" in objects(bench)
    assert {"home/data/notes.txt", "home/else", "other/data/x"} < objects(bench)


async def test_a_running_backup_of_this_machine_holds_the_section(bench: Workbench) -> None:
    await three_runs(bench)
    async with Catalog.open(
        bench.settings.database_path("home"), section="home", destination=bench.section.destination
    ):
        with pytest.raises(SectionBusyError):
            await prune(bench)


async def test_forgetting_needs_no_database_and_deletes_nothing(bench: Workbench) -> None:
    runs = await three_runs(bench)
    elsewhere = sibling(bench)
    before = objects(bench)
    rehearsed = await forget_section(elsewhere.settings, elsewhere.section, KeepPolicy(last=1), dry_run=True)
    assert (rehearsed.kept, rehearsed.forgotten, objects(bench)) == (1, 2, before)
    summary = await forget_section(elsewhere.settings, elsewhere.section, KeepPolicy(last=1))
    assert (summary.kept, summary.forgotten) == (1, 2)
    assert objects(bench) - before == {f"home/forgotten/{run}" for run in runs[:2]}
    assert await bench.snapshots() == [runs[2]]
    at(bench, f"home/forgotten/{runs[0]}").unlink()
    assert await bench.snapshots() == [runs[0], runs[2]], "until a prune it comes back"


class TestBesideAnotherMachine:
    """``other`` backs the same section up with a database of its own."""

    async def test_a_prune_elsewhere_makes_the_database_be_read_anew(self, bench: Workbench) -> None:
        runs = await three_runs(bench)
        other = sibling(bench)
        await rebuild_section(other.settings, other.section)
        await forget_all_but(bench, runs[2])
        await prune(other)
        before = objects(bench)
        with pytest.raises(CatalogBehindError, match="syncdb_remote home"):
            await bench.run()
        assert objects(bench) == before, "its mark was taken back"
        await rebuild_section(bench.settings, bench.section)
        assert (await bench.run()).bytes_uploaded == 0
        assert (await other.run()).bytes_uploaded == 0, "it accounts for its own prune"

    async def test_a_run_that_began_first_stops_the_prune(self, bench: Workbench) -> None:
        runs = await three_runs(bench)
        other = sibling(bench)
        await forget_all_but(bench, runs[2])
        bench.write("new", b"new")
        interrupted = await leave(bench)
        before = objects(bench)
        with pytest.raises(SectionBusyError, match=f"run {interrupted}"):
            await prune(other)
        assert objects(bench) == before
        assert (await bench.run()).bytes_uploaded == 0
        with pytest.raises(SectionBusyError, match=f"run {interrupted}"):
            await prune(other)
        await prune(bench)

    async def test_a_prune_that_began_first_stops_the_run(self, bench: Workbench) -> None:
        runs = await three_runs(bench)
        other = sibling(bench)
        await forget_all_but(bench, runs[2])
        # The mark is the second change, after the question whether deleting is allowed; then the objects go.
        with pytest.raises(Killed):
            await prune(other, kill_at=4)
        for work in (bench.run, lambda: rebuild_section(bench.settings, bench.section), lambda: prune(bench)):
            with pytest.raises(SectionBusyError, match="under way on another machine"):
                await work()
        await prune(other)
        with pytest.raises(CatalogBehindError):
            await bench.run()
        await rebuild_section(bench.settings, bench.section)
        await bench.run()
        assert picture(await bench.restored()) == picture(bench.tree)

    async def test_a_run_that_begins_while_the_prune_looks_stops_it(self, bench: Workbench) -> None:
        """Its host may not list, so it does not see the prune; the prune sees it before it deletes."""
        runs = await three_runs(bench)
        other = sibling(bench)
        await forget_all_but(bench, runs[2])
        before = objects(bench)

        async def begin_run() -> None:
            async with open_repository(bench.settings, bench.section) as repository:
                run = "20990101T000000Z-beef"
                await put_mark(repository, run_mark_key("home", run), RunMark(run=run, started_ns=0))

        with pytest.raises(SectionBusyError, match="20990101T000000Z-beef"):
            await prune(other, at_listing_of_data=begin_run)
        assert objects(bench) - before == {"home/runs/20990101T000000Z-beef.json"}

    async def test_two_prunes_exclude_each_other(self, bench: Workbench) -> None:
        runs = await three_runs(bench)
        other, third = sibling(bench), sibling(bench, "third")
        await forget_all_but(bench, runs[2])

        async def meet() -> None:
            for each in (other, third):
                with pytest.raises(SectionBusyError):
                    await prune(each)

        summary = await prune(other, at_listing_of_data=meet)
        assert summary.snapshots_removed == 2

    async def test_marks_say_who_and_when(self, bench: Workbench) -> None:
        run = (await bench.run()).snapshot
        mark = msgspec.json.decode(at(bench, run_mark_key("home", run)).read_bytes(), type=dict[str, object])
        assert mark.keys() == {"type", "format", "run", "started", "host", "software"}
        assert (mark["type"], mark["format"], mark["run"]) == ("run", 1, run)
        async with open_repository(bench.settings, bench.section) as repository:
            assert (await list_run_marks(repository)).keys() == {run}

    async def test_the_mark_of_a_prune_is_the_newest_alone(self, bench: Workbench) -> None:
        runs = await three_runs(bench)
        ids = []
        for run in runs[:2]:
            await forget(bench, run)
            ids.append((await prune(bench)).prune)
        assert ids[0] < ids[1]
        async with open_repository(bench.settings, bench.section) as repository:
            prunes = await list_prunes(repository)
        assert {(prune.id, prune.done) for prune in prunes.values()} == {(ids[1], True)}
        await bench.run()
