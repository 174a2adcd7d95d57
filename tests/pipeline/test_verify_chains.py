"""Differences, forgotten snapshots, revisions: what is needed is looked at, once, and nothing else."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog, CatalogIdentity
from asyncbackup.catalog.runs import RunRecord
from asyncbackup.format.keys import forgotten_key, prune_done_key, snapshot_key
from asyncbackup.model import EMPTY_SHA256, Entry, RunId
from asyncbackup.verify.section import verify_section
from tests.pipeline.pack_fixtures import put_manifest, put_pack
from tests.pipeline.repository_fixtures import FIRST, repository_at, save, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.repository.open import Repository
    from asyncbackup.verify.summary import VerifySummary

Case = tuple["Settings", "SectionSettings"]
Bases = dict[int, int | None]

LINE: Bases = {0: None, 1: 0, 2: 1, 3: 2}
"""Four snapshots, each a difference to the one before it."""


@asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Repository]:
    async with repository_at(*case) as repository:
        yield repository


@pytest.fixture
def case(tmp_path: Path) -> Case:
    (tmp_path / "store").mkdir()
    return settings_for(tmp_path, f"file://{tmp_path}/store")


def run(number: int) -> RunId:
    return RunId(f"2026110{number + 1}T080000Z-aaaa")


def key_of(number: int, name: str) -> str:
    return f"home/data/{run(number)}/files/{name}"


async def put_history(case: Case, bases: Bases, *, files: int = 3) -> dict[int, dict[bytes, Entry]]:
    """Snapshots with these bases. Each adds ``new-N``, changes ``f0``, and deletes its base's ``new-…``."""
    trees: dict[int, dict[bytes, Entry]] = {}
    async with opened(case) as repository:
        for number, base in bases.items():
            names = {b"f0": b"%d" % number, b"new-%d" % number: b"new"}
            if base is None:
                names |= {b"f%d" % place: b"%d" % place for place in range(1, files)}
            own = await save(repository, run(number), names, manifest=False)
            gone = [] if base is None else [b"new-%d" % base]
            tree = {**({} if base is None else trees[base]), **own}
            trees[number] = {path: entry for path, entry in tree.items() if path not in gone}
            await put_manifest(
                repository,
                run(number),
                own.values(),
                deleted=gone,
                base=None if base is None else run(base),
                depth=depth_of(bases, number),
                totals=trees[number].values(),
            )
    return trees


def depth_of(bases: Mapping[int, int | None], number: int) -> int:
    base = bases[number]
    return 0 if base is None else depth_of(bases, base) + 1


async def forget(case: Case, *numbers: int) -> None:
    async with opened(case) as repository:
        for number in numbers:
            await repository.store.put(forgotten_key("home", run(number)), b"", sha256=EMPTY_SHA256)


async def delete(case: Case, *keys: str) -> None:
    async with opened(case) as repository:
        await repository.store.delete(keys)


def brief(summary: VerifySummary) -> list[tuple[str, tuple[bytes, ...], tuple[str, ...]]]:
    return [(damage.key, damage.paths, damage.snapshots) for damage in summary.damaged]


async def test_every_manifest_of_a_history_is_read_once(case: Case) -> None:
    bases: Bases = {0: None, 1: 0, 2: 0, 3: 2, 4: 0, 5: 4, 6: 4, 7: 6}
    trees = await put_history(case, bases)
    summary = await verify_section(*case)
    assert (summary.damaged, summary.snapshots) == ((), 8)
    contents = {
        (entry.extent.run, entry.extent.key)
        for tree in trees.values()
        for entry in tree.values()
        if entry.extent is not None
    }
    assert summary.objects == len(contents)
    # The descriptor, eight manifests, and the files, which a folder keeps no checksum of.
    assert summary.requests["GetObject"] == 1 + 8 + summary.objects_read


async def test_with_damage_every_manifest_is_read_twice_and_no_oftener(case: Case) -> None:
    await put_history(case, {0: None, 1: 0, 2: 0, 3: 2, 4: 0, 5: 4, 6: 4, 7: 6})
    await delete(case, key_of(0, "f1"))
    summary = await verify_section(*case)
    assert brief(summary) == [(key_of(0, "f1"), (b"f1",), tuple(run(number) for number in range(8)))]
    assert summary.requests["GetObject"] == 1 + 2 * 8 + summary.objects_read


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_damage_is_of_the_snapshots_that_still_have_it(case: Case, number: int) -> None:
    """``f0`` is replaced by the next snapshot, and ``new-N`` is deleted by it."""
    await put_history(case, LINE)
    await delete(case, key_of(number, "f0"), key_of(number, f"new-{number}"))
    summary = await verify_section(*case)
    assert brief(summary) == [
        (key_of(number, "f0"), (b"f0",), (run(number),)),
        (key_of(number, f"new-{number}"), (b"new-%d" % number,), (run(number),)),
    ]


