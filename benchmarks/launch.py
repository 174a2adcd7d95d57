"""The server as a process of its own, and what it tells of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_STOP_SECONDS = 20.0


class Traffic(NamedTuple):
    """What the server counted since its counters were last set to zero."""

    requests: dict[str, int]
    received_bytes: int
    sent_bytes: int
    errors: dict[str, int]
    most_under_way: int
    cpu_seconds: float
    """Of the server itself."""
    buckets: dict[str, dict[str, int]]

    def stored(self, bucket: str) -> tuple[int, int]:
        """Objects and bytes of a bucket."""
        held = self.buckets.get(bucket, {})
        return held.get("objects", 0), held.get("bytes", 0)


class LocalServer:
    """The running server: its address, its counters, its buckets."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._host = url.removeprefix("http://")

    def traffic(self) -> Traffic:
        told = json.loads(self._ask("GET", "/_stats"))
        return Traffic(
            requests=told["requests"],
            received_bytes=sum(told["received_bytes"].values()),
            sent_bytes=sum(told["sent_bytes"].values()),
            errors=told["errors"],
            most_under_way=told["most_under_way"],
            cpu_seconds=told["cpu_seconds"],
            buckets=told["buckets"],
        )

    def reset(self) -> None:
        """Set the counters to zero."""
        self._ask("DELETE", "/_stats")

    def create(self, bucket: str) -> None:
        self._ask("PUT", f"/{bucket}")

    def drop(self, bucket: str) -> None:
        """Forget a bucket with all that it holds."""
        self._ask("DELETE", f"/_buckets/{bucket}")

    def _ask(self, method: str, path: str) -> bytes:
        connection = HTTPConnection(self._host, timeout=60)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            if response.status >= 300:
                raise RuntimeError(f"{method} {path}: {response.status} {body.decode(errors='replace')}")
            return body
        finally:
            connection.close()


@contextmanager
def local_server(options: Sequence[str] = ()) -> Iterator[LocalServer]:
    """A server with these options of ``python -m benchmarks.server``; it ends with the block."""
    process = subprocess.Popen(  # noqa: S603 - our own command line
        [sys.executable, "-m", "benchmarks.server", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url.startswith("http://"):
            raise RuntimeError(f"the server did not start: it ended with {process.wait(_STOP_SECONDS)}")
        yield LocalServer(url)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
