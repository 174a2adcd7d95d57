"""What a tree costs packed, as a mirror, and with restic: objects, requests, bytes, seconds.

    python -m benchmarks.packed_tree /usr/share
    python -m benchmarks.packed_tree --files 100000

With ``--files N`` a tree of N small files is made first (seeded; the same on
every machine). Each way is a first run and a restore to an empty folder, which
is compared with the tree by rsync (contents, times, modes, owners, links,
attributes: ``rsync -aHAXnc --numeric-ids --delete --itemize-changes`` has to
print nothing). Repositories are folders beside each other on one disk, so
requests are those that an S3 endpoint would get. restic takes part if it is
installed; it makes no requests to a folder, so files stand in their place. At
the end one pack is listed by every tar there is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PASSPHRASE = "a pass phrase for measuring"  # noqa: S105 - guards nothing
WAYS = {
    "mirror": "",
    "packed, plain": 'layout = "packed"\ncompression = "none"\n',
    "packed, zstd": 'layout = "packed"\n',
    "packed, zstd, sealed": 'layout = "packed"\n',
}


class Line:
    """One row of the table."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.figures: dict[str, object] = {}

    def measure(self, step: str, command: list[str], environment: dict[str, str]) -> str:
        """Run a command to its end, note its seconds and memory, and give its output."""
        began = time.monotonic()
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(command, env=environment, stdout=out)  # noqa: S603 - our own
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            text = out.read().decode(errors="replace")
        if process.returncode:
            raise SystemExit(f"{self.way}: {' '.join(command)} ended with {process.returncode}")
        self.figures[f"{step}_wall_s"] = round(time.monotonic() - began, 2)
        self.figures[f"{step}_cpu_s"] = round(usage.ru_utime + usage.ru_stime, 2)
        self.figures[f"{step}_peak_mb"] = usage.ru_maxrss // 1024
        return text


def make_tree(root: Path, files: int) -> None:
    """Small files of 9.5 KB on the average, a third of them incompressible, a hundred to a folder."""
    chance = random.Random(7)  # noqa: S311 - the same tree each time is the point
    words = [
        bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 10))) for _ in range(4000)
    ]
    text, noise = b" ".join(chance.choices(words, k=400_000)), chance.randbytes(4 << 20)
    for number in range(files):
        folder = root / f"{number // 100:05d}"
        if not number % 100:
            folder.mkdir(parents=True)
        size = min(200_000, int(chance.lognormvariate(8.6, 1.0)))
        source = text if number % 3 else noise
        begin = chance.randrange(len(source) - size)
        (folder / f"{number:07d}").write_bytes(b"%d\n" % number + source[begin : begin + size])


def stored(folder: Path) -> tuple[int, int]:
    """How many files lie below a folder, and their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def differences(tree: Path, restored: Path) -> int:
    """Lines that rsync would change."""
    command = [
        "rsync",
        "-aHAXnc",
        "--numeric-ids",
        "--delete",
        "--itemize-changes",
        f"{tree}/",
        f"{restored}/",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return len(done.stdout.splitlines())


def asyncbackup(way: str, tree: Path, work: Path) -> Line:
    """One way of storing with asyncbackup."""
    line, folder = Line(way), work / way.replace(", ", "-")
    folder.mkdir()
    secret = folder / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE)
    config = folder / "asyncbackup.toml"
    sealed = f'[sections.tree.encryption]\nenabled = true\npassphrase_file = "{secret}"\n'
    config.write_text(
        f'state_dir = "{folder}/state"\n[sections.tree]\npath = "{tree}"\n'
        f'destination = "file://{folder}/repository"\n{WAYS[way]}{sealed if "sealed" in way else ""}'
    )
    (folder / "repository").mkdir()
    program = [sys.executable, "-m", "asyncbackup", "-c", str(config), "--quiet", "--json"]
    environment = dict(os.environ)
    line.measure("init", [*program, "initdb"], environment)
    summary = json.loads(line.measure("first", [*program, "run"], environment).splitlines()[-1])
    line.figures["requests"] = summary["requests"]
    line.figures["objects"], line.figures["bytes"] = stored(folder / "repository/tree/data")
    again = json.loads(line.measure("unchanged", [*program, "run"], environment).splitlines()[-1])
    line.figures["unchanged_requests"] = again["requests"]
    manifests = sorted((folder / "repository/tree/snapshots").iterdir())
    line.figures["manifest_bytes"] = [path.stat().st_size for path in manifests]
    target = folder / "restored"
    restored = line.measure("restore", [*program, "restore", "tree", "--target", str(target)], environment)
    line.figures["restore_requests"] = json.loads(restored.splitlines()[-1])["requests"]
    line.figures["differences"] = differences(tree, target)
    shutil.rmtree(target)
    return line


def restic(tree: Path, work: Path) -> Line:
    """The same with restic, whose paths are absolute."""
    line, folder = Line("restic"), work / "restic"
    folder.mkdir()
    environment = {
        **os.environ,
        "RESTIC_PASSWORD": PASSPHRASE,
        "RESTIC_REPOSITORY": str(folder / "repository"),
    }
    program = ["restic", "--quiet", f"--cache-dir={folder}/cache"]
    line.measure("init", [*program, "init"], environment)
    line.measure("first", [*program, "backup", str(tree)], environment)
    line.figures["objects"], line.figures["bytes"] = stored(folder / "repository")
    line.measure("unchanged", [*program, "backup", str(tree)], environment)
    target = folder / "restored"
    line.measure("restore", [*program, "restore", "latest", f"--target={target}"], environment)
    line.figures["differences"] = differences(tree, target / tree.relative_to("/"))
    shutil.rmtree(target)
    return line


def tars(work: Path) -> None:
    """List one pack with every tar there is."""
    (pack, *_) = sorted((work / "packed-plain/repository").rglob("packs/*.tar"))
    readers = {
        "GNU tar": ["tar", "-tvf", str(pack)],
        "bsdtar": ["bsdtar", "-tvf", str(pack)],
        "busybox tar": ["busybox", "tar", "-tvf", str(pack)],
        "Python tarfile": [sys.executable, "-m", "tarfile", "-l", str(pack)],
    }
    for name, command in readers.items():
        if shutil.which(command[0]) is None:
            print(f"{name}: not installed")
            continue
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own
        lines = done.stdout.decode(errors="replace").splitlines()
        print(f"{name}: exit {done.returncode}, {len(lines)} members, stderr {len(done.stderr)} bytes")
        for text in lines[:3]:
            print(f"    {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tree", type=Path, nargs="?", help="the folder; or --files")
    parser.add_argument("--files", type=int, default=0, help="make a tree of so many small files")
    parser.add_argument("--work", type=Path, help="where everything is put; default: a temporary folder")
    parser.add_argument("--only", action="append", help="one of the ways; may be repeated")
    arguments = parser.parse_args()
    if (arguments.tree is None) == (not arguments.files):
        parser.error("give a folder, or --files N")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="asyncbackup-packed-") as name:
        work = Path(name)
        tree = arguments.tree
        if tree is None:
            tree = work / "tree"
            make_tree(tree, arguments.files)
        tree = tree.resolve()
        for way in [*WAYS, "restic"]:
            if arguments.only and way not in arguments.only:
                continue
            if way == "restic" and shutil.which("restic") is None:
                print("restic: not installed")
                continue
            line = restic(tree, work) if way == "restic" else asyncbackup(way, tree, work)
            print(json.dumps({"way": way, **line.figures}), flush=True)
        if (work / "packed-plain").exists():
            tars(work)


if __name__ == "__main__":
    main()
