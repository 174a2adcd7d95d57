"""Whole runs write what docs/format.md says: read back by a reader that was written from that page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pipeline.kinds import KINDS, bench_of
from tests.prunes import forget, prune
from tests.unit.format.independent_reader import unescape, unlock
from tests.unit.format.independent_snapshots import Section
from tests.workbench import MIB, PASSPHRASE, Workbench, picture

TEXT = b"what is said three times is true; "


def section_of(bench: Workbench) -> Section:
    folder = Path(bench.section.destination.removeprefix("file://"))
    master = None
    if bench.section.encryption.enabled:
        master = unlock((folder / "asyncbackup.json").read_bytes(), passphrase=PASSPHRASE.encode())
    return Section(folder, "home", master=master)


def assert_is(section: Section, run: str, looked: dict[bytes, tuple[object, ...]]) -> None:
    """The snapshot holds exactly what the picture shows."""
    entries = section.entries(run)
    assert {path or b"." for path in entries} == set(looked)
    for path, line in entries.items():
        mode, uid, gid, mtime_ns, _, content, _ = looked[path or b"."]
        assert (int(line["mode"], 8), line["uid"], line["gid"], line["mtime"]) == (mode, uid, gid, mtime_ns)
        if line["type"] == "file":
            assert section.content(line) == content, path
        elif line["type"] == "symlink":
            assert unescape(line["target"]) == content


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_section(tmp_path: Path, kind: str) -> None:
    bench = await bench_of(kind, tmp_path)
    for number in range(40):
        bench.write(f"many/{number}", os.urandom(number * 100) + TEXT * number)
    bench.write("nothing", b"")
    bench.write("no chunk more", os.urandom(16_384))
    bench.write("incompressible", os.urandom(6 * MIB))
    bench.write("compressible", TEXT * 400_000)
    bench.write("linked", TEXT * 50)
    bench.write("copy", TEXT * 50)
    (bench.tree / "many/linked too").hardlink_to(bench.tree / "linked")
    (bench.tree / "link").symlink_to("many/1")
    first = await bench.run()
    looked = [picture(bench.tree)]
    bench.write("many/7", b"changed")
    (bench.tree / "many/8").unlink()
    second = await bench.run()
    assert second.base == first.snapshot
    looked.append(picture(bench.tree))
    section = section_of(bench)
    assert section.snapshots() == [first.snapshot, second.snapshot]
    assert_is(section, first.snapshot, looked[0])
    assert_is(section, second.snapshot, looked[1])

    await forget(bench, first.snapshot)
    await prune(bench)
    assert section.snapshots() == [second.snapshot]
    assert_is(section, second.snapshot, looked[1])
    hidden = [str(path.relative_to(section.folder)) for path in section.folder.rglob("*/hidden/*")]
    assert bool(hidden) == kind.startswith("hidden")
    for key in hidden:
        section.head(key)
    assert bool([*section.folder.rglob("*/packs/*")]) == ("packed" in kind)


@pytest.mark.parametrize("kind", ["clear-packed-plain", "sealed-packed-zstd"])
async def test_a_revision(tmp_path: Path, kind: str) -> None:
    bench = await bench_of(kind, tmp_path)
    for number in range(100):
        bench.write(f"{number}", os.urandom(20_000))
    first = await bench.run()
    for number in range(95):
        bench.write(f"{number}", os.urandom(20_000))
    second = await bench.run()
    await forget(bench, first.snapshot)
    assert (await prune(bench)).packs_rewritten == 1
    section = section_of(bench)
    assert section.manifest_keys()[second.snapshot] == (1, f"home/snapshots/{second.snapshot}.1.jsonl.zst")
    assert_is(section, second.snapshot, picture(bench.tree))
