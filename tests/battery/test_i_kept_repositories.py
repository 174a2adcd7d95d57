"""(i) Repositories of every released format restore to what was saved, and today's program goes on."""

from __future__ import annotations

import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from asyncbackup.format.descriptor import FORMAT
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.verify.section import verify_section
from tests.data.make import HERE, LAYOUTS, Told, configured, told
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

SET_ID = 0o6000


def kept() -> list[str]:
    """``format-1/mirror`` and so on."""
    return sorted(str(path.relative_to(HERE)).removesuffix(".tar.gz") for path in HERE.glob("*/*.tar.gz"))


def test_every_format_and_layout_is_kept() -> None:
    assert kept() == sorted(f"format-{n}/{layout}" for n in range(1, FORMAT + 1) for layout in LAYOUTS)


@pytest.mark.parametrize("name", kept())
async def test_it_restores_and_goes_on(tmp_path: Path, folder_destination: Path, name: str) -> None:
    with tarfile.open(HERE / f"{name}.tar.gz") as archive:
        archive.extractall(folder_destination, filter="tar")
    pictures: dict[str, Told] = json.loads((HERE / f"{name}.json").read_text())
    layout = name.partition("/")[2]
    bench = Workbench(
        tmp_path, f"file://{folder_destination}", encrypted=layout.startswith(("sealed", "hidden"))
    )
    configured(bench, layout)
    assert await bench.snapshots() == list(pictures)
    await check(bench, pictures)
    verified = await verify_section(bench.settings, bench.section, read_percent=100.0)
    assert verified.damaged == ()

    await rebuild_section(bench.settings, bench.section)
    for child in (tmp_path / list(pictures)[-1]).iterdir():
        child.rename(bench.tree / child.name)
    bench.write("new", b"of today")
    summary = await bench.run()
    assert summary.failures == ()
    assert picture(await bench.restored(privileged=True)) == picture(bench.tree)
    await check(bench, pictures, again="again ")


async def check(bench: Workbench, pictures: dict[str, Told], *, again: str = "") -> None:
    """Every snapshot restores to what it was, as far as this user and file system can keep it."""
    for snapshot, looked in pictures.items():
        target = await bench.restored(snapshot=snapshot, name=again + snapshot, privileged=True)
        assert comparable(told(picture(target)), target) == comparable(looked, target)


def comparable(looked: Told, target: Path) -> Told:
    """Without what only root restores, or this file system does not keep."""
    attributes = keeps_attributes(target)
    root = os.geteuid() == 0
    found: Told = {}
    for path, (mode, uid, gid, mtime_ns, first, body, xattrs) in looked.items():
        assert isinstance(mode, int)
        owner = [uid, gid] if root else []
        found[path] = [
            mode if root else mode & ~SET_ID,
            *owner,
            mtime_ns,
            first,
            body,
            xattrs if attributes else {},
        ]
    return found


def keeps_attributes(folder: Path) -> bool:
    """Whether the file system has user attributes."""
    probe = folder.parent / "attributes"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"1")
    except OSError:
        return False
    return True
