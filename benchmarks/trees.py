"""The trees that are saved: made from a seed, so the same on every machine, or copied from a real one."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

SEED = 20_261_122
MEAN_BYTES = 9_500
"""Of a small file. That of source trees and mail; the distribution is log-normal."""
_SIGMA = 1.2
_MOST_BYTES = 4 * 1024 * 1024
_FILES_A_FOLDER = 100
_TINY_BYTES = 500
_TINY_WORDS = 1024 * 1024
_READ_BYTES = 1024 * 1024
_LETTERS = bytes(
    b"etaoinshrdlucmfwypvbgkjqxz \n"[min(27, int(-7 * math.log((i + 0.5) / 256)))] for i in range(256)
)
"""A byte → a letter, the first ones far more often: what is left shrinks to about half."""
_MARK = "tree.json"


class Tree(NamedTuple):
    """One tree on disk: regular files in folders, nothing else, as not every peer keeps more."""

    name: str
    path: Path
    files: int
    bytes: int


def small_tree(place: Path, *, files: int) -> Tree:
    """``files`` files of about 9.5 KB: half of them words, a quarter half words, a quarter noise."""
    recipe = {"kind": "small", "files": files, "seed": SEED}
    if (tree := _made_before("small", place, recipe)) is not None:
        return tree
    chosen = random.Random(SEED)  # noqa: S311 - the same tree everywhere
    words = [
        "".join(chosen.choices("abcdefghijklmnopqrstuvwxyz", k=chosen.randint(2, 9))) for _ in range(2000)
    ]
    mean = math.log(MEAN_BYTES) - _SIGMA**2 / 2
    for number in range(files):
        folder = place / "tree" / f"{number // 10_000:03}" / f"{number // _FILES_A_FOLDER:05}"
        if number % _FILES_A_FOLDER == 0:
            folder.mkdir(parents=True)
        size = min(_MOST_BYTES, int(chosen.lognormvariate(mean, _SIGMA)))
        share = (1.0, 1.0, 0.5, 0.0)[number % 4]
        text = " ".join(chosen.choices(words, k=int(size * share) // 6 + 1)).encode()[: int(size * share)]
        body = text + chosen.randbytes(size - len(text))
        (folder / f"{words[number % 2000]}-{number}.txt").write_bytes(body)
    return _finished("small", place, recipe)


def tiny_tree(place: Path, *, files: int) -> Tree:
    """``files`` files of about 500 bytes, each of other words: so a million of them fit into memory."""
    name = f"{files:,} files"
    recipe = {"kind": "tiny", "files": files, "seed": SEED}
    if (tree := _made_before(name, place, recipe)) is not None:
        return tree
    chosen = random.Random(SEED)  # noqa: S311 - the same tree everywhere
    words = bytes(chosen.choices(b"etaoinshrdlu ", k=_TINY_WORDS))
    (place / "tree").mkdir()
    for number in range(files):
        folder = place / "tree" / f"{number // 10_000:03}" / f"{number // _FILES_A_FOLDER:05}"
        if number % _FILES_A_FOLDER == 0:
            folder.mkdir(parents=True)
        size = chosen.randrange(_TINY_BYTES * 2)
        begin = chosen.randrange(len(words) - size)
        (folder / f"{number}.txt").write_bytes(b"%d " % number + words[begin : begin + size])
    return _finished(name, place, recipe)


def large_tree(place: Path, *, files: int, mib: int) -> Tree:
    """``files`` files of ``mib`` MiB: every other one noise, the others shrink to about half."""
    recipe = {"kind": "large", "files": files, "mib": mib, "seed": SEED}
    if (tree := _made_before("large", place, recipe)) is not None:
        return tree
    chosen = random.Random(SEED)  # noqa: S311 - the same tree everywhere
    (place / "tree").mkdir(parents=True)
    for number in range(files):
        with (place / "tree" / f"large-{number}.bin").open("wb") as file:
            for _ in range(mib):
                piece = chosen.randbytes(_READ_BYTES)
                file.write(piece.translate(_LETTERS) if number % 2 else piece)
    return _finished("large", place, recipe)


def real_tree(place: Path, *, source: Path, files: int) -> Tree:
    """A copy of the first ``files`` regular files of a real tree, with their folders and times."""
    recipe = {"kind": "real", "source": str(source), "files": files}
    if (tree := _made_before("real", place, recipe)) is not None:
        return tree
    left = files
    for folder, folders, names in os.walk(source):
        folders.sort()
        target = place / "tree" / Path(folder).relative_to(source)
        for name in sorted(names):
            path = Path(folder) / name
            if left and path.is_file() and not path.is_symlink():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target / name)
                left -= 1
        if not left:
            break
    return _finished("real", place, recipe)


def differences(tree: Tree, restored: Path, *, most: int = 5) -> list[str]:
    """What is not as it was, byte for byte; at most so many lines. None: all came back."""
    return list(islice(_differences(tree.path, restored), most))


def extent(root: Path) -> tuple[int, int]:
    """How many files lie below a folder, and their bytes."""
    files = size = 0
    for folder, _, names in os.walk(root):
        files += len(names)
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
    return files, size


def folders(root: Path) -> int:
    """How many folders lie below a folder."""
    return sum(len(below) for _, below, _ in os.walk(root))


def _differences(root: Path, restored: Path) -> Iterator[str]:
    """Folder by folder: lists of whole trees would count in the memory of whatever is started afterwards."""
    for folder, _, names in os.walk(root):
        place = Path(folder).relative_to(root)
        wanted, there = set(names), _names(restored / place)
        yield from (f"missing: {place / name}" for name in sorted(wanted - there))
        yield from (f"not in the source: {place / name}" for name in sorted(there - wanted))
        for name in sorted(wanted & there):
            if not _same(Path(folder, name), restored / place / name):
                yield f"other content: {place / name}"
    for folder, _, names in os.walk(restored):
        place = Path(folder).relative_to(restored)
        if not (root / place).is_dir():
            yield from (f"not in the source: {place / name}" for name in sorted(names))


def _names(folder: Path) -> set[str]:
    """Of what is in a folder and no folder itself; none where there is no such folder."""
    _, _, names = next(os.walk(folder), ("", [], []))
    return set(names)


def _same(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        while piece := first.read(_READ_BYTES):
            if second.read(_READ_BYTES) != piece:
                return False
        return not second.read(1)


def _made_before(name: str, place: Path, recipe: dict[str, object]) -> Tree | None:
    """The tree that an earlier run made from the same recipe; anything else at its place is removed."""
    mark = place / _MARK
    if mark.exists():
        told = json.loads(mark.read_text())
        if told.pop("sizes", None) and told == recipe:
            return _measured(name, place)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return None


def _finished(name: str, place: Path, recipe: dict[str, object]) -> Tree:
    tree = _measured(name, place)
    (place / _MARK).write_text(json.dumps({**recipe, "sizes": [tree.files, tree.bytes]}))
    return tree


def _measured(name: str, place: Path) -> Tree:
    root = place / "tree"
    return Tree(name, root, *extent(root))
