"""A real tree to a real S3 server and back: what it costs, and whether it came back exactly.

    python -m benchmarks.real_tree --server rclone /usr/share
    python -m benchmarks.real_tree --server seaweedfs --encrypted /usr/share

Runs ``asyncbackup`` as a user does, in processes of its own: a first run, an
unchanged second one, ``verify``, and a restore; then rsync looks for
differences (``rsync -aHAXnc --itemize-changes --delete`` has to print
nothing). With ``--rclone-copy`` the mirror is also fetched by ``rclone copy
--metadata`` and compared; with ``--kills N`` further first runs are killed at
N random moments, ended by one clean run each, and verified.

Prints a line a step, as JSON with ``--json``: wall and CPU seconds, peak
memory in MB, and what the summary told.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import ACCESS_KEY, SECRET_KEY, S3Endpoint, run_rclone, run_seaweed
from tests.servers.process import binary

if TYPE_CHECKING:
    import resource
    from collections.abc import Iterator

PASSPHRASE = "a pass phrase for measuring"  # noqa: S105 - guards nothing
SERVERS = {"rclone": run_rclone, "seaweedfs": run_seaweed}


class Measured:
    """One finished command: its figures, and the last line of its ``--json`` output."""

    def __init__(
        self, code: int, usage: resource.struct_rusage, wall_seconds: float, summary: dict[str, object]
    ) -> None:
        self.code = code
        self.figures: dict[str, object] = {
            "wall_seconds": round(wall_seconds, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_mb": round(usage.ru_maxrss / 1024),
        }
        self.summary = summary


class Bench:
    """One tree, one server, one bucket."""

    def __init__(self, work: Path, endpoint: S3Endpoint, tree: Path, arguments: argparse.Namespace) -> None:
        self.work = work
        self.endpoint = endpoint
        self.tree = tree
        self.arguments = arguments
        self.bucket = endpoint.fresh_bucket()
        self.environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.config = work / "asyncbackup.toml"
        secret = work / "passphrase"
        secret.touch(mode=0o600)
        secret.write_text(PASSPHRASE)
        self.config.write_text(
            f"""
state_dir = "{work}/state"
concurrency = {arguments.concurrency}
[s3]
endpoint_url = "{endpoint.url}"
region = "us-east-1"
[sections.tree]
path = "{tree}"
destination = "s3://{self.bucket}/backups"
"""
        )
        if arguments.encrypted:
            with self.config.open("a") as config:
                config.write(f'[sections.tree.encryption]\nenabled = true\npassphrase_file = "{secret}"\n')

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "asyncbackup", "-c", str(self.config), "--json", *words]

    def run(self, step: str, *words: str) -> Measured:
        """Run a command to its end and print its figures."""
        began = time.monotonic()
        # On disk, not in a pipe that nobody reads.
        with (self.work / "out").open("w+b") as out, (self.work / "err").open("w+b") as err:
            process = subprocess.Popen(  # noqa: S603 - our own command line
                self.command(*words), env=self.environment, stdout=out, stderr=err
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            lines = out.read().splitlines()
            err.seek(0)
            errors = err.read().decode(errors="replace").strip()
        summary = json.loads(lines[-1]) if lines else {}
        measured = Measured(process.returncode, usage, time.monotonic() - began, summary)
        self.say(step, exit=measured.code, **measured.figures, **_told(summary))
        if errors:
            print(errors[-2000:], file=sys.stderr)
        return measured

    def say(self, step: str, **figures: object) -> None:
        if self.arguments.json:
            print(json.dumps({"step": step, **figures}), flush=True)
        else:
            print(f"{step}: " + ", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)

    def compare(self, step: str, restored: Path) -> None:
        """What an independent program finds different; nothing is what it should find."""
        command = ["rsync", "-aHAXnc", "--numeric-ids", "--delete", "--itemize-changes"]
        done = subprocess.run(  # noqa: S603 - our own command line
            [*command, f"{self.tree}/", f"{restored}/"], check=True, capture_output=True, text=True
        )
        differences = done.stdout.splitlines()
        self.say(step, differences=len(differences), first=differences[:5])

    def rclone_copy(self, snapshot: str) -> None:
        """Fetch the mirror without asyncbackup and compare files, times and modes."""
        target = self.work / "by rclone"
        environment = {
            **self.environment,
            "RCLONE_CONFIG_S_TYPE": "s3",
            "RCLONE_CONFIG_S_PROVIDER": "Other",
            "RCLONE_CONFIG_S_ENDPOINT": self.endpoint.url,
            "RCLONE_CONFIG_S_ENV_AUTH": "true",
            "RCLONE_CONFIG_S_REGION": "us-east-1",
        }
        source = f"s:{self.bucket}/backups/tree/data/{snapshot}/files"
        subprocess.run(  # noqa: S603 - our own command line
            [binary("rclone"), "copy", "--metadata", "--config", os.devnull, source, target],
            env=environment,
            check=True,
        )
        files = wrong = 0
        for path in self.tree.rglob("*"):
            if path.is_symlink() or not path.is_file():
                continue
            files += 1
            copy = target / path.relative_to(self.tree)
            wrong += not _same_file(path, copy)
        self.say("rclone copy --metadata", files=files, differing=wrong)

    def kill_and_go_on(self, number: int, moment: float) -> None:
        """A first run killed after ``moment`` seconds, then one clean run that has to make it whole."""
        process = subprocess.Popen(  # noqa: S603 - our own command line
            self.command("run"), env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.say(f"kill {number}", after_seconds=round(moment, 2), exit=process.returncode)


def _told(summary: dict[str, object]) -> dict[str, object]:
    names = (
        "files_scanned", "files_new", "files_unchanged", "files_restored", "files_failed", "symlinks",
        "folders", "bytes_scanned", "bytes_uploaded", "bytes_restored", "requests", "peak_inflight_bytes",
        "limited_by", "damaged_objects", "objects",
    )  # fmt: skip
    return {name: summary[name] for name in names if name in summary}


def _same_file(source: Path, copy: Path) -> bool:
    if not copy.is_file():
        return False
    a, b = source.stat(), copy.stat()
    if (a.st_mtime_ns, a.st_mode, a.st_size) != (b.st_mtime_ns, b.st_mode, b.st_size):
        return False
    return source.read_bytes() == copy.read_bytes()


@contextmanager
def _work_folder(keep: Path | None) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix="asyncbackup-bench-", dir=keep))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Back up a real tree, restore it, compare.")
    parser.add_argument("tree", type=Path)
    parser.add_argument("--server", choices=sorted(SERVERS), default="rclone")
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rclone-copy", action="store_true")
    parser.add_argument("--work", type=Path, help="where the server's data and the restored tree go")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with _work_folder(arguments.work) as work, SERVERS[arguments.server](work / "server") as (endpoint, _):
        bench = Bench(work, endpoint, arguments.tree, arguments)
        bench.run("initdb", "initdb")
        if arguments.kills:
            chosen = random.Random(arguments.seed)  # noqa: S311 - a choice of moments, repeatable
            for number in range(1, arguments.kills + 1):
                bench.kill_and_go_on(number, chosen.uniform(0.3, arguments.kills * 0.8))
        first = bench.run("first run" if not arguments.kills else "run after the kills", "run")
        bench.run("unchanged run", "run")
        bench.run("verify", "verify")
        restored = work / "restored"
        bench.run("restore", "restore", "tree", "--target", str(restored), "--privileged")
        bench.compare("rsync -aHAXnc", restored)
        shutil.rmtree(restored)
        if arguments.rclone_copy:
            bench.rclone_copy(str(first.summary.get("snapshot", "")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