async def test_branches_of_a_history_are_told_apart(case: Case) -> None:
    """Snapshot 2 does not rest on 1, which replaced ``f0``."""
    await put_history(case, {0: None, 1: 0, 2: 0, 3: 2})
    await delete(case, key_of(0, "new-0"), key_of(2, "f0"))
    async with opened(case) as repository:
        own = await save(repository, run(4), {b"f1": b"other"}, manifest=False)
        await put_manifest(repository, run(4), own.values(), base=run(1), depth=2, totals=())
    summary = await verify_section(*case)
    assert brief(summary) == [
        (key_of(0, "new-0"), (b"new-0",), (run(0),)),
        (key_of(2, "f0"), (b"f0",), (run(2),)),
    ]


async def test_what_a_forgotten_snapshot_needed_alone_is_not_missed(case: Case) -> None:
    """A prune deletes it, while the manifest stays for those that rest on it."""
    await put_history(case, LINE)
    await forget(case, 0, 1)
    await delete(case, key_of(0, "f0"), key_of(0, "new-0"), key_of(1, "f0"), key_of(1, "new-1"))
    summary = await verify_section(*case)
    assert (summary.damaged, summary.snapshots) == ((), 2)


async def test_what_is_still_needed_of_a_forgotten_snapshot_is_missed(case: Case) -> None:
    await put_history(case, LINE)
    await forget(case, 0, 1)
    await delete(case, key_of(0, "f1"))
    assert brief(await verify_section(*case)) == [(key_of(0, "f1"), (b"f1",), (run(2), run(3)))]


async def test_between_a_forgotten_base_and_a_verified_one_only_the_lines_in_between_count(
    case: Case,
) -> None:
    await put_history(case, LINE)
    await forget(case, 1, 2)
    await delete(case, key_of(1, "f0"), key_of(1, "new-1"), key_of(2, "f0"), key_of(2, "new-2"))
    summary = await verify_section(*case)
    assert (summary.damaged, summary.snapshots) == ((), 2)
    await delete(case, key_of(0, "f2"), key_of(3, "f0"))
    assert brief(await verify_section(*case)) == [
        (key_of(0, "f2"), (b"f2",), (run(0), run(3))),
        (key_of(3, "f0"), (b"f0",), (run(3),)),
    ]


