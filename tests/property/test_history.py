"""Random histories of a tree: whatever was done between runs, every snapshot restores as it was."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncbackup import engine
from asyncbackup.pipeline import attributes
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.verify.section import verify_section
from tests.workbench import Workbench, age, picture

NAMES = st.sampled_from([b"a", b"b", b"a-b", b"a0", b"\xff"])
PATHS = st.one_of(NAMES, st.lists(NAMES, min_size=1, max_size=3).map(b"/".join))
CONTENTS = st.binary(max_size=40)
BALLAST = 40


class DeadError(Exception):
    """Where a run of these tests dies."""


async def die(*_: object, **__: object) -> None:
    raise DeadError


class History(RuleBasedStateMachine):
    """The tree lies on disk; ``snapshots`` remembers how it looked at each run."""

    encrypted = False

    @initialize()
    def begin(self) -> None:
        self.window, attributes.RACY_WINDOW_NS = attributes.RACY_WINDOW_NS, 0
        self.base = Path(tempfile.mkdtemp(prefix="asyncbackup-history-"))
        (self.base / "destination").mkdir()
        self.bench = Workbench(self.base, f"file://{self.base}/destination", encrypted=self.encrypted)
        self.bench.configure(allow_empty_source=True)
        self.snapshots: dict[str, dict[bytes, tuple[object, ...]]] = {}
        for path in (b"a/b/a0", b"a/b/b/a", b"a/a", b"a0/a", b"a-b/a", b"b"):
            self.make_way(path).write_bytes(path)
        # What never changes: beside it the changes are few, so that snapshots rest on each other.
        for number in range(BALLAST):
            self.make_way(b"ballast/%02d" % number).write_bytes(b"")
        asyncio.run(self.bench.initialise())

    def teardown(self) -> None:
        if hasattr(self, "base"):
            attributes.RACY_WINDOW_NS = self.window
            shutil.rmtree(self.base)

    def place(self, path: bytes) -> Path:
        return Path(os.fsdecode(os.fsencode(self.bench.tree) + b"/" + path))

    def make_way(self, path: bytes) -> Path:
        """The path with nothing at it and folders above it."""
        place = self.place(path)
        for above in reversed(place.relative_to(self.bench.tree).parents):
            folder = self.bench.tree / above
            if folder.is_symlink() or folder.is_file():
                folder.unlink()
            folder.mkdir(exist_ok=True)
        self.remove(path)
        return place

    @rule(path=PATHS)
    def remove(self, path: bytes) -> None:
        place = self.place(path)
        try:
            status = place.lstat()
        except OSError:
            return
        if os.path.isdir(place) and not place.is_symlink():
            shutil.rmtree(place)
        elif status:
            place.unlink()

    @rule(path=PATHS, content=CONTENTS)
    def write(self, path: bytes, content: bytes) -> None:
        self.make_way(path).write_bytes(content)

    @rule(path=PATHS, content=CONTENTS)
    def overwrite(self, path: bytes, content: bytes) -> None:
        place = self.place(path)
        if place.is_file():
            place.write_bytes(content)

    @rule(path=PATHS)
    def make_folder(self, path: bytes) -> None:
        self.make_way(path).mkdir()

    @rule(path=PATHS, to=PATHS)
    def link(self, path: bytes, to: bytes) -> None:
        os.symlink(to, os.fsencode(self.make_way(path)))

    @rule(path=PATHS, first=PATHS)
    def hard_link(self, path: bytes, first: bytes) -> None:
        source = self.place(first)
        if source.is_file() and not source.is_symlink() and path != first:
            place = self.make_way(path)
            if source.is_file() and not source.is_symlink():
                os.link(source, place)

    @rule(path=PATHS, to=PATHS)
    def move(self, path: bytes, to: bytes) -> None:
        inside = to == path or to.startswith(path + b"/") or path.startswith(to + b"/")
        if not inside and os.path.lexists(self.place(path)):
            place = self.make_way(to)
            if os.path.lexists(self.place(path)):
                self.place(path).rename(place)

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o644, 0o755, 0o700]))
    def change_mode(self, path: bytes, mode: int) -> None:
        place = self.place(path)
        if os.path.lexists(place) and not place.is_symlink():
            place.chmod(mode)

    @rule(path=PATHS)
    def touch(self, path: bytes) -> None:
        if os.path.lexists(self.place(path)):
            age(self.place(path))

    @rule(packed=st.booleans(), zstd_level=st.sampled_from([0, 3]))
    def change_layout(self, packed: bool, zstd_level: int) -> None:
        self.bench.configure(packed=packed, zstd_level=zstd_level)

    @rule(checksum=st.booleans())
    def save(self, checksum: bool) -> None:
        summary = asyncio.run(self.bench.run(checksum=checksum))
        assert not summary.failures
        assert summary.files_scanned == (summary.files_new + summary.files_changed + summary.files_unchanged)
        self.snapshots[summary.snapshot] = picture(self.bench.tree)
        self.check(summary.snapshot)

    @rule()
    def die_before_the_manifest(self) -> None:
        with patch.object(engine, "write_manifest", die), pytest.raises(DeadError):
            asyncio.run(self.bench.run())

    @rule(step=st.sampled_from(["settle", "note_written"]))
    def die_after_the_manifest(self, step: str) -> None:
        """Before the catalog knows of it, or right after."""
        with patch.object(engine, step, die), pytest.raises(DeadError):
            asyncio.run(self.bench.run())
        (snapshot,) = set(asyncio.run(self.bench.snapshots())) - self.snapshots.keys()
        self.snapshots[snapshot] = picture(self.bench.tree)
        self.check(snapshot)

    @precondition(lambda self: self.snapshots)
    @rule()
    def rebuild(self) -> None:
        asyncio.run(rebuild_section(self.bench.settings, self.bench.section))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        self.check(data.draw(st.sampled_from(sorted(self.snapshots))))

    def check(self, snapshot: str) -> None:
        target = asyncio.run(self.bench.restored(snapshot=snapshot))
        try:
            assert picture(target) == self.snapshots[snapshot]
        finally:
            shutil.rmtree(target)

    @precondition(lambda self: self.snapshots)
    @rule()
    def verify(self) -> None:
        summary = asyncio.run(verify_section(self.bench.settings, self.bench.section, read_percent=100.0))
        assert not summary.damaged

    @invariant()
    def nothing_temporary_is_left(self) -> None:
        if hasattr(self, "base"):
            assert not list((self.base / "destination").rglob(".asyncbackup*"))


class SealedHistory(History):
    """The same of an encrypted section."""

    encrypted = True


_SETTINGS = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHistory = History.TestCase
TestHistory.settings = _SETTINGS
TestSealedHistory = SealedHistory.TestCase
TestSealedHistory.settings = settings(_SETTINGS, max_examples=4)
