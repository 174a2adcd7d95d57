"""``python -m benchmarks.server``: prints ``http://127.0.0.1:PORT`` once it listens, and serves."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
from typing import NoReturn

import uvloop

from benchmarks.server.connection import Connection
from benchmarks.server.faults import ANY, Faults
from benchmarks.server.pace import Latency, Pace
from benchmarks.server.service import OPERATIONS, Service

_HOST = "127.0.0.1"
_BACKLOG = 1024
_MBIT_BYTES = 125_000


def _share(text: str) -> tuple[str, float]:
    """``PutObject=5`` or ``5``, which is of all operations."""
    operation, _, number = text.rpartition("=")
    operation = operation or ANY
    if operation != ANY and operation not in OPERATIONS:
        raise argparse.ArgumentTypeError(f"{operation} is none of {', '.join(OPERATIONS)}")
    return operation, float(number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description="S3 in memory.")
    add = parser.add_argument
    add("--port", type=int, default=0, help="0: one that is free")
    add("--latency-ms", type=float, default=0.0, help="from a request's last byte to its answer's first")
    add("--jitter-ms", type=float, default=0.0, help="latency is that much more or less, evenly")
    add("--bandwidth-mbit", type=float, default=0.0, help="of each connection, each direction")
    add("--total-mbit", type=float, default=0.0, help="of all connections together, each direction")
    text = "answer this share with {}; OPERATION=PERCENT, or PERCENT of all"
    for option, does in (
        ("--fail-percent", "500"),
        ("--slow-down-percent", "503 SlowDown"),
        ("--reset-percent", "a broken connection"),
    ):
        add(option, type=_share, action="append", default=[], metavar="[OP=]N", help=text.format(does))
    add(
        "--requests-per-second",
        type=_share,
        action="append",
        default=[],
        metavar="[OP=]N",
        help="answer more of an operation with 503 SlowDown",
    )
    add(
        "--check-bodies",
        action="store_true",
        help="real MD5 as ETags, and refuse bodies that differ from the MD5 or SHA-256 that came along",
    )
    add("--seed", type=int, default=1, help="of faults and jitter")
    add("--bucket", action="append", default=[], help="make this bucket")
    add("--max-seconds", type=float, default=3600.0, help="end by itself after so long")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    service = Service(
        faults=Faults(
            fail=dict(arguments.fail_percent),
            slow_down=dict(arguments.slow_down_percent),
            reset=dict(arguments.reset_percent),
            per_second=dict(arguments.requests_per_second),
            seed=arguments.seed,
        ),
        latency=Latency(arguments.latency_ms / 1000, arguments.jitter_ms / 1000, seed=arguments.seed),
        incoming=Pace(arguments.total_mbit * _MBIT_BYTES),
        outgoing=Pace(arguments.total_mbit * _MBIT_BYTES),
        connection_bytes_per_second=arguments.bandwidth_mbit * _MBIT_BYTES,
        checks_bodies=arguments.check_bodies,
    )
    for name in arguments.bucket:
        service.buckets.create(name)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = await loop.create_server(lambda: Connection(service), _HOST, arguments.port, backlog=_BACKLOG)
    print(f"http://{_HOST}:{server.sockets[0].getsockname()[1]}", flush=True)
    try:
        async with asyncio.timeout(arguments.max_seconds):
            await ended.wait()
    except TimeoutError:
        print(f"ended after {arguments.max_seconds:g} seconds", flush=True)
    finally:
        server.close()
        for connection in list(service.connections):
            connection.abort()


def main() -> NoReturn:
    # A million objects are kept, and nothing here makes cycles: collections would find nothing each time.
    gc.disable()
    uvloop.run(_serve(_arguments()))
    raise SystemExit(0)


if __name__ == "__main__":
    main()
