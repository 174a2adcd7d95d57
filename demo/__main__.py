"""Back up a real tree to a local S3 server, change it, back it up again, and get both states back.

Every command is printed as one would type it, then run. The exit code is 0
only if each command succeeded and each restored tree equals what was saved,
byte for byte and with its metadata.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from demo.compare import compare_trees
from demo.server import rclone_server

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "demo-work"

CONFIG = """\
state_dir = "state"

[s3]
endpoint_url = "{url}"
region = "us-east-1"

[sections.python]
path = "tree"
destination = "s3://demo-bucket/backups"
exclude = ["*.pyc"]
"""

CHANGES = """\
echo '# a new last line' >> tree/this.py
echo 'new' > tree/new-file.txt
mkdir tree/new-folder && mv tree/antigravity.py tree/new-folder/
rm -r tree/wsgiref
chmod 600 tree/abc.py
touch -d '2001-02-03 04:05:06.789' tree/ast.py
ln -s ../this.py tree/new-folder/link
"""


class DemoError(Exception):
    """A step did not do what it shall."""


class Terminal:
    """Types commands: prints each, runs it, and insists on success."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def say(self, text: str) -> None:
        """A remark between commands."""
        print(f"\n\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)

    def type(self, command: str) -> None:
        """Run one line in a shell. Raises ``DemoError`` unless it succeeds."""
        print(f"$ {command}", flush=True)
        began = time.monotonic()
        code = subprocess.run(
            ["/bin/sh", "-ec", command], cwd=WORK, env=self._environment, check=False
        ).returncode
        if code != 0:
            raise DemoError(f"{command!r} ended with exit code {code} after {time.monotonic() - began:.1f} s")

    def read(self, command: str) -> str:
        """Like :meth:`type`, and gives what the command printed."""
        print(f"$ {command}", flush=True)
        done = subprocess.run(
            ["/bin/sh", "-ec", command],
            cwd=WORK,
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
        )
        print(done.stdout, end="", flush=True)
        if done.returncode != 0:
            raise DemoError(f"{command!r} ended with exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def main() -> int:
    """Run the tour. The work folder stays where something failed."""
    if WORK.exists():
        shutil.rmtree(WORK)
    WORK.mkdir()
    print(f"working in {WORK.relative_to(ROOT)}/")
    try:
        with rclone_server(WORK / "server", bucket="demo-bucket") as server:
            (WORK / "asyncbackup.toml").write_text(CONFIG.format(url=server.url))
            _tour(Terminal(_environment(server.access_key, server.secret_key)))
    except DemoError as error:
        print(f"\ndemo: FAILED: {error}\ndemo: everything is still in {WORK}", file=sys.stderr)
        return 1
    shutil.rmtree(WORK)
    print("\ndemo: all steps passed, both snapshots came back without any difference")
    return 0


def _tour(terminal: Terminal) -> None:
    terminal.say("a real tree: a copy of Python's standard library")
    library = shlex.quote(sysconfig.get_paths()["stdlib"])
    terminal.type("mkdir tree")
    terminal.type(f"tar -C {library} -cf - --exclude=site-packages . | tar -xf - -C tree")
    terminal.type("cat asyncbackup.toml")

    terminal.say("the database first, then everything is uploaded")
    terminal.type("asyncbackup initdb")
    terminal.type("asyncbackup run --concurrency 32")

    terminal.say("something changes")
    shutil.copytree(WORK / "tree", WORK / "tree-before", symlinks=True)
    for command in CHANGES.splitlines():
        terminal.type(command)

    terminal.say("the next run uploads what changed, and nothing else")
    terminal.type("asyncbackup run --concurrency 32")
    terminal.type("asyncbackup run --concurrency 32    # nothing changed since")

    terminal.say("what the destination holds")
    terminal.type("asyncbackup list_remote > listing.txt && wc -l listing.txt && grep new- listing.txt")
    terminal.type("asyncbackup stats")
    terminal.type("asyncbackup verify")
    terminal.type("asyncbackup verify --read-data --quiet")

    terminal.say("the database is lost, and made again from the bucket")
    terminal.type("rm -r state && asyncbackup syncdb_remote && asyncbackup run")

    terminal.say("back again: the latest snapshot, and the first one")
    terminal.type("asyncbackup restore --target restored")
    first = terminal.read(
        "asyncbackup snapshots | sed -n 's/^  \\([0-9]*T[^ ]*\\) .*/\\1/p' | head -1"
    ).strip()
    terminal.type(f"asyncbackup restore --snapshot {first} --target restored-first")
    _compare(terminal, "tree", "restored")
    _compare(terminal, "tree-before", "restored-first")


def _compare(terminal: Terminal, saved: str, restored: str) -> None:
    terminal.say(f"is {restored}/ what {saved}/ was?")
    result = compare_trees(WORK / saved, WORK / restored, excluded_suffix=".pyc")
    for difference in result.differences[:20]:
        print(f"  {difference}")
    if result.differences:
        raise DemoError(f"{restored} differs from {saved} in {len(result.differences)} places")
    print(
        f"compared {result.files} files ({result.bytes / 1e6:.1f} MB), {result.folders} folders and "
        f"{result.symlinks} symlinks: content, mode, owner, group and time are the same"
    )


def _environment(access_key: str, secret_key: str) -> dict[str, str]:
    """This process's environment with this demo's credentials, and none of the user's."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ASYNCBACKUP_"))
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment |= {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "LC_ALL": "C.UTF-8",
    }
    return environment


if __name__ == "__main__":
    sys.exit(main())