async def test_a_chosen_snapshot_is_verified_with_all_that_it_rests_on(case: Case) -> None:
    await put_history(case, LINE)
    await delete(case, key_of(0, "f1"), key_of(2, "f0"))
    assert brief(await verify_section(*case, snapshots=[run(3)])) == [(key_of(0, "f1"), (b"f1",), (run(3),))]


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("how", ["missing", "damaged"])
async def test_a_lost_base_is_damage_of_all_that_rest_on_it(case: Case, forgotten: bool, how: str) -> None:
    await put_history(case, {0: None, 1: 0, 2: None, 3: 1, 4: 2})
    if forgotten:
        await forget(case, 0)
    key = snapshot_key("home", run(0))
    if how == "missing":
        await delete(case, key)
        # Nothing tells of a snapshot whose manifest is gone, but those that rest on it.
        rests = [run(1), run(3)]
    else:
        async with opened(case) as repository:
            body = bytearray(await repository.store.get(key, limit=10**6))
            body[len(body) // 2] ^= 1
            await repository.store.put(key, bytes(body), sha256=hashlib.sha256(body).digest())
        rests = [run(1), run(3)] if forgotten else [run(0), run(1), run(3)]
    summary = await verify_section(*case)
    assert brief(summary) == [(key, (), tuple(rests))]
    assert summary.broken_snapshots == tuple(rests)
    assert (summary.damaged[0].reason == "it is missing") == (how == "missing")


async def test_a_lost_link_in_the_middle_costs_what_is_above_it_alone(case: Case) -> None:
    await put_history(case, LINE)
    await delete(case, snapshot_key("home", run(2)), key_of(0, "f1"))
    assert brief(await verify_section(*case)) == [
        (snapshot_key("home", run(2)), (), (run(3),)),
        (key_of(0, "f1"), (b"f1",), (run(0), run(1))),
    ]


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_depth_that_does_not_fit_is_damage(case: Case, forgotten: bool) -> None:
    async with opened(case) as repository:
        entries = await save(repository, run(0), {b"a": b"1"}, manifest=False)
        await put_manifest(repository, run(0), entries.values())
        await put_manifest(repository, run(1), [], base=run(0), depth=2, totals=entries.values())
        await put_manifest(repository, run(2), [], base=run(1), depth=2, totals=entries.values())
    if forgotten:
        await forget(case, 1)
    summary = await verify_section(*case)
    assert brief(summary) == [(snapshot_key("home", run(2)), (), (run(2),))]
    assert "depth 2 does not fit its base" in summary.damaged[0].reason


async def test_of_several_revisions_the_newest_counts(case: Case) -> None:
    """A prune wrote a pack anew; it was ended before it deleted what it replaced, or after."""
    async with opened(case) as repository:
        old = await put_pack(repository, FIRST, {b"a": b"1", b"b": b"2"})
        await put_manifest(repository, FIRST, old.entries.values(), packs=[old.pack])
        new = await put_pack(repository, run(5), {b"a": b"1", b"b": b"2"})
        await put_manifest(repository, FIRST, new.entries.values(), packs=[new.pack], revision=1)
        assert (await verify_section(*case)).damaged == ()
        await repository.store.delete([old.key])
        assert (await verify_section(*case)).damaged == ()
        await repository.store.delete([snapshot_key("home", FIRST)])
        assert (await verify_section(*case)).damaged == ()
        await repository.store.delete([new.key])
    assert brief(await verify_section(*case)) == [(new.key, (b"a", b"b"), (FIRST,))]


async def test_the_last_snapshot_known_is_not_missed_once_it_is_forgotten_or_pruned(case: Case) -> None:
    await put_history(case, {0: None, 1: None})
    settings, section = case
    identity = CatalogIdentity(section.name, section.destination, "0" * 32)
    record = RunRecord(run=run(1), started_ns=1, finished_ns=2, committed=True)
    async with Catalog.create(settings.database_path(section.name), identity) as catalog:
        await catalog.runs.replace_all([record])
    await forget(case, 1)
    assert (await verify_section(*case)).snapshots == 1
    await delete(case, snapshot_key("home", run(1)))
    assert (await verify_section(*case)).damaged == ()
    await delete(case, forgotten_key("home", run(1)))
    assert brief(await verify_section(*case)) == [(snapshot_key("home", run(1)), (), (run(1),))]
    async with opened(case) as repository:
        await repository.store.put(prune_done_key("home", run(2)), b"", sha256=EMPTY_SHA256)
    assert (await verify_section(*case)).damaged == ()


async def test_a_pack_of_a_base_is_described_there(case: Case) -> None:
    """A difference describes the packs of its own lines alone."""
    async with opened(case) as repository:
        packed = await put_pack(repository, run(0), {b"a": b"1", b"b": b"2"})
        await put_manifest(repository, run(0), packed.entries.values(), packs=[packed.pack])
        touched = msgspec.structs.replace(packed.entries[b"b"], uid=7)
        await put_manifest(
            repository,
            run(1),
            [touched],
            base=run(0),
            depth=1,
            packs=[packed.pack],
            totals=packed.entries.values(),
        )
        await put_manifest(repository, run(2), [], base=run(1), depth=2, totals=packed.entries.values())
    assert (await verify_section(*case, read_percent=100)).damaged == ()
    await forget(case, 0, 1)
    assert (await verify_section(*case, read_percent=100)).damaged == ()


async def test_what_a_history_adds_up_to_is_compared_when_all_is_read(case: Case) -> None:
    """Restoring refuses a snapshot that does not add up, so verifying must not call it sound."""
    bases: Bases = {0: None, 1: 0, 2: 0, 3: 2, 4: 1, 5: 4, 6: None, 7: 6}
    trees = await put_history(case, bases)
    assert (await verify_section(*case, read_percent=100)).damaged == ()
    await forget(case, 1, 2)
    assert (await verify_section(*case, read_percent=100)).damaged == ()
    async with opened(case) as repository:
        entries = trees[5]
        missing = [entry for path, entry in entries.items() if path != b"f1"]
        await put_manifest(repository, run(5), [entries[b"f2"]], base=run(4), depth=3, totals=missing)
    # Read for itself it is merged anyhow.
    assert brief(await verify_section(*case, snapshots=[run(5)])) == [
        (snapshot_key("home", run(5)), (), (run(5),))
    ]
    assert (await verify_section(*case)).damaged == ()
    summary = await verify_section(*case, read_percent=100)
    assert brief(summary) == [(snapshot_key("home", run(5)), (), (run(5),))]
    assert "does not add up" in summary.damaged[0].reason
    assert summary.broken_snapshots == (run(5),)
