"""A local S3 server for the demo: ``rclone serve s3`` on a free port of the loopback interface."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT_SECONDS = 30.0


class Server(NamedTuple):
    """Where the server listens, and the credentials that it accepts."""

    url: str
    access_key: str
    secret_key: str


@contextmanager
def rclone_server(folder: Path, *, bucket: str) -> Iterator[Server]:
    """A server with one bucket, kept in ``folder``; stopped on leaving. Raises ``RuntimeError``."""
    (folder / bucket).mkdir(parents=True)
    program = Path(sys.executable).parent / "rclone"
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    port = _free_port()
    address = f"127.0.0.1:{port}"
    log = folder.with_name("server.log")
    command = [
        str(program),
        "serve",
        "s3",
        "--config=",
        f"--addr={address}",
        f"--auth-key={access_key},{secret_key}",
    ]
    with (
        log.open("wb") as output,
        subprocess.Popen([*command, str(folder)], stdout=output, stderr=output) as process,
    ):
        try:
            _wait_for(port, process, log)
            print(f"rclone serve s3 listens on {address}")
            yield Server(f"http://{address}", access_key, secret_key)
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"rclone serve s3 did not start: {log.read_text(errors='replace').strip()}")
