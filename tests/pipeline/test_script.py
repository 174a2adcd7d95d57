"""The stand-alone script restores what whole runs saved, in every layout, exactly."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.workbench import MIB, Workbench, age, picture
from tools.embed_script import TOOLS

if TYPE_CHECKING:
    from asyncbackup.model import RunSummary

TEXT = b"what is said three times is true; "

SETTINGS = {
    f"{sealing}-{layout}-{compression}": (sealing, layout, compression)
    for sealing in ("clear", "sealed", "hidden")
    for layout in ("mirror", "packed")
    for compression in ("plain", "zstd")
}


def configured(bench: Workbench, *, layout: str, compression: str, hidden: bool = False) -> None:
    bench.configure(
        packed=layout == "packed",
        pack_below_bytes=100_000,
        zstd_level=3 if compression == "zstd" else 0,
        encryption=msgspec.structs.replace(bench.section.encryption, hide_names=hidden),
    )


@pytest.fixture(params=SETTINGS)
async def saved(request: pytest.FixtureRequest, tmp_path: Path, folder_destination: Path) -> Workbench:
    """A section of one kind, with no snapshot yet."""
    sealing, layout, compression = SETTINGS[request.param]
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=sealing != "clear")
    configured(bench, layout=layout, compression=compression, hidden=sealing == "hidden")
    await bench.initialise()
    return bench


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
    bench.write("incompressible", chance.randbytes(6 * MIB))
    bench.write("compressible", TEXT * 400_000)
    bench.write("bad\n\\%41 \u00fc".encode() + b"\xff", b"odd name")
    bench.write("e\u0301/decomposed", b"odd folder")
    bench.write("/".join(["quite a long name of a folder"] * 40), b"deep")
    bench.write("set-id", b"#!", mode=0o4755)
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
        bench.write("compressible", TEXT * 300_000 + b"changed")
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
    for number in (0, 2, 3):
        restored = by_script(saved, summaries[number].snapshot, name=f"restored {number}")
        assert restored == pictures[number]
    assert by_script(saved, "latest", name="latest") == pictures[-1]
