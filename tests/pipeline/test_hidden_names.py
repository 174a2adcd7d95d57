"""Runs that hide names: what lies at the destination tells nothing, and all of it comes back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.format.envelope import Opener
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.repository.open import open_repository
from asyncbackup.verify.section import verify_section
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from asyncbackup.store.base import ObjectInfo

CANARY = "canary-name"
SIZE = 123_457


@pytest.fixture(params=["mirror", "mirror-zstd", "packed", "packed-zstd"])
async def hidden(request: pytest.FixtureRequest, tmp_path: Path, folder_destination: Path) -> Workbench:
    """A section that hides names, with a tree of every kind of entry."""
    layout, _, compression = request.param.partition("-")
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=True)
    bench.configure(
        packed=layout == "packed",
        pack_below_bytes=10_000,
        zstd_level=3 if compression else 0,
        encryption=msgspec.structs.replace(bench.section.encryption, hide_names=True),
    )
    await bench.initialise()
    bench.write(f"{CANARY}/{CANARY}-small", b"small")
    bench.write(f"{CANARY}/{CANARY}-medium", b"m" * SIZE)
    bench.write(f"{CANARY}-large", os.urandom(3 * MIB) + bytes(4 * MIB))
    bench.write(f"{CANARY}-text", b"compressible " * 600_000)
    bench.write(f"{CANARY}-empty", b"")
    bench.write("d/" * 120 + CANARY, b"deep")
    (bench.tree / f"{CANARY}-link").symlink_to(f"{CANARY}-target")
    (bench.tree / f"{CANARY}-hard").hardlink_to(bench.tree / CANARY / f"{CANARY}-medium")
    return bench


async def listed(bench: Workbench) -> list[ObjectInfo]:
    """Everything at the destination, with its metadata."""
    async with open_repository(bench.settings, bench.section) as repository:
        keys = [info.key async for page in repository.store.list("") for info in page]
        return [await repository.store.head(key) for key in keys]


async def test_nothing_at_the_destination_tells_a_name(hidden: Workbench) -> None:
    await hidden.run()
    for info in await listed(hidden):
        text = f"{info.key} {info.metadata}".encode()
        assert CANARY.encode() not in text
        assert info.size != SIZE
        assert str(SIZE).encode() not in text
    root = Path(hidden.section.destination.removeprefix("file://"))
    for path in root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert CANARY.encode() not in content, path
            assert SIZE.to_bytes(8, "big") not in content[:64], "a size in a header"


async def test_everything_comes_back(hidden: Workbench) -> None:
    first = await hidden.run()
    assert not first.failures
    before = picture(hidden.tree)
    hidden.write(f"{CANARY}/{CANARY}-small", b"changed")
    (hidden.tree / f"{CANARY}-text").unlink()
    second = await hidden.run()
    assert second.files_changed == 1
    assert picture(await hidden.restored(snapshot=first.snapshot, name="first")) == before
    assert picture(await hidden.restored(name="second")) == picture(hidden.tree)
    summary = await verify_section(hidden.settings, hidden.section, read_percent=100)
    assert (summary.damaged_objects, summary.snapshots) == (0, 2)


async def test_an_unchanged_run_sends_nothing(hidden: Workbench) -> None:
    await hidden.run()
    summary = await hidden.run()
    assert (summary.bytes_read, summary.bytes_uploaded) == (0, 0)


async def test_all_of_it_is_found_again_without_manifests(hidden: Workbench) -> None:
    await hidden.run()
    before = picture(hidden.tree)
    root = Path(hidden.section.destination.removeprefix("file://"))
    shutil.rmtree(root / "home/snapshots")
    hidden.settings.database_path("home").unlink()
    summary = await rebuild_section(hidden.settings, hidden.section, from_objects=True)
    assert summary.unrecovered_objects == 0, summary.unrecovered
    restored = picture(await hidden.restored())
    assert set(restored) == set(before)
    for path, (mode, uid, gid, mtime, _, content, xattrs) in before.items():
        assert restored[path][:4] == (mode, uid, gid, mtime), path
        assert restored[path][5:] == (content, xattrs), path


async def test_a_hidden_object_cannot_stand_in_for_another(hidden: Workbench) -> None:
    await hidden.run()
    root = Path(hidden.section.destination.removeprefix("file://"))
    objects = sorted(root.rglob("hidden/*"), key=lambda path: path.stat().st_size)[-2:]
    bodies = [path.read_bytes() for path in objects]
    objects[0].write_bytes(bodies[1])
    objects[1].write_bytes(bodies[0])
    summary = await hidden.restore(hidden.base / "restored")
    assert len(summary.failures) >= 2
    for failure in summary.failures:
        assert not (hidden.base / "restored" / os.fsdecode(failure.path)).exists()


async def test_the_key_of_an_object_is_that_of_the_format(hidden: Workbench) -> None:
    """As docs/format.md says it, with nothing of the program but the master key."""
    import hashlib
    import hmac

    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    await hidden.run()
    async with open_repository(hidden.settings, hidden.section) as repository:
        assert repository.key is not None
        master = repository.key.reveal()
        names_key = HKDFExpand(SHA512(), 32, b"asyncbackup hidden names v1").derive(master)
        (run,) = await hidden.snapshots()
        path = f"{CANARY}-large".encode()
        framed = b"".join(
            len(field).to_bytes(4) + field
            for field in (b"asyncbackup hidden name v1", b"home", run.encode(), path)
        )
        key = f"home/data/{run}/hidden/{hmac.new(names_key, framed, hashlib.sha256).hexdigest()}"
        async with repository.store.open(key) as source:
            stored = b"".join([chunk async for chunk in source])
        opener = Opener(repository.key, repository=repository.repository_id, section="home", object_key=key)
        plain = opener.feed(stored) + opener.finish()
    entry = (await hidden.entries())[path]
    assert entry.extent is not None
    if not entry.extent.compression:
        head_size = int.from_bytes(plain[:4])
        assert entry.extent.skip == 4 + head_size
        head = msgspec.json.decode(plain[4 : 4 + head_size], type=dict[str, str])
        assert head["asyncbackup-path"] == f"{CANARY}-large"
        assert head["asyncbackup-size"] == str(7 * MIB)
        assert plain[4 + head_size :] == (hidden.tree / f"{CANARY}-large").read_bytes()
