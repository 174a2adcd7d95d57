"""A prune killed at any change it makes: all snapshots restore, and one more prune ends as if undisturbed."""

from __future__ import annotations

import os
import shutil
from random import Random
from typing import TYPE_CHECKING

import pytest

from asyncbackup.pipeline import attributes
from tests.prunes import Killed, forget, leave, objects, prune
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


async def history(bench: Workbench) -> dict[str, object]:
    """Five snapshots, three of them forgotten, and an interrupted run; pictures of the kept ones."""
    await bench.initialise()
    kept: dict[str, object] = {}
    forgotten: list[str] = []
    random = Random(1)
    for number in range(20):
        bench.write(f"d/{number}", random.randbytes(2000))
    bench.write("same", b"same")
    bench.write("one", b"linked")
    os.link(bench.tree / "one", bench.tree / "two")
    for number in range(5):
        bench.write("changing", b"%d" % number * 100)
        for changed in range(15 if number == 1 else 0):
            bench.write(f"d/{changed}", random.randbytes(2000))
        bench.write(f"d{number}/only here", b"content")
        run = (await bench.run()).snapshot
        shutil.rmtree(bench.tree / f"d{number}")
        if number in {1, 3}:
            bench.write(f"d{number}/only here", b"content")
            run = (await bench.run()).snapshot
            kept[run] = picture(bench.tree)
        else:
            forgotten.append(run)
    if not bench.section.packed:
        bench.write("new", b"of an interrupted run")
        await leave(bench)
    await forget(bench, *(run for run in await bench.snapshots() if run not in kept))
    assert len(forgotten) == 3
    return kept


def without_prunes(keys: set[str]) -> set[str]:
    """Keys but those of marks of prunes (one killed at its very end has left nothing to do but its own),
    and without the ids of those that packed anew."""
    ids = {key.partition("/prunes/")[2].partition(".")[0] for key in keys if "/prunes/" in key}
    named = {
        run for run in (key.split("/")[2] for key in keys if "/packs/" in key) if run not in kept_runs(keys)
    }
    return {
        "/".join("ID" if part in ids | named else part for part in key.split("/"))
        for key in keys
        if "/prunes/" not in key
    }


def kept_runs(keys: set[str]) -> set[str]:
    """Runs that have a mark: prunes have none there."""
    return {key.partition("/runs/")[2].removesuffix(".json") for key in keys if "/runs/" in key}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_every_change(
    tmp_path: Path, folder_destination: Path, after: bool, packed: bool
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    bench.configure(packed=packed)
    kept = await history(bench)
    state, saved = bench.settings.state_dir, tmp_path / "saved"
    saved.mkdir()

    def copy(source: Path, target: Path) -> None:
        for name in ("state", "destination"):
            at = {"state": state, "destination": folder_destination}[name]
            came, goes = (at, target / name) if source == saved.parent else (source / name, at)
            shutil.rmtree(goes, ignore_errors=True)
            shutil.copytree(came, goes, symlinks=True)

    copy(saved.parent, saved)
    changes: list[str] = []
    summary = await prune(bench, changes=changes)
    assert (summary.packs_rewritten > 0) == packed
    undisturbed = without_prunes(objects(bench))
    assert len(changes) > 10
    for number in range(1, len(changes) + 1):
        copy(saved, saved.parent)
        with pytest.raises(Killed):
            await prune(bench, kill_at=number, after=after)
        for snapshot, looked in kept.items():
            assert picture(await bench.restored(snapshot=snapshot)) == looked
            shutil.rmtree(tmp_path / "restored")
        if number % 4:
            await prune(bench)
            assert without_prunes(objects(bench)) == undisturbed
        else:
            again = await bench.run()
            assert (again.files_new, again.bytes_uploaded) == (0 if packed else 1, 0)
            assert picture(await bench.restored()) == picture(bench.tree)
            shutil.rmtree(tmp_path / "restored")
