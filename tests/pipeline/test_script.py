"""The stand-alone script restores what whole runs saved, in every layout, exactly."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from asyncbackup.config import EncryptionSettings
from asyncbackup.format.keys import extent_key, snapshot_key
from tests.pipeline.kinds import KINDS, bench_of
from tests.prunes import forget, prune
from tests.workbench import MIB, PASSPHRASE, Workbench, age, picture
from tools.embed_script import TOOLS

if TYPE_CHECKING:
    from asyncbackup.model import Entry, RunSummary

TEXT = b"what is said three times is true; "


@pytest.fixture(params=KINDS)
async def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Workbench:
    """A section of each kind, with no snapshot yet."""
    return await bench_of(request.param, tmp_path)


def script(bench: Workbench, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    secret = []
    if bench.section.encryption.passphrase_file is not None:
        secret = ["--passphrase-file", str(bench.section.encryption.passphrase_file)]
    return subprocess.run(
        [sys.executable, "-W", "error", "-I", TOOLS / "decrypt.py", *secret, copy_of(bench), *arguments],
        capture_output=True,
        check=False,
    )


def copy_of(bench: Workbench) -> Path:
    return Path(bench.section.destination.removeprefix("file://"))


def by_script(bench: Workbench, run: str, *, name: str) -> dict[bytes, tuple[object, ...]]:
    """The picture of what the script restores of a snapshot."""
    done = script(bench, "restore", f"home/{run}", bench.base / name)
    assert (done.returncode, done.stderr) == (0, b"")
    return picture(bench.base / name)


def plant(bench: Workbench) -> None:
    """A tree with an entry of every kind, and contents of every size that is stored in another way."""
    chance = random.Random(1)
    for number in range(200):
        content = chance.randbytes(number * 40) + TEXT * number
        bench.write(f"many/{number}", content, mode=0o600 + number % 8)
    bench.write("empty")
    bench.write("nothing", b"")
    bench.write("chunk", chance.randbytes(16_384))
    bench.write("no chunk more", chance.randbytes(2 * 16_384 - 300))
    bench.write("incompressible", chance.randbytes(5 * MIB + 1))
    bench.write("compressible", TEXT * 200_000)
    bench.write("bad\n\\%41 \u00fc".encode() + b"\xff", b"odd name")
    bench.write("e\u0301/decomposed", b"odd folder")
    bench.write("/".join(["quite a long name of a folder"] * 40), b"deep")
    with bench.write("holes", b"").open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"data")
        file.truncate(5 * MIB)
    bench.write("first name", b"linked" * 1000)
    bench.write("large/first name", TEXT * 10_000)
    (bench.tree / "many/second name").hardlink_to(bench.tree / "first name")
    (bench.tree / "second name").hardlink_to(bench.tree / "large/first name")
    bench.write("same content", b"linked" * 1000, mode=0o640)
    (bench.tree / "link").symlink_to("many/10")
    os.symlink(b"/nowhere/\xff", bench.tree / "dangling")
    os.link(bench.tree / "dangling", bench.tree / "dangling too", follow_symlinks=False)
    (bench.tree / "hollow").mkdir(mode=0o711)
    os.setxattr(bench.tree / "many/11", "user.colour", b"\0green")
    os.setxattr(bench.tree / "many", "user.of a folder", b"")
    age(bench.tree / "hollow", seconds=10**9)
    age(bench.tree / "link", seconds=10**6)


def change(bench: Workbench, number: int) -> None:
    """What one day does: changes, additions, deletions, a rename, a chmod, a folder that was a file."""
    bench.write(f"many/{number}", f"changed {number}".encode())
    bench.write(f"new/{number}", TEXT * 100 * number)
    (bench.tree / f"many/{40 + number}").unlink()
    (bench.tree / f"many/{20 + number}").rename(bench.tree / f"renamed {number}")
    (bench.tree / f"many/{30 + number}").chmod(0o400)
    if number == 1:
        (bench.tree / "nothing").unlink()
        bench.write("nothing/but a folder", b"now")
        (bench.tree / "second name").unlink()
        (bench.tree / "link").unlink()
        (bench.tree / "link").symlink_to("elsewhere")
    if number == 2:
        bench.write("compressible", TEXT * 160_000 + b"changed")
        (bench.tree / "many/11").unlink()


async def test_a_history_restores_exactly(saved: Workbench) -> None:
    plant(saved)
    summaries: list[RunSummary] = [await saved.run()]
    pictures = [picture(saved.tree)]
    for number in range(1, 5):
        change(saved, number)
        summaries.append(await saved.run())
        pictures.append(picture(saved.tree))
    assert [summary.failures for summary in summaries] == [()] * 5
    assert summaries[3].base == summaries[2].snapshot
    assert summaries[2].base == summaries[0].snapshot, "a chain of differences is what shall be read"
    for number in (0, 3):
        restored = by_script(saved, summaries[number].snapshot, name=f"restored {number}")
        assert restored == pictures[number]
    assert by_script(saved, "latest", name="latest") == pictures[-1]


def stored_at(bench: Workbench, entry: Entry) -> Path:
    assert entry.extent is not None
    return copy_of(bench) / extent_key("home", entry.extent)


@pytest.mark.parametrize("kind", ["clear-packed-plain", "sealed-packed-zstd", "hidden-packed-zstd"])
async def test_revisions_after_a_prune(tmp_path: Path, kind: str) -> None:
    bench = await bench_of(kind, tmp_path)
    chance = random.Random(1)
    for number in range(100):
        bench.write(f"{number}", chance.randbytes(20_000))
    (bench.tree / "link").symlink_to("7")
    first = (await bench.run()).snapshot
    for number in range(95):
        bench.write(f"{number}", chance.randbytes(20_000))
    second, looked = (await bench.run()).snapshot, picture(bench.tree)
    bench.write("97", b"a difference")
    third = await bench.run()
    assert third.base == second
    await forget(bench, first)
    assert (await prune(bench)).packs_rewritten == 1
    assert (copy_of(bench) / snapshot_key("home", second, 1)).exists()
    assert by_script(bench, second, name="second") == looked
    assert by_script(bench, "latest", name="third") == picture(bench.tree)
    assert script(bench, "list").stdout.decode().split() == [f"home/{second}", f"home/{third.snapshot}"]
    done = script(bench, "restore", f"home/{first}", tmp_path / "first")
    assert (done.returncode, done.stderr) == (1, f"home/{first}: its manifest is not here\n".encode())


async def test_a_forgotten_base_still_counts_for_what_rests_on_it(bench: Workbench) -> None:
    plant(bench)
    first, looked = (await bench.run()).snapshot, picture(bench.tree)
    change(bench, 1)
    second = await bench.run()
    assert second.base == first
    await forget(bench, first)
    assert script(bench, "list").stdout.decode().splitlines() == [
        f"home/{first}  (forgotten)",
        f"home/{second.snapshot}",
    ]
    assert by_script(bench, second.snapshot, name="second") == picture(bench.tree)
    done = script(bench, "restore", f"home/{first}", bench.base / "first")
    assert done.returncode == 0
    assert b"was forgotten" in done.stderr
    assert picture(bench.base / "first") == looked
    await forget(bench, second.snapshot)
    done = script(bench, "restore", "home/latest", bench.base / "none")
    assert (done.returncode, done.stderr) == (1, b"home: there is no snapshot\n")


async def test_snapshots_from_before_encryption(bench: Workbench) -> None:
    bench.write("file", b"plain")
    first, looked = (await bench.run()).snapshot, picture(bench.tree)
    secret = bench.base / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE + "\n")
    bench.configure(encryption=EncryptionSettings(enabled=True, passphrase_file=secret))
    await bench.initialise_again()
    bench.write("new", b"sealed")
    second = (await bench.run()).snapshot
    assert by_script(bench, first, name="first") == looked
    # It may lie in plain objects of that time, whose contents the sealed snapshot knows.
    assert by_script(bench, second, name="second") == picture(bench.tree)
    (copy_of(bench) / f"home/data/{first}/files/file").write_bytes(b"other")
    done = script(bench, "restore", f"home/{second}", bench.base / "changed")
    assert done.returncode == 1
    assert b"its content is not that of the snapshot" in done.stderr
    assert sorted(os.listdir(bench.base / "changed")) == ["new"]

    manifest = copy_of(bench) / snapshot_key("home", first)
    manifest.write_bytes(manifest.read_bytes() + zstandard.compress(b""))
    done = script(bench, "restore", f"home/{first}", bench.base / "planted")
    assert done.returncode == 1
    assert b"none of them vouches for it" in done.stderr
    assert not (bench.base / "planted").exists()
    done = script(bench, "--allow-plain", "restore", f"home/{first}", bench.base / "planted")
    assert b"vouches" not in done.stderr


@pytest.mark.parametrize(
    "kind", ["clear-mirror-plain", "sealed-mirror-zstd", "clear-packed-zstd", "hidden-packed-plain"]
)
async def test_what_cannot_be_restored_is_named_and_the_rest_is_restored(tmp_path: Path, kind: str) -> None:
    bench = await bench_of(kind, tmp_path)
    for name in ("a", "b", "c"):
        bench.write(f"folder/{name}", os.urandom(9000))
        bench.write(f"large {name}", os.urandom(150_000) + TEXT * 9000)
    await bench.run()
    entries = await bench.entries()
    for victim, damaged in (("large a", False), ("large b", True), ("folder/b", True)):
        entry = entries[victim.encode()]
        assert entry.extent is not None
        path = stored_at(bench, entry)
        if not damaged:
            path.unlink()
            continue
        body = bytearray(path.read_bytes())
        in_pack = entry.extent.key.startswith("packs/")
        place = entry.extent.offset + entry.extent.skip // 2 + 4000 if in_pack else len(body) // 2
        body[place] ^= 1
        path.write_bytes(body)
    done = script(bench, "restore", "home/latest", bench.base / "restored")
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    named = {line.partition(":")[0] for line in lines[:-1]}
    assert {"large a", "large b", "folder/b"} <= named
    assert lines[-1] == f"{len(named)} complaints; all else was restored"
    wanted, restored = picture(bench.tree), picture(bench.base / "restored")
    assert restored == {path: look for path, look in wanted.items() if path.decode() not in named}
    if not bench.section.packed:
        assert named == {"large a", "large b", "folder/b"}


async def test_chosen_paths_alone(bench: Workbench) -> None:
    plant(bench)
    await bench.run()
    done = script(bench, "restore", "home/latest", bench.base / "some", "many", "large/first name", "hollow")
    assert (done.returncode, done.stderr) == (0, b"")
    wanted, restored = picture(bench.tree), picture(bench.base / "some")
    chosen = {path for path in wanted if path == b"many" or path.startswith(b"many/")}
    chosen |= {b"large/first name", b"hollow"}
    assert set(restored) == chosen | {b".", b"large"}
    assert {restored[path][5] for path in chosen} == {wanted[path][5] for path in chosen}


AUDITED = """
import collections, runpy, sys
opened = collections.Counter()
def count(event, arguments):
    if event == "open" and "/packs/" in str(arguments[0]):
        opened[str(arguments[0]).rpartition("/packs/")[0]] += 1
