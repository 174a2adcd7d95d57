"""(d) Sealed manifests in each other's place, with their chunks moved, rolled back, and deleted."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import AsyncBackupError, AuthenticationError, CatalogError
from asyncbackup.format.keys import DESCRIPTOR_KEY, snapshot_key
from asyncbackup.format.range_opener import HEAD_SIZE
from asyncbackup.model import Extent
from asyncbackup.restore import restore_section
from asyncbackup.verify.section import verify_section
from tests.battery.sealed_scene import chunks_of
from tests.battery.test_d_substitution import MOVES
from tests.pipeline.kinds import bench_of
from tests.unit.restore.backup import Backup, file_entry, folder_entry
from tests.workbench import picture

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.model import RunId
    from tests.battery.score import Score

FILES = 2000
"""Digests enough for a manifest of some chunks."""


async def backup_of(base: Path, *, section: str = "home") -> Backup:
    """A sealed repository with a key file."""
    base.mkdir(exist_ok=True)
    backup = Backup(base, encrypted=True)
    backup.section = msgspec.structs.replace(backup.section, name=section)
    await backup.create()
    return backup


async def save(backup: Backup, seed: int) -> RunId:
    """A snapshot of one file that can be restored and many whose objects nobody looks for."""
    noise = random.Random(seed)
    run = backup.next_run()
    entries = [
        file_entry(
            f"many/{number:04}",
            size=1,
            sha256=noise.randbytes(32),
            extent=Extent(run=run, key=f"files/{number}", length=89, encrypted=True),
        )
        for number in range(FILES)
    ]
    return await backup.save(
        [folder_entry(""), file_entry("victim"), folder_entry("many"), *entries],
        content=lambda _: b"%d" % seed,
        run=run,
    )


def manifest(backup: Backup, run: RunId) -> Path:
    return backup.destination / snapshot_key(backup.section.name, run)


async def assert_refused(backup: Backup, run: RunId) -> None:
    """The snapshot is an error that names its manifest, and nothing is written."""
    for before in (None, b"what stood there before"):
        if before is not None:
            backup.target.mkdir()
            (backup.target / "victim").write_bytes(before)
        with pytest.raises(AuthenticationError, match=run):
            await backup.restore("victim", snapshot=run)
        if before is None:
            assert not backup.target.exists()
        else:
            assert [path.read_bytes() for path in backup.target.iterdir()] == [before]
    shutil.rmtree(backup.target)


@pytest.mark.parametrize("whose", ["older", "newer", "another section's", "another repository's"])
async def test_another_manifest_in_its_place(tmp_path: Path, score: Score, whose: str) -> None:
    backup = await backup_of(tmp_path / "here")
    runs = [await save(backup, 1), await save(backup, 2)]
    victim, other = manifest(backup, runs[1]), manifest(backup, runs[0])
    if whose == "newer":
        victim, other = other, victim
    elif whose == "another section's":
        beside = Backup(tmp_path / "here", encrypted=True)
        beside.section = msgspec.structs.replace(backup.section, name="work")
        other = manifest(beside, await save(beside, 2))
    elif whose == "another repository's":
        there = await backup_of(tmp_path / "there")
        there.last_run = runs[0]
        other = manifest(there, await save(there, 2))
        assert other.name == victim.name or other.name[:16] == victim.name[:16]
    victim.write_bytes(other.read_bytes())
    score.archives += 1
    await assert_refused(backup, runs[0] if whose == "newer" else runs[1])
    if whose == "older":
        with pytest.raises(AuthenticationError, match=runs[1]):
            await backup.restore("victim")


@pytest.mark.parametrize("move", MOVES)
async def test_chunks_of_a_manifest_that_were_moved(tmp_path: Path, score: Score, move: str) -> None:
    backup = await backup_of(tmp_path)
    run = await save(backup, 1)
    stored = manifest(backup, run)
    body = stored.read_bytes()
    chunks = chunks_of(body)
    assert len(chunks) > 3
    for at in range(1, len(chunks)):
        changed = body[:HEAD_SIZE] + b"".join(MOVES[move](list(chunks), at))
        if changed == body:
            continue
        stored.write_bytes(changed)
        score.archives += 1
        await assert_refused(backup, run)
    stored.write_bytes(body)
    assert (await backup.restore("victim", snapshot=run)).failures == ()


async def test_a_manifest_that_was_rolled_back_or_deleted(tmp_path: Path, score: Score) -> None:
    """Which manifests there are nobody vouches for; a machine with its database remembers."""
    bench = await bench_of("sealed-mirror-plain", tmp_path, key_file=True)
    bench.write("f", b"older")
    older, looked = (await bench.run()).snapshot, picture(bench.tree)
    bench.write("f", b"newer")
    newer = (await bench.run()).snapshot
    root = tmp_path / "destination"
    stored = {run: (root / snapshot_key("home", run)) for run in (older, newer)}
    body = stored[newer].read_bytes()

    stored[newer].write_bytes(stored[older].read_bytes())
    score.archives += 1
    with pytest.raises(AuthenticationError, match=newer):
        await bench.restored(name="replaced")
    assert not (tmp_path / "replaced").exists()
    assert (await verify_section(bench.settings, bench.section)).damaged_objects >= 1

    stored[newer].unlink()
    score.archives += 1
    with pytest.raises(CatalogError, match="syncdb_remote"):
        await bench.run()
    missed = await verify_section(bench.settings, bench.section)
    assert any(newer in damage.key for damage in missed.damaged)
    with pytest.raises(AsyncBackupError):
        await bench.restored(snapshot=newer, name="deleted")
    # Without the database it is an older state of the repository, and whole.
    assert picture(await bench.restored(name="older")) == looked

    stored[newer].write_bytes(body)
    assert (await bench.run()).files_unchanged == 1


async def test_a_base_that_was_rolled_back(tmp_path: Path, score: Score) -> None:
    bench = await bench_of("sealed-mirror-plain", tmp_path, key_file=True)
    for number in range(20):
        bench.write(f"f{number}", b"1")
    runs = [(await bench.run()).snapshot]
    for content in (b"2", b"3"):
        bench.write("f0", content)
        runs.append((await bench.run()).snapshot)
    root = tmp_path / "destination"
    base = (root / snapshot_key("home", runs[0])).read_bytes()
    (root / snapshot_key("home", runs[1])).write_bytes(base)
    score.archives += 1
    with pytest.raises(AuthenticationError, match=runs[1]):
        await bench.restored(snapshot=runs[1], name="target")
    (root / snapshot_key("home", runs[0])).write_bytes((root / snapshot_key("home", runs[2])).read_bytes())
    score.archives += 1
    for run in runs:
        with pytest.raises(AuthenticationError):
            await bench.restored(snapshot=run, name="target")
    assert not (tmp_path / "target").exists()


async def test_the_descriptor_of_another_repository_with_the_same_key_file(
    tmp_path: Path, score: Score
) -> None:
    here, there = [await backup_of(tmp_path / name) for name in ("here", "there")]
    run = await save(here, 1)
    (here.destination / DESCRIPTOR_KEY).write_bytes((there.destination / DESCRIPTOR_KEY).read_bytes())
    score.archives += 1
    with pytest.raises(AuthenticationError):
        await restore_section(here.settings, here.section, target=here.target, snapshot=run)
    assert not here.target.exists()
