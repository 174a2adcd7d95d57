"""Connections and their pool against servers that behave and servers that do not, on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from asyncbackup.store.body import PIECE_BYTES
from asyncbackup.store.lean import connection as connection_module
from asyncbackup.store.lean.connection import DIRECT_BYTES, READ_BYTES, WHOLE_LIMIT, Connection
from asyncbackup.store.lean.errors import (
    BrokenConnectionError,
    MalformedAnswerError,
    NoConnectionError,
)
from asyncbackup.store.lean.pool import Origin, Pool
from tests.servers.process import free_ports

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\n\r\n"
LARGE = bytes(16 * 1024 * 1024)

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Run = Callable[[Coroutine[object, object, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on an event loop of each kind."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def to_the_end(coroutine: Coroutine[object, object, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(coroutine)

    return to_the_end


class Server:
    """Runs ``script`` on every connection; ``ended`` holds an event for each, set when the client is gone."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.ended: list[asyncio.Event] = []
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.Event()
        self.ended.append(ended)
        try:
            await self._script(reader, writer)
            while await reader.read(1 << 20):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            ended.set()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def serving(script: Script, **options: float) -> AsyncIterator[tuple[Server, Pool]]:
    server = Server(script)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    pool = Pool(
        Origin("127.0.0.1", listening.sockets[0].getsockname()[1]), **{"connect_seconds": 5.0, **options}
    )
    try:
        yield server, pool
    finally:
        await pool.aclose()
        assert pool.open_count == 0
        for ended in server.ended:
            await ended.wait()
        listening.close()
        await listening.wait_closed()


def answering(answer: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)

    return script


def nothing() -> None:
    pass


async def ask(pool: Pool, *, body: bytes = b"", expect: bool = False) -> tuple[int, bytes, bool]:
    """Status and body of one exchange, and whether the server kept to what ``expect`` says."""
    connection = await pool.take()
    try:
        head = PUT if body else GET
        kept = await connection.send(head, body, len(body), expect=expect, progress=nothing)
        answer = await connection.head()
        return answer.status, await connection.whole(), kept
    finally:
        pool.give(connection)


async def begin(pool: Pool) -> Connection:
    """A connection on which a GET was sent, and the head of its answer came."""
    connection = await pool.take()
    await connection.send(GET, b"", 0, expect=False, progress=nothing)
    await connection.head()
    return connection


async def filled(connection: Connection, *, room: int) -> bytes:
    """All of a body, received into one buffer of ``room`` bytes again and again."""
    body, buffer = bytearray(), memoryview(bytearray(room))
    while True:
        counts: list[int] = []
        await connection.fill(buffer, counts.append)
        body += buffer[: sum(counts)]
        if sum(counts) < room:
            return bytes(body)


def test_requests_follow_on_one_connection(run: Run) -> None:
    async def test() -> None:
        async with serving(answering(OK)) as (server, pool):
            for _ in range(3):
                assert await ask(pool) == (200, b"ok", True)
            assert len(server.ended) == 1

    run(test())


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK + b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["close", "HTTP/1.0", "excess"],
)
def test_a_connection_of_which_nothing_more_is_expected(run: Run, answer: bytes) -> None:
    async def test() -> None:
        async with serving(answering(answer)) as (server, pool):
            for _ in range(2):
                assert await ask(pool) == (200, b"ok", True)
            assert len(server.ended) == 2
            assert pool.open_count <= 1  # The loop may not have let go of the last one yet.

    run(test())


def test_a_kept_connection_that_dies_is_an_error_and_no_second_request(run: Run) -> None:
    asked = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    async def test() -> None:
        async with serving(script) as (_, pool):
            await ask(pool)
            with pytest.raises(BrokenConnectionError):
                await ask(pool)
            assert len(asked) == 2

    run(test())


@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_an_idle_connection_that_the_endpoint_ends_is_not_used(run: Run, last_words: bytes) -> None:
    go = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await go.wait()
        writer.write(last_words)
        writer.close()

    async def test() -> None:
        async with serving(script) as (server, pool):
            connection = await pool.take()
            await connection.send(GET, b"", 0, expect=False, progress=nothing)
            await connection.head()
            await connection.whole()
            pool.give(connection)
            go.set()
            await connection.wait_lost()
            assert await ask(pool) == (200, b"ok", True)
            assert len(server.ended) == 2

    run(test())


def test_idle_connections_are_closed_after_a_while(run: Run) -> None:
    async def test() -> None:
        async with serving(answering(OK), idle_seconds=0.05) as (server, pool):
            await ask(pool)
            await server.ended[0].wait()
            assert await ask(pool) == (200, b"ok", True)

    run(test())


