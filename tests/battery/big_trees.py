"""Trees of extreme shapes, made and compared through descriptors, since their paths may be too long."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")


@contextmanager
def roomy_folder() -> Iterator[Path]:
    """A folder in memory if there is such a file system, and on disk otherwise; gone afterwards, however
    deep what lies in it."""
    folder = Path(tempfile.mkdtemp(prefix="battery-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def many(root: Path, *, folders: int, files_each: int) -> None:
    """``folders`` folders of small files, each with a content of its own."""
    for number in range(folders):
        name = f"folder {number:05}"
        (root / name).mkdir()
        descriptor = os.open(root / name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for file in range(files_each):
                made = os.open(f"file {file:06}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=descriptor)
                os.write(made, b"%d/%d" % (number, file))
                os.close(made)
        finally:
            os.close(descriptor)


def deep(root: Path, *, depth: int, name: str) -> None:
    """Folders below each other, with a file in the last."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        descriptor = _entered(descriptor, name)
    made = os.open("file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=descriptor)
    os.write(made, b"at the bottom")
    os.close(made)
    os.close(descriptor)


def look_down(root: Path, *, name: str) -> list[tuple[int, int, int]]:
    """Mode, owner and mtime of every folder from the top, and of the file at the bottom, whose content is
    checked."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    seen = [_looks(os.fstat(descriptor))]
    while name in os.listdir(descriptor):
        descriptor = _entered(descriptor, name)
        seen.append(_looks(os.fstat(descriptor)))
    file = os.open("file", os.O_RDONLY, dir_fd=descriptor)
    assert os.read(file, 100) == b"at the bottom"
    seen.append(_looks(os.fstat(file)))
    os.close(file)
    os.close(descriptor)
    return seen


def same_files(left: Path, right: Path) -> bool:
    """Whether two trees have the same names, kinds and contents, by a program that is not ours."""
    compare = shutil.which("diff")
    assert compare is not None
    done = subprocess.run([compare, "-r", str(left), str(right)], capture_output=True, check=False)
    return done.returncode == 0 and not done.stdout


def _entered(descriptor: int, name: str) -> int:
    deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
    os.close(descriptor)
    return deeper


def _looks(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_mode, status.st_uid, status.st_mtime_ns)
