"""A sealed section whose objects somebody exchanges, and what a restore must make of it: nothing."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.engine import run_section
from asyncbackup.format.envelope import CHUNK_SIZE, SEALED_CHUNK_SIZE
from asyncbackup.format.keys import extent_key
from asyncbackup.format.range_opener import HEAD_SIZE
from asyncbackup.initialise import create_database
from asyncbackup.repository.manifests import read_manifest
from asyncbackup.repository.open import open_repository
from tests.pipeline.kinds import KINDS as ALL_KINDS
from tests.pipeline.kinds import bench_of

if TYPE_CHECKING:
    from asyncbackup.config import SectionSettings
    from asyncbackup.model import Entry
    from tests.workbench import Workbench

KINDS = [kind for kind in ALL_KINDS if not kind.startswith("clear")]
VICTIM = b"victim"
TWIN = b"twin"
SIZE = 2 * CHUNK_SIZE + 500
"""Three chunks."""
OLD = b"what stood there before"


class Scene:
    """The section ``home`` with two runs, a section ``work`` beside it and another host's repository, all
    with one key file and one tree. Every content is noise, so that equal sizes are stored as such."""

    def __init__(self, bench: Workbench, other: Workbench) -> None:
        self.bench = bench
        self.other = other
        self.runs: list[str] = []
        self.work = ""
        self.entries: dict[bytes, Entry] = {}
        self._changed: dict[Path, bytes] = {}
        self._targets = itertools.count()

    @classmethod
    async def make(cls, base: Path, kind: str) -> Scene:
        scene = cls(
            await bench_of(kind, base / "here", key_file=True),
            await bench_of(kind, base / "there", key_file=True),
        )
        for bench in (scene.bench, scene.other):
            for name in (VICTIM, TWIN):
                bench.write(name, random.Random(name).randbytes(SIZE))
        scene.runs.append((await scene.bench.run()).snapshot)
        for bench in (scene.bench, scene.other):
            for name in (VICTIM, TWIN):
                bench.write(name, random.Random(b"later " + name).randbytes(SIZE))
        await scene.other.run()
        work = scene._work()
        await create_database(scene.bench.settings, work)
        scene.work = (await run_section(scene.bench.settings, work)).snapshot
        scene.runs.append((await scene.bench.run()).snapshot)
        scene.entries = await scene.bench.entries()
        return scene

    def change(self, stored: Path, body: bytes) -> None:
        """Put another body in the place of an object, until :meth:`mend`."""
        self._changed.setdefault(stored, stored.read_bytes())
        stored.write_bytes(body)

    def mend(self) -> None:
        """Put every object back as it was."""
        for stored, body in self._changed.items():
            stored.write_bytes(body)
        self._changed.clear()

    def _work(self) -> SectionSettings:
        return msgspec.structs.replace(self.bench.section, name="work")

    def stored(self, path: bytes = VICTIM) -> Path:
        """The object in which the newest version of a file lies."""
        return _at(self.bench, "home", self.entries[path])

    def place(self) -> tuple[Path, int]:
        """The victim's object, and the number of a chunk that is the victim's alone."""
        entry = self.entries[VICTIM]
        assert entry.extent is not None
        middle = entry.extent.offset + entry.extent.skip + SIZE // 2 if entry.extent.in_pack else SIZE // 2
        return _at(self.bench, "home", entry), middle // CHUNK_SIZE

    async def another(self, whose: str) -> Path:
        """An object to put in the place of the victim's: of the twin, of an earlier run, of another
        section, or of another host."""
        bench = self.bench
        if whose == "file":
            return self.stored(TWIN)
        if whose == "run":
            return _at(bench, "home", (await bench.entries(self.runs[0]))[VICTIM])
        if whose == "host":
            return _at(self.other, "home", (await self.other.entries())[VICTIM])
        async with open_repository(bench.settings, self._work()) as repository:
            found = {e.path: e async for page in read_manifest(repository, self.work) for e in page}
        return _at(bench, "work", found[VICTIM])

    async def assert_refused(self) -> None:
        """No version of the victim appears in a restore: not in a new folder, not over an earlier one."""
        for before in (None, OLD):
            target = self.bench.base / f"target{next(self._targets)}"
            if before is not None:
                target.mkdir()
                (target / os.fsdecode(VICTIM)).write_bytes(before)
            summary = await self.bench.restore(target)
            failed = {failure.path for failure in summary.failures}
            assert VICTIM in failed
            left = {path.name: path.read_bytes() for path in target.iterdir()}
            assert left.pop(os.fsdecode(VICTIM), None) == before
            for name, content in left.items():
                assert os.fsencode(name) not in failed
                assert content == (self.bench.tree / name).read_bytes()


class Scenes:
    """One scene a kind, made when it is first asked for. Who changes one mends it."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._made: dict[str, Scene] = {}

    async def of(self, kind: str) -> Scene:
        if kind not in self._made:
            self._made[kind] = await Scene.make(self._base / kind, kind)
        return self._made[kind]

    def mend(self) -> None:
        for scene in self._made.values():
            scene.mend()


def _at(bench: Workbench, section: str, entry: Entry) -> Path:
    assert entry.extent is not None
    return Path(bench.section.destination.removeprefix("file://")) / extent_key(section, entry.extent)


def chunks_of(body: bytes) -> list[bytes]:
    """The chunks of a sealed object."""
    return [
        body[place : place + SEALED_CHUNK_SIZE] for place in range(HEAD_SIZE, len(body), SEALED_CHUNK_SIZE)
    ]
