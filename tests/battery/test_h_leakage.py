"""(h) Secrets and plaintext: not printed, logged, kept on disk, shown in the process list or uploaded.

Refused TLS and plain http are in tests/contract (test_tls.py, test_refusals.py).
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.battery.score import Score, ScoredProxy
from tests.battery.selection import FULL, SEED, selected
from tests.battery.syscalls import needs_strace
from tests.servers.proxy import Action, Exchange, answering, error_body, reset
from tests.workbench import PASSPHRASE, Workbench

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

ACCESS = "AKIACANARYACCESSKEY7"
SECRET = "canary/secret+key/of/forty/characters/xyz"
TOKEN = "canaryTOKEN//////////" + "Q" * 80
PLAINTEXT = b"canary of the plaintext in a file"
NAME = "canary-of-a-name"
SECRETS = (ACCESS.encode(), SECRET.encode(), TOKEN.encode(), PASSPHRASE.encode())
EXCEPTIONS = 50 if FULL else 5
OPERATIONS = {"run": ("PutObject", "HeadObject", "ListObjectsV2"), "restore": ("GetObject", "ListObjectsV2")}


async def echo(exchange: Exchange) -> None:
    """An error whose message repeats what the request was signed with, one header each time."""
    headers = exchange.request.headers
    told = [
        f"{name}: {headers[name]}" for name in ("authorization", "x-amz-security-token") if name in headers
    ]
    said = told[len(told) > 1 and exchange.request.method != "PUT"].replace("&", "&amp;")
    await exchange.answer(403, error_body("SignatureDoesNotMatch", f"{said} and {SECRET}"))


async def garbage(exchange: Exchange) -> None:
    """The request itself comes back in place of an answer."""
    await exchange.send(exchange.request.head)
    exchange.reset()


FORCED: dict[str, Action] = {
    "echo": echo,
    "garbage": garbage,
    "html": answering(200, b"<html>", Content_Type="text/html"),
    "denied": answering(403, error_body("AccessDenied")),
    "reset": reset,
    "broken": answering(400, b"<Error><Code>"),
}


class Watched:
    """A sealed section at a server that takes any credentials, with canaries everywhere."""

    def __init__(self, base: Path, endpoint: S3Endpoint, *, hide_names: bool) -> None:
        self.bucket = endpoint.fresh_bucket()
        self.bench = Workbench(base, f"s3://{self.bucket}/prefix", s3=endpoint.settings(), encrypted=True)
        self.endpoint = endpoint
        self.scratch = base / "tmp"
        self.scratch.mkdir()
        self.shown: list[bytes] = []
        self._hide_names = hide_names
        for number in range(5):
            self.bench.write(f"d/{NAME}-{number}", PLAINTEXT + b" %d" % number * number)

    def config(self, url: str) -> Path:
        path = self.bench.config_file(endpoint_url=url)
        if self._hide_names:
            path.write_text(path.read_text() + "encrypt_names = true\n")
        text = path.read_text()
        path.write_text(text.replace("[s3]\n", "[s3]\nmax_attempts = 2\n"))
        return path

    async def start(self, url: str, *arguments: str) -> asyncio.subprocess.Process:
        """One command at --debug; nothing it may write escapes the umask."""
        environment = os.environ | {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": TOKEN,
            "TMPDIR": str(self.scratch),
        }
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "asyncbackup", "-c", str(self.config(url)), "--debug", *arguments,
            env=environment, umask=0, start_new_session=True,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def end(self, process: asyncio.subprocess.Process) -> int:
        self.shown += await process.communicate()
        assert process.returncode is not None
        return process.returncode

    async def command(self, *arguments: str, url: str = "") -> int:
        """The exit code; what was printed is kept to be searched."""
        return await self.end(await self.start(url or self.endpoint.url, *arguments))

    def check(self) -> None:
        """No canary is anywhere."""
        held = [
            path for folder in (self.scratch, self.bench.settings.state_dir) for path in folder.rglob("*")
        ]
        files = [path.read_bytes() for path in held if path.is_file()]
        stored = list(self._stored())
        absent(SECRETS, self.shown)
        absent((*SECRETS, PLAINTEXT), files)
        names = (NAME.encode(),) if self._hide_names else ()
        absent((*SECRETS, PLAINTEXT, *names), stored)
        assert len(stored) > 5

    def _stored(self) -> Iterable[bytes]:
        client = self.endpoint.client()
        try:
            for item in client.list_objects_v2(Bucket=self.bucket)["Contents"]:
                answer = client.get_object(Bucket=self.bucket, Key=item["Key"])
                yield repr((item["Key"], answer["Metadata"])).encode() + answer["Body"].read()
        finally:
            client.close()


def absent(canaries: Iterable[bytes], texts: Iterable[bytes]) -> None:
    for text in texts:
        for canary in canaries:
            assert canary not in text
        assert b"AWS4-HMAC" not in text
        assert not re.search(rb"(?i)signature=[0-9a-f]{16}", text)


@pytest.mark.parametrize("hide_names", selected([False, True], 1, name="leaks"))
async def test_every_command_at_debug(tmp_path: Path, moto_s3: S3Endpoint, hide_names: bool) -> None:
    watched = Watched(tmp_path, moto_s3, hide_names=hide_names)
    new = tmp_path / "new secret"
    new.touch(mode=0o600)
    new.write_text("canary of another pass phrase\n")
    target = str(tmp_path / "target")
    for arguments, expected in (
        (("initdb",), 0),
        (("run",), 0),
        (("run", "--checksum"), 0),
        (("ls",), 0),
        (("snapshots", "--details"), 0),
        (("stats",), 0),
        (("verify", "--read-data"), 0),
        (("restore", "--target", target), 0),
        (("find", "canary*"), 0),
        (("key", "list"), 0),
        (("key", "add", "home", "--new-passphrase-file", str(new)), 0),
        (("forget", "home", "--keep-last", "1", "--prune"), 0),
        (("syncdb_remote",), 0),
        (("run", "no such section"), 2),
    ):
        assert await watched.command(*arguments) == expected, watched.shown[-1].decode()
    watched.check()
    absent((b"canary of another",), watched.shown)


async def test_forced_exceptions_and_interrupts(tmp_path: Path, moto_s3: S3Endpoint, score: Score) -> None:
    watched = Watched(tmp_path, moto_s3, hide_names=False)
    assert await watched.command("initdb") == 0
    assert await watched.command("run") == 0
    chosen = random.Random(SEED)
    failures = 0
    for number in range(EXCEPTIONS):
        command = chosen.choice(list(OPERATIONS))
        operation = chosen.choice(OPERATIONS[command])
        kind = list(FORCED)[number % len(FORCED)]
        watched.bench.write(f"d/{NAME}-{number}", PLAINTEXT + b"%d" % number)
        async with ScoredProxy(moto_s3.url, score) as proxy:
            proxy.plan(operation, FORCED[kind], times=0)
            target = ("--target", str(tmp_path / "target")) if command == "restore" else ()
            failures += await watched.command(command, *target, url=proxy.url) != 0
    assert failures >= EXCEPTIONS // 2
    assert any(b"***" in text for text in watched.shown), "what was echoed was told, without the secrets"

    async with ScoredProxy(moto_s3.url, score) as proxy:

        async def interrupt(exchange: Exchange) -> None:
            seen = Path(f"/proc/{process.pid}")
            absent(SECRETS, [(seen / "cmdline").read_bytes(), (seen / "comm").read_bytes()])
            process.send_signal(signal.SIGINT)
            await exchange.pass_on(await exchange.forward())

        watched.bench.write(f"d/{NAME}-last", PLAINTEXT)
        proxy.plan("PutObject", interrupt)
        process = await watched.start(proxy.url, "run")
        assert await watched.end(process) == 130
    watched.check()


async def test_modes_whatever_the_umask(tmp_path: Path, moto_s3: S3Endpoint, score: Score) -> None:
    watched = Watched(tmp_path, moto_s3, hide_names=False)
    assert await watched.command("initdb") == 0
    modes: dict[str, int] = {}

    def look() -> None:
        for folder in (watched.bench.settings.state_dir, watched.scratch):
            for path in (folder, *folder.rglob("*")):
                if path != watched.scratch:
                    modes[str(path.relative_to(tmp_path))] = path.lstat().st_mode

    async def looking(exchange: Exchange) -> None:
        look()
        await exchange.pass_on(await exchange.forward())

    commands = [
        ("run",),
        ("verify", "--read-data"),
        ("restore", "--target", str(tmp_path / "target")),
        ("prune",),
    ]
    for arguments in commands:
        async with ScoredProxy(moto_s3.url, score) as proxy:
            proxy.plan("*", looking, times=0)
            assert await watched.command(*arguments, url=proxy.url) == 0, watched.shown[-1].decode()
    look()
    assert "state/home.sqlite3" in modes
    assert "state/home.sqlite3-wal" in modes
    assert any(name.startswith("state/restores/") for name in modes)
    for name, mode in modes.items():
        kind = 0o40700 if mode & 0o40000 else 0o100600
        assert mode == kind, f"{name} has {mode:o}"


async def test_a_destination_folder_whatever_the_umask(tmp_path: Path) -> None:
    destination = tmp_path / "made" / "destination"
    bench = Workbench(tmp_path, f"file://{destination}", encrypted=True)
    bench.write("d/file", PLAINTEXT)
    for arguments in (("initdb",), ("run",)):
        config = bench.config_file()
        subprocess.run(
            [sys.executable, "-m", "asyncbackup", "-c", str(config), *arguments],
            check=True, umask=0, capture_output=True,
        )  # fmt: skip
    for path in (destination, *destination.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert path.stat().st_mode & 0o777 == wanted, f"{path} has {path.stat().st_mode:o}"


@needs_strace
@pytest.mark.parametrize("packed", [False, True])
async def test_a_restored_file_is_private_until_it_is_whole(
    tmp_path: Path, folder_destination: Path, packed: bool
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    bench.configure(packed=packed)
    for number in range(5):
        bench.write(f"d/file{number}", PLAINTEXT * number, mode=0o666)
    await bench.initialise()
    await bench.run()
    log, target = tmp_path / "trace", tmp_path / "target"
    calls_traced = "openat,pwrite64,write,fchmod,fchown,rename,renameat,renameat2"
    strace = ["strace", "-f", "-y", "-qqq", "-o", str(log), "-e", f"trace={calls_traced}", sys.executable]
    command = ["-m", "asyncbackup", "-c", str(bench.config_file()), "restore", "--target", str(target)]
    ended = subprocess.run([*strace, *command], check=False, umask=0, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    calls: dict[str, list[str]] = {}
    for line in log.read_text(errors="replace").splitlines():
        name = re.search(r"\.asyncbackup-restore-[0-9a-f]+-\d+", line)
        call = line.split(None, 1)[1]
        if name and not call.startswith("<..."):  # the end of a call that another thread's lines cut in two
            calls.setdefault(name[0], []).append(call)
    assert len(calls) == 5
    for traced in calls.values():
        assert re.match(r"openat\(.*O_CREAT\|O_EXCL.*, 0600( <unfinished|\))", traced[0]), traced[0]
        kinds = [call.partition("(")[0] for call in traced if not call.startswith("openat")]
        assert kinds[-1].startswith("rename")
        assert kinds[-2] == "fchmod"
        assert "fchmod" not in kinds[:-2], "the mode is given once, after content and owner"
