"""What runs inside a cage (see ``cage.py``): ``unshare --mount python -m tests.battery.caged BASE``.

Steps come on stdin, their outcomes go to a file in the base, both as JSON.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

WORLD = "world"
TARGET = "target"
OUTCOMES = "outcomes.json"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One command line in a world of its own.

    ``plants`` are put there before: ``(kind, path below the world, what it leads to)`` with the kinds
    ``folder``, ``file``, ``symlink``, ``hardlink``, ``device``. Folders named in ``swaps`` (below the world)
    are exchanged for symlinks to the canaries and back all the while. With ``keep`` the world is as the
    last step left it, but for the canaries, which are looked at anew.
    """

    arguments: list[str]
    plants: list[tuple[str, str, str]] = []
    swaps: list[str] = []
    keep: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ended. ``changed`` names canaries that are not as they were; ``target`` is what lies
    below the target: path → mode, uid, gid, attributes, content or where a symlink leads."""

    code: int
    stderr: str
    changed: list[str]
    target: dict[str, tuple[int, int, int, list[str], str]]
    swaps: int


def lock_the_rest(base: Path) -> None:
    """Make every file system but ``base`` read-only, for this namespace alone, and mount the world."""
    run = subprocess.run
    run(["mount", "--bind", base, base], check=True)
    with open("/proc/self/mountinfo") as mounts:
        points = [line.split()[4] for line in mounts]
    for point in points:
        if not Path(point).is_relative_to(base) and not point.startswith(("/proc", "/sys")):
            run(["mount", "-o", "remount,bind,ro", point], capture_output=True, check=False)
    world = base / WORLD
    world.mkdir(exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", world], check=True)


def make_canaries(world: Path) -> None:
    """A tree beside the target with something of every kind that could be changed."""
    outside = world / "outside"
    for folder in (outside, outside / "folder", outside / "d", outside / "docs"):
        folder.mkdir(mode=0o750)
    for name in ("file", "folder/f", "d/f", "docs/f", "f"):
        (outside / name).write_text(f"canary {name}")
        (outside / name).chmod(0o640)
    os.chown(outside / "file", 1234, 2345)
    (outside / "link").symlink_to("file")
    (world / "file").write_text("canary at the top")
    (world / "f").write_text("canary at the top")
    with contextlib.suppress(OSError):
        os.setxattr(outside / "file", "trusted.canary", b"1")


def look(world: Path, *, with_links: bool) -> dict[str, tuple[object, ...]]:
    """All about everything in the world but the target. Without ``with_links`` the number of links, and
    what follows from it, does not count."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(world):
        if folder == str(world) and TARGET in folders:
            folders.remove(TARGET)
        for name in ("", *folders, *files):
            path = os.path.join(folder, name) if name else folder
            if path in (str(world), str(world / TARGET)):
                continue  # the target appears in it
            status = os.lstat(path)
            content = b""
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(path))
            found[path] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_ino,
                status.st_ctime_ns if with_links else 0,
                tuple(os.listxattr(path, follow_symlinks=False)), content,
            )  # fmt: skip
    return found


def plant(world: Path, plants: Sequence[tuple[str, str, str]]) -> None:
    for kind, name, to in plants:
        path = world / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            path.mkdir(exist_ok=True)
        elif kind == "file":
            path.write_text(to)
        elif kind == "symlink":
            path.symlink_to(to)
        elif kind == "hardlink":
            path.hardlink_to(world / to)
        else:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


@contextmanager
def swapping(world: Path, names: Sequence[str]) -> Iterator[list[int]]:
    """A process that exchanges folders for symlinks, as fast as it can."""
    swaps = [0]
    if not names:
        yield swaps
        return
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            _swap(world, names, write)
        finally:
            os._exit(0)
    os.close(write)
    os.read(read, 1)  # it has begun
    try:
        yield swaps
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        with open(read, "rb") as pipe:
            swaps[0] = 1 + len(pipe.read())


def _swap(world: Path, names: Sequence[str], told: int) -> None:
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    os.set_blocking(told, False)
    while not ended:
        for name in names:
            folder, aside = world / name, world / TARGET / f"aside {Path(name).name}"
            try:
                os.rename(folder, aside)
                os.symlink(world / "outside", folder)
                with contextlib.suppress(BlockingIOError):
                    os.write(told, b".")
                os.unlink(folder)
                os.rename(aside, folder)
            except OSError:
                # The restore was quicker and put a folder of its own there.
                shutil.rmtree(aside, ignore_errors=True)


def target_of(world: Path) -> dict[str, tuple[int, int, int, list[str], str]]:
    """What lies in the target."""
    found: dict[str, tuple[int, int, int, list[str], str]] = {}
    top = world / TARGET
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content = ""
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()[:1000].decode("latin-1")
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            attributes = os.listxattr(path, follow_symlinks=False)
            shown = os.fsencode(os.path.relpath(path, top)).decode("latin-1")
            found[shown] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                attributes,
                os.fsencode(content).decode("latin-1"),
            )
    return found


def run_step(world: Path, step: Step, *, with_links: bool) -> Outcome:
    from asyncbackup.cli.app import main

    if not step.keep:
        for path in list(world.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        make_canaries(world)
    plant(world, step.plants)
    before = look(world, with_links=with_links)
    with swapping(world, step.swaps) as swaps, captured() as shown:
        code = main(step.arguments)
    after = look(world, with_links=with_links)
    differing = before.keys() | after.keys()
    changed = [f"{path}: {before.get(path)} {after.get(path)}" for path in sorted(differing)
               if before.get(path) != after.get(path)]  # fmt: skip
    os.lseek(shown, 0, os.SEEK_SET)
    with open(shown, "rb") as file:
        stderr = file.read().decode(errors="replace")
    return Outcome(code=int(code), stderr=stderr, changed=changed, target=target_of(world), swaps=swaps[0])


@contextmanager
def captured() -> Iterator[int]:
    """What is printed meanwhile, in a file without a name."""
    shown = os.memfd_create("shown")
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(shown, number)
    try:
        yield shown
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        logging.getLogger().handlers.clear()


def _main() -> None:
    base = Path(sys.argv[1])
    steps = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Step])
    lock_the_rest(base)
    outcomes, with_links = [], True
    for step in steps:
        # What a restore removes may be a hard link that was planted before.
        with_links = (with_links or not step.keep) and all(kind != "hardlink" for kind, _, _ in step.plants)
        outcomes.append(run_step(base / WORLD, step, with_links=with_links))
    (base / OUTCOMES).write_bytes(msgspec.json.encode(outcomes))


if __name__ == "__main__":
    _main()
