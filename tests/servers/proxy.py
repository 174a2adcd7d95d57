"""A programmable HTTP proxy in front of a real S3 server: faults by plan, and every plan must come true.

``async with FaultProxy(endpoint.url) as proxy`` listens on ``proxy.url``. ``proxy.plan(operation,
action)`` says what happens to which request; leaving the ``async with`` fails the test if a planned
fault did not happen. Requests are told apart by their S3 operation name. The Host header is passed
on unchanged, so signatures stay valid.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

CHUNK = 64 * 1024


@dataclasses.dataclass(slots=True)
class Request:
    """A request whose head was read; the body is still on the connection."""

    method: str
    target: str
    head: bytes
    headers: dict[str, str]

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", "0"))

    @property
    def path(self) -> str:
        """``/bucket/key``, decoded."""
        return unquote(urlsplit(self.target).path)

    @property
    def operation(self) -> str:
        """The name of the S3 operation."""
        query = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        key = self.path.strip("/").partition("/")[2]
        match self.method:
            case "PUT" if "partNumber" in query:
                return "UploadPartCopy" if "x-amz-copy-source" in self.headers else "UploadPart"
            case "PUT" if "x-amz-copy-source" in self.headers:
                return "CopyObject"
            case "PUT":
                return "PutObject"
            case "POST" if "uploads" in query:
                return "CreateMultipartUpload"
            case "POST" if "uploadId" in query:
                return "CompleteMultipartUpload"
            case "POST":
                return "DeleteObjects"
            case "DELETE":
                return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
            case "HEAD":
                return "HeadObject"
            case _ if "uploads" in query:
                return "ListMultipartUploads"
            case _ if "uploadId" in query:
                return "ListParts"
            case _:
                return "GetObject" if key else "ListObjectsV2"


@dataclasses.dataclass(slots=True)
class Response:
    """A whole answer of the real server."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])