@pytest.mark.parametrize("goes_on", [True, False], ids=["stays", "resets"])
def test_an_answer_that_comes_before_the_body_was_sent(run: Run, goes_on: bool) -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nrefused"

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refusal if goes_on else refusal[:-3])
        await writer.drain()
        if not goes_on:
            writer.close()

    async def test() -> None:
        async with serving(script) as (server, pool):
            status, body, _ = await ask(pool, body=LARGE)
            assert status == 403
            assert body == (b"refused" if goes_on else b"refu")
            await server.ended[0].wait()  # The rest of the body has nobody to go to.

    run(test())


def test_a_body_waits_for_100_continue(run: Run) -> None:
    asked = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        asked.append(await reader.readexactly(len(LARGE)))
        writer.write(OK)

    async def test() -> None:
        async with serving(script) as (_, pool):
            assert await ask(pool, body=LARGE, expect=True) == (200, b"ok", True)
        assert asked == [LARGE]

    run(test())


def test_a_refusal_in_place_of_100_costs_no_body(run: Run) -> None:
    received = bytearray()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")
        while data := await reader.read(1 << 20):
            received.extend(data)

    async def test() -> None:
        async with serving(script) as (_, pool):
            assert await ask(pool, body=LARGE, expect=True) == (503, b"", True)
        assert not received

    run(test())


def test_a_server_that_never_says_100_gets_the_body_all_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CONTINUE_SECONDS", 0.05)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(LARGE))
        writer.write(OK)

    async def test() -> None:
        async with serving(script) as (_, pool):
            assert await ask(pool, body=LARGE, expect=True) == (200, b"ok", False)

    run(test())


def test_progress_is_what_the_socket_took(run: Run) -> None:
    go, first = asyncio.Event(), asyncio.Event()
    steps: list[int] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(LARGE))
        writer.write(OK)

    def progress() -> None:
        steps.append(1)
        first.set()

    async def test() -> None:
        async with serving(script) as (_, pool):
            connection = await pool.take()
            sending = asyncio.ensure_future(
                connection.send(PUT, LARGE, len(LARGE), expect=False, progress=progress)
            )
            await first.wait()
            pieces = len(LARGE) // PIECE_BYTES
            assert len(steps) < pieces
            go.set()
            await sending
            assert len(steps) == pieces
            await connection.head()
            assert await connection.whole() == b"ok"
            pool.give(connection)

    run(test())


def test_what_is_not_read_stays_with_the_endpoint(run: Run) -> None:
    size = 64 * 1024 * 1024
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        request = await reader.readuntil(b"\r\n\r\n")
        if request != GET:
            while True:
                writer.write(OK)
                await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(1024 * 1024))
            await writer.drain()
            sent += 1024 * 1024

    async def test() -> None:
        async with serving(script) as (_, pool):
            connection = await pool.take()
            await connection.send(GET, b"", 0, expect=False, progress=nothing)
            await connection.head()
            for _ in range(200):  # Turns of the event loop in which everything could arrive.
                await ask(pool, body=b"x")
            assert sent < size
            got = 0
            while chunk := await connection.read():
                assert len(chunk) <= READ_BYTES
                got += len(chunk)
            assert got == size
            pool.give(connection)
            assert not connection.closed

    run(test())


def test_a_body_in_tiny_chunks_is_read_in_large_ones(run: Run) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % (number % 256) for number in range(100_000))

    async def test() -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with serving(answering(head + chunks + b"0\r\n\r\n")) as (_, pool):
            _, body, _ = await ask(pool)
            assert body == bytes(number % 256 for number in range(100_000))

    run(test())


PATTERN = bytes(range(251)) * 20_000


@pytest.mark.parametrize("size", [0, 1, DIRECT_BYTES, DIRECT_BYTES + 1, 1_000_000, len(PATTERN)])
@pytest.mark.parametrize("room", [1000, 1_000_000, 8_000_000])
def test_a_body_is_received_into_the_callers_memory(run: Run, size: int, room: int) -> None:
    async def test() -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + PATTERN[:size]
        async with serving(answering(answer)) as (server, pool):
            for _ in range(2):
                connection = await begin(pool)
                assert await filled(connection, room=max(room, size // 100)) == PATTERN[:size]
                pool.give(connection)
                assert await ask(pool) == (200, PATTERN[:size][:WHOLE_LIMIT], True)
            assert len(server.ended) == (1 if size <= WHOLE_LIMIT else 2), "whole bodies leave them usable"

    run(test())


def test_a_chunked_body_is_received_into_the_callers_memory(run: Run) -> None:
    chunks = b"%x\r\n%b\r\n" % (len(PATTERN), PATTERN) * 2

    async def test() -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with serving(answering(head + chunks + b"0\r\n\r\n")) as (_, pool):
            connection = await begin(pool)
            assert await filled(connection, room=1_000_000) == PATTERN * 2
            assert connection.reusable
            pool.give(connection)

    run(test())


@pytest.mark.parametrize("reads_first", [True, False], ids=["then filled", "then read"])
def test_ways_of_receiving_may_follow_each_other(run: Run, reads_first: bool) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PATTERN) + PATTERN

    async def test() -> None:
        async with serving(answering(answer)) as (_, pool):
            connection = await begin(pool)
            body = b""
            if reads_first:
                body = await connection.read() + await connection.read()
                body += await filled(connection, room=1_000_000)
            else:
                buffer = memoryview(bytearray(1_000_000))
                await connection.fill(buffer, lambda _: None)
                body = bytes(buffer)
                while chunk := await connection.read():
                    body += chunk
            assert body == PATTERN
            assert connection.reusable
            pool.give(connection)

    run(test())


def test_what_comes_behind_a_body_that_was_filled_ends_the_connection(run: Run) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PATTERN) + PATTERN + OK

    async def test() -> None:
        async with serving(answering(answer)) as (_, pool):
            connection = await begin(pool)
            assert await filled(connection, room=len(PATTERN)) == PATTERN
            assert not connection.reusable
            pool.give(connection)

    run(test())


