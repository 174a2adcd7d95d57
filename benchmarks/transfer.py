"""What a request costs this process: PutObject and GetObject through both transfer paths.

``python -m benchmarks.transfer`` starts a server that does next to nothing in a process of its own,
sends it small objects, ``--concurrency`` at once, and prints processor time a request of the client
alone. ``--profile`` says where it goes. Both paths are measured in turns in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import hashlib
import os
import pstats
import subprocess
import sys
import time
from typing import TYPE_CHECKING, cast

from asyncbackup.config import S3Settings
from asyncbackup.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncbackup.store.base import Store

_WARM_UP = 200
_PUT_ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "00000000000000000000000000000000"\r\n\r\n'
_HEAD_ANSWER = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nDate: Fri, 27 Nov 2026 02:00:00 GMT\r\n\r\n"


class NullServer(asyncio.Protocol):
    """Takes every PUT, has a body of ``size`` bytes for every GET, and misses every HEAD."""

    def __init__(self, size: int) -> None:
        head = f'HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: "0"\r\nLast-Modified: '
        head += "Fri, 27 Nov 2026 02:00:00 GMT\r\nx-amz-meta-mtime: 1.5\r\nServer: null\r\n\r\n"
        self._get_answer = head.encode() + bytes(size)
        self._left = 0
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no children of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = head
            lowered = head.lower()
            at = lowered.find(b"content-length: ")
            length = int(lowered[at + 16 :].partition(b"\r\n")[0]) if at >= 0 else 0
            self._left = length - len(body)
        else:
            self._left -= len(data)
        if not self._left:
            self._answer()

    def _answer(self) -> None:
        method = self._head[:3]
        self._head = b""
        answer = {b"PUT": _PUT_ANSWER, b"GET": self._get_answer}.get(method, _HEAD_ANSWER)
        assert self._transport is not None
        self._transport.write(answer)


async def _serve(size: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: NullServer(size), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _measure(port: int, transfer: str, options: argparse.Namespace) -> dict[str, float]:
    s3 = S3Settings(endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1", transfer=transfer)
    body = os.urandom(options.size)
    sha256 = hashlib.sha256(body).digest()
    metadata = {"mtime": "1764208618.123456789", "mode": "100644", "uid": "1000", "gid": "1000"}
    metadata["asyncbackup-sha256"] = sha256.hex()
    async with open_store("s3://bucket/prefix", s3=s3, concurrency=options.concurrency) as store:

        async def put(number: int) -> None:
            key = f"home/data/20261127T020000Z-3fa2/files/folder/{number:07d}.txt"
            await store.put(key, body, sha256=sha256, metadata=metadata)

        async def get(number: int) -> None:
            await store.get(f"home/data/20261127T020000Z-3fa2/files/folder/{number:07d}.txt", limit=1 << 30)

        return {
            "PutObject": await _cost(put, store, options, f"{transfer}-put"),
            "GetObject": await _cost(get, store, options, f"{transfer}-get"),
        }


async def _cost(
    request: Callable[[int], Awaitable[None]], store: Store, options: argparse.Namespace, name: str
) -> float:
    """Processor milliseconds a request."""

    async def worker(numbers: range) -> None:
        for number in numbers:
            await request(number)

    async def send(count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for first in range(options.concurrency):
                group.create_task(worker(range(first, count, options.concurrency)))

    await send(_WARM_UP)
    profile = cProfile.Profile()
    started = time.process_time()
    if options.profile:
        profile.enable()
    await send(options.requests)
    spent = time.process_time() - started
    if options.profile:
        profile.disable()
        print(f"--- {name}")
        pstats.Stats(profile).sort_stats("tottime").print_stats(28)
    return spent / int(options.requests) * 1000


def _runner(use_uvloop: bool) -> asyncio.Runner:
    if use_uvloop:
        import uvloop

        return asyncio.Runner(loop_factory=uvloop.new_event_loop)
    return asyncio.Runner()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("--size", type=int, default=9000, help="bytes of an object")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transfer", default="lean,aiobotocore")
    parser.add_argument("--asyncio", action="store_true", help="the standard event loop in place of uvloop")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with _runner(not options.asyncio) as runner:
        if options.serve:
            runner.run(_serve(options.size))
            return
        os.environ |= {"AWS_ACCESS_KEY_ID": "AKIANULLNULLNULLNULL", "AWS_SECRET_ACCESS_KEY": "null"}
        command = [sys.executable, "-m", "benchmarks.transfer", "--serve", "--size", str(options.size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - ourselves
            try:
                assert server.stdout is not None
                port = int(server.stdout.readline())
                for _ in range(options.rounds):
                    for transfer in options.transfer.split(","):
                        costs = runner.run(_measure(port, transfer, options))
                        told = "  ".join(f"{name} {cost:.3f} ms" for name, cost in costs.items())
                        print(f"{transfer:12} {told}", flush=True)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