class Exchange:
    """One request as an action sees it: it may read, forward, answer, or break the connection."""

    def __init__(
        self,
        proxy: FaultProxy,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.request = request
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._begun = bytearray()
        self._body: bytes | None = None

    async def read_body(self, limit: int | None = None) -> bytes:
        """The request's body, or its next ``limit`` bytes."""
        left = self.request.length - len(self._begun)
        if limit is not None:
            part = await self._reader.readexactly(min(limit, left))
            self._begun += part
            return part
        if self._body is None:
            self._body = bytes(self._begun) + await self._reader.readexactly(left)
        return self._body

    async def forward(self) -> Response:
        """Send the request to the real server and read all of its answer."""
        return await self._proxy.send_upstream(self.request, await self.read_body())

    async def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer in the server's place; underscores in header names stand for hyphens."""
        await self.read_body()
        lines = [f"HTTP/1.1 {status} Planned", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        content = b"" if self.request.method == "HEAD" else body
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    async def pass_on(self, response: Response) -> None:
        await self.send(response.head + response.body)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        """Break the connection off with a TCP reset."""
        self._writer.transport.abort()

    async def silence(self) -> None:
        """Never answer; ends when the client gives up."""
        while await self._reader.read(CHUNK):
            pass


Action = Callable[[Exchange], Awaitable[None]]


@dataclasses.dataclass(slots=True)
class Plan:
    """``action`` for ``times`` requests of ``operation`` (``*``: any), after ``skip`` of them passed."""

    operation: str
    action: Action
    times: int
    skip: int
    path: str
    fired: int = 0

    def takes(self, request: Request) -> bool:
        if self.operation not in ("*", request.operation) or self.path not in request.path:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times and self.fired >= self.times:
            return False
        self.fired += 1
        return True


class FaultProxy:
    """See the module. ``requests`` counts what arrived, ``peak`` the most that were under way at once."""

    def __init__(self, upstream_url: str) -> None:
        parts = urlsplit(upstream_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._upstream = (parts.hostname, parts.port)
        self._plans: list[Plan] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.url = ""
        self.requests: Counter[str] = Counter()
        self.in_flight = 0
        self.peak = 0

    def plan(self, operation: str, action: Action, *, times: int = 1, skip: int = 0, path: str = "") -> Plan:
        """Plan a fault; ``times=0`` is for good (and has to happen at least once)."""
        plan = Plan(operation, action, times, skip, path)
        self._plans.append(plan)
        return plan

    def heal(self) -> None:
        """End all plans that are for good; those that never fired still fail the test."""
        for plan in self._plans:
            plan.times = plan.times or max(1, plan.fired)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1024 * 1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        if error is None:
            for plan in self._plans:
                wanted = plan.times or 1
                what = f"the planned fault of {plan.operation} {plan.path}"
                assert plan.fired >= wanted, f"{what} happened {plan.fired} times, not {wanted}"

    async def send_upstream(self, request: Request, body: bytes) -> Response:
        """One request to the real server on a connection of its own."""
        reader, writer = await asyncio.open_connection(*self._upstream, limit=1024 * 1024)
        try:
            writer.write(_without_keep_alive(request.head) + body)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            while head.startswith(b"HTTP/1.1 100"):
                head = await reader.readuntil(b"\r\n\r\n")
            # The server closes after one answer, so its end is the body's end.
            payload = await reader.read()
            if b"transfer-encoding: chunked" in head.lower():
                payload = _dechunked(payload)
                head = _with_length(head, len(payload))
            return Response(_keeping_alive(head), payload)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while not writer.is_closing() and (request := await _read_head(reader)) is not None:
                await self._exchange(Exchange(self, request, reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client went away.
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, exchange: Exchange) -> None:
        self.requests[exchange.request.operation] += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            for plan in self._plans:
                if plan.takes(exchange.request):
                    await plan.action(exchange)
                    return
            await exchange.pass_on(await exchange.forward())
        finally:
            self.in_flight -= 1


class Gate:
    """Holds requests back until it is opened; ``hold`` is the action to plan. ``reached`` is set by the
    first of them. ``then`` is what happens to them afterwards, unless they just pass."""

    def __init__(self, then: Action | None = None) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()
        self._then = then

    def open(self) -> None:
        """Let what is held, and all that comes, go on."""
        self._open.set()

    async def hold(self, exchange: Exchange) -> None:
        self.reached.set()
        await self._open.wait()
        if self._then is not None:
            await self._then(exchange)
        else:
            await exchange.pass_on(await exchange.forward())


async def reset(exchange: Exchange) -> None:
    """Reset before anything was read of the body."""
    exchange.reset()


async def silence(exchange: Exchange) -> None:
    """Take everything and say nothing."""
    await exchange.silence()


async def applied_unanswered(exchange: Exchange) -> None:
    """The server does it, the client never hears of it."""
    await exchange.forward()
    exchange.reset()


def answering(status: int, body: bytes = b"", **headers: str) -> Action:
    """An answer in the server's place; the server never sees the request."""

    async def act(exchange: Exchange) -> None:
        await exchange.answer(status, body, **headers)

    return act


def applied_but_answering(status: int, body: bytes = b"", **headers: str) -> Action:
    """The server does it, the client is told something else."""

    async def act(exchange: Exchange) -> None:
        await exchange.forward()
        await exchange.answer(status, body, **headers)

    return act


def reset_in_request(after: int) -> Action:
    """Reset once ``after`` bytes of the request's body were read."""

    async def act(exchange: Exchange) -> None:
        await exchange.read_body(after)
        exchange.reset()

    return act


def reset_in_response(after: int) -> Action:
    """Reset once ``after`` bytes of the answer's body were sent."""

    async def act(exchange: Exchange) -> None:
        response = await exchange.forward()
        await exchange.send(response.head + response.body[:after])
        exchange.reset()

    return act


def error_body(code: str, message: str = "planned") -> bytes:
    """An S3 error document."""
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return f'<?xml version="1.0" encoding="UTF-8"?>{error}'.encode()


async def _read_head(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return Request(method, target, head, headers)


def _without_keep_alive(head: bytes) -> bytes:
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])


def _keeping_alive(head: bytes) -> bytes:
    return b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:"))


def _with_length(head: bytes, length: int) -> bytes:
    dropped = (b"transfer-encoding:", b"content-length:")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(dropped)]
    return b"\r\n".join([lines[0], b"Content-Length: %d" % length, *lines[1:]])


def _dechunked(payload: bytes) -> bytes:
    body = bytearray()
    while payload:
        size, _, rest = payload.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            break
        body += rest[:length]
        payload = rest[length + 2 :]
    return bytes(body)