def test_what_came_before_a_break_is_there(run: Run) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PATTERN)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + PATTERN[:3_000_000])
        await writer.drain()
        writer.close()

    async def test() -> None:
        async with serving(script) as (_, pool):
            connection = await begin(pool)
            counts: list[int] = []
            buffer = memoryview(bytearray(len(PATTERN)))
            with pytest.raises(BrokenConnectionError):
                await connection.fill(buffer, counts.append)
            assert sum(counts) == 3_000_000
            assert buffer[:3_000_000] == PATTERN[:3_000_000]
            pool.give(connection)

    run(test())


def test_a_buffer_is_left_alone_once_it_was_given_up(run: Run) -> None:
    go, came = asyncio.Event(), asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PATTERN)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readuntil(b"\r\n\r\n") and head + PATTERN[:100_000])
        await go.wait()
        writer.write(PATTERN[100_000:])
        writer.write(await reader.readuntil(b"\r\n\r\n") and OK)

    async def test() -> None:
        async with serving(script) as (_, pool):
            connection = await begin(pool)
            got = 0

            def progress(count: int) -> None:
                nonlocal got
                got += count
                if got == 100_000:
                    came.set()

            given_up = memoryview(bytearray(len(PATTERN)))
            filling = asyncio.ensure_future(connection.fill(given_up, progress))
            await came.wait()
            filling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await filling
            go.set()
            rest = await filled(connection, room=1_000_000)
            assert bytes(given_up[:got]) + rest == PATTERN
            assert not any(given_up[got:])
            pool.give(connection)
            assert await ask(pool) == (200, b"ok", True)

    run(test())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (OK[:-1], BrokenConnectionError),
        (OK[:20], BrokenConnectionError),
        (b"", BrokenConnectionError),
        (b"220 smtp.example.com ESMTP\r\n", MalformedAnswerError),
        (OK.replace(b": 2", b": two"), MalformedAnswerError),
    ],
)
def test_answers_that_are_none(run: Run, answer: bytes, error: type[Exception]) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def test() -> None:
        async with serving(script) as (_, pool):
            with pytest.raises(error):
                await ask(pool)

    run(test())


def test_a_cancelled_request_takes_its_connection_along(run: Run) -> None:
    reached = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reached.set()

    async def test() -> None:
        async with serving(script) as (server, pool):
            asking = asyncio.ensure_future(ask(pool, body=LARGE))
            await reached.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await server.ended[0].wait()

    run(test())


def test_closing_ends_requests_that_are_under_way(run: Run) -> None:
    reached = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reached.set()

    async def test() -> None:
        async with serving(script) as (_, pool):
            asking = asyncio.ensure_future(ask(pool))
            await reached.wait()
            await pool.aclose()
            with pytest.raises(BrokenConnectionError):
                await asking
            with pytest.raises(NoConnectionError, match="closed"):
                await pool.take()

    run(test())


def test_nobody_listens(run: Run) -> None:
    async def test() -> None:
        (port,) = free_ports(1)
        pool = Pool(Origin("127.0.0.1", port), connect_seconds=5.0)
        with pytest.raises(NoConnectionError, match=r"refused|Connect call failed"):
            await pool.take()
        assert pool.open_count == 0
        await pool.aclose()

    run(test())


def test_a_connection_lost_before_its_request(run: Run) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def test() -> None:
        async with serving(script) as (_, pool):
            connection: Connection = await pool.take()
            await connection.wait_lost()
            with pytest.raises(BrokenConnectionError):
                await connection.send(GET, b"", 0, expect=False, progress=nothing)
            pool.give(connection)

    run(test())
