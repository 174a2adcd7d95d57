"""Failures confined to single entries: named, counted, and nothing else is lost for them."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncbackup.pipeline import attributes
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """The effective user without rights, for the whole process, until the block ends."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
async def open_bench() -> AsyncIterator[Workbench]:
    """A section in a place that every user can reach; everything in it belongs to nobody."""
    if os.geteuid() != 0:
        pytest.skip("changing the effective user needs root")
    base = Path(tempfile.mkdtemp(prefix="asyncbackup-test-"))
    base.chmod(0o755)
    os.chown(base, NOBODY, NOBODY)
    try:
        with as_nobody():
            (base / "destination").mkdir()
            bench = Workbench(base, f"file://{base}/destination")
            await bench.initialise()
        yield bench
    finally:
        shutil.rmtree(base)


async def test_unreadable_files_and_folders_are_named_and_the_rest_is_saved(open_bench: Workbench) -> None:
    bench = open_bench
    with as_nobody():
        bench.write("readable", b"1")
        bench.write("secret", b"2").chmod(0)
        bench.write("closed/inside", b"3")
        (bench.tree / "closed").chmod(0)
        summary = await bench.run()
        entries = await bench.entries()
    assert (summary.files_scanned, summary.files_new, summary.files_failed) == (2, 1, 1)
    assert {f.path: f.reason for f in summary.failures} == {
        b"secret": "cannot read: Permission denied",
        b"closed": "cannot list: Permission denied",
    }
    assert set(entries) == {b"", b"readable", b"closed"}


async def test_what_cannot_be_read_any_more_stays_in_the_snapshot_as_it_was(open_bench: Workbench) -> None:
    bench = open_bench
    with as_nobody():
        bench.write("secret", b"as it was")
        bench.write("closed/inside", b"3")
        await bench.run()
        bench.write("secret", b"as it is now").chmod(0)
        (bench.tree / "closed").chmod(0)
        summary = await bench.run()
        assert (summary.files_failed, summary.files_deleted) == (1, 0)
        assert b"closed/inside" in await bench.entries()
        (bench.tree / "closed").chmod(0o755)
        (bench.tree / "secret").chmod(0o644)
        third = await bench.run()
        assert third.files_failed == 0
        target = await bench.restored()
    assert (target / "secret").read_bytes() == b"as it is now"
    assert picture(target) == picture(bench.tree)


async def test_a_difference_leaves_what_cannot_be_read_as_it_was(open_bench: Workbench) -> None:
    bench = open_bench
    with as_nobody():
        for number in range(20):
            bench.write(f"f{number:02}", b"as it was")
        first = await bench.run()
        wanted = (await bench.entries())[b"f00"]
        bench.write("f00", b"as it is now").chmod(0)
        second = await bench.run()
        assert second.base == first.snapshot
        assert (await bench.entries())[b"f00"] == wanted
        (bench.tree / "f00").chmod(0o644)
        third = await bench.run()
        assert third.base == first.snapshot, "2 rests on 0"
        assert (await bench.entries())[b"f00"].size == len(b"as it is now")


async def test_a_file_read_within_the_clocks_tick_is_looked_at_again(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 3600 * 10**9)
    bench.write("young", b"content")
    await bench.run()
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)
    second = await bench.run()
    assert (second.bytes_read, second.bytes_uploaded, second.files_unchanged) == (7, 0, 1)
    third = await bench.run()
    assert third.bytes_read == 0


async def test_a_file_too_large_for_the_budget_says_what_to_raise(bench: Workbench) -> None:
    path = bench.write("vast")
    os.truncate(path, 400 * 1024**3)
    bench.write("small", b"small")
    summary = await bench.run()
    assert summary.files_failed == 1
    assert "raise memory_limit" in summary.failures[0].reason
    assert set(await bench.entries()) == {b"", b"small"}