sys.addaudithook(count)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*opened.values())
"""


@pytest.mark.parametrize("kind", ["clear-packed-plain", "clear-packed-zstd", "sealed-packed-zstd"])
async def test_each_pack_is_opened_once(tmp_path: Path, kind: str) -> None:
    bench = await bench_of(kind, tmp_path)
    for number in range(30):
        bench.write(f"b/{number}", os.urandom(50))
    await bench.run()
    for number in range(30):
        bench.write(f"{'ac'[number % 2]}/{number}", os.urandom(50))
    await bench.run()
    secret = bench.section.encryption.passphrase_file
    options = ["--passphrase-file", str(secret)] if secret else []
    command = [sys.executable, "-c", AUDITED, str(TOOLS / "decrypt.py"), *options, str(copy_of(bench))]
    done = subprocess.run(
        [*command, "restore", "home/latest", str(tmp_path / "restored")], capture_output=True, check=True
    )
    assert done.stdout.split() == [b"1", b"1"]
    assert picture(tmp_path / "restored") == picture(bench.tree)


@pytest.mark.parametrize("kind", ["clear-packed-plain", "clear-packed-zstd", "sealed-packed-zstd"])
async def test_a_pack_is_shown_as_a_tar(tmp_path: Path, kind: str) -> None:
    """So a pack gives its files even where every snapshot is lost."""
    bench = await bench_of(kind, tmp_path)
    bench.write("folder/small", b"small")
    summary = await bench.run()
    (path,) = copy_of(bench).glob(f"home/data/{summary.snapshot}/packs/*")
    done = script(bench, "show", str(path.relative_to(copy_of(bench))))
    assert done.returncode == 0
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        member = archive.extractfile("folder/small")
        assert member is not None
        assert member.read() == b"small"
    shown = script(bench, "show", snapshot_key("home", summary.snapshot)).stdout
    assert shown.startswith(b'{"type":"manifest"')


async def test_set_id_bits_of_files_are_left_out(bench: Workbench) -> None:
    """They would act for somebody else, and nobody was asked."""
    bench.write("tool", b"#!", mode=0o6755)
    bench.write("shared/f", mode=0o600)
    (bench.tree / "shared").chmod(0o2775)
    run = (await bench.run()).snapshot
    found = by_script(bench, run, name="restored")
    assert found.pop(b"tool")[0] == 0o100755
    looked = picture(bench.tree)
    del looked[b"tool"]
    assert found == looked
