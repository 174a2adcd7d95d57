"""``python -m tests.data.make``: keep a repository of today's format, one archive a layout.

To be run as root, once for each format, before its release; what is kept is never made anew. Beside each
archive lies what every snapshot of it restores to.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import random
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.format.descriptor import FORMAT
from asyncbackup.pipeline import attributes
from tests.prunes import forget, prune
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
LAYOUTS = ("mirror", "packed", "sealed", "sealed-packed", "hidden")
MTIME_NS = 1_732_304_200_123_456_789

Told = dict[str, list[object]]
"""A path (surrogate-escaped) → mode, uid, gid, mtime in ns, first name of the inode, content, attributes."""


def told(looked: Mapping[bytes, tuple[object, ...]]) -> Told:
    """A picture as JSON can hold it: contents by digest."""
    found: Told = {}
    for path, (mode, uid, gid, mtime_ns, linked, content, xattrs) in looked.items():
        body = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else None
        first = os.fsdecode(linked) if isinstance(linked, bytes) else None
        assert isinstance(xattrs, tuple)
        named = {name: value.hex() for name, value in xattrs}
        found[os.fsdecode(path)] = [mode, uid, gid, mtime_ns, first, body, named]
    return found


def configured(bench: Workbench, layout: str) -> None:
    """Give the section that layout."""
    packed = layout.endswith("packed")
    bench.configure(packed=packed, zstd_level=3 if packed else 0)
    if layout == "hidden":
        bench.configure(encryption=msgspec.structs.replace(bench.section.encryption, hide_names=True))


def grow(bench: Workbench) -> None:
    """The tree of the first snapshot: every kind of entry."""
    chosen = random.Random(1)
    for name in ("plain", "d/e/deep", "a name with spaces", "é", "100%", "%41", b"\xff\xfe", "new\nline"):
        bench.write(name, b"content of %b" % (name if isinstance(name, bytes) else name.encode()))
    bench.write("text", b"all work and no play\n" * 500)
    bench.write("random", chosen.randbytes(3000))
    bench.write("empty", b"")
    bench.write("x" * 200 + "/" + "y" * 200 + "/" + "z" * 200 + "/" + "w" * 200 + "/" + "v" * 250, b"long")
    first = bench.write("linked", b"one content, two names")
    os.link(first, bench.tree / "d/linked too")
    (bench.tree / "symlink").symlink_to("d/e/deep")
    (bench.tree / "dangling").symlink_to("no such thing")
    (bench.tree / "hollow").mkdir(mode=0o750)
    os.setxattr(bench.tree / "plain", "user.note", b"\x00\xff attribute")
    (bench.tree / "plain").chmod(0o4755)
    sparse = bench.write("sparse", b"")
    with sparse.open("r+b") as file:
        file.truncate(MIB // 16)
    for number, path in enumerate(sorted(bench.tree.rglob("*"), reverse=True)):
        os.chown(path, 1000 + number % 3, 100, follow_symlinks=False)
    for number, path in enumerate(sorted(bench.tree.rglob("*"), reverse=True)):
        time_ns = -(10**9) * number if number % 5 == 0 else MTIME_NS + number
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
    (bench.tree / "plain").chmod(0o4755)


async def make(layout: str, base: Path) -> dict[str, Told]:
    """One repository below ``base``: three snapshots, of which one was forgotten and pruned, and a fourth."""
    bench = Workbench(
        base, f"file://{base}/destination", encrypted=layout in ("sealed", "sealed-packed", "hidden")
    )
    configured(bench, layout)
    grow(bench)
    await bench.initialise()
    pictures = {}
    for number in range(4):
        bench.write("d/changing", b"%d" % number * 100)
        bench.write(f"only in {number}", b"content")
        (bench.tree / f"only in {number - 1}").unlink(missing_ok=True)
        if number == 2:
            (bench.tree / "random").unlink()
        snapshot = (await bench.run()).snapshot
        pictures[snapshot] = told(picture(bench.tree))
    second = list(pictures)[1]
    await forget(bench, second)
    await prune(bench)
    del pictures[second]
    return pictures


def main() -> None:
    """Make what is not there yet."""
    attributes.RACY_WINDOW_NS = 0
    folder = HERE / f"format-{FORMAT}"
    folder.mkdir(exist_ok=True)
    for layout in LAYOUTS:
        archive = folder / f"{layout}.tar.gz"
        if archive.exists():
            sys.exit(f"{archive} is there: what was released is not made anew")
        with tempfile.TemporaryDirectory() as base:
            pictures = asyncio.run(make(layout, Path(base)))
            destination = Path(base) / "destination"
            with (
                archive.open("wb") as raw,
                gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                for path in sorted(destination.rglob("*")):
                    tar.add(path, path.relative_to(destination), recursive=False)
        (folder / f"{layout}.json").write_text(json.dumps(pictures, indent=1) + "\n")


if __name__ == "__main__":
    main()
