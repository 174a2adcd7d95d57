"""Calls to a process beside: each caller gets its own answer, and nobody leaves while it is worked on."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
import uvloop

from asyncbackup.flow.side_calls import ANSWER, REQUEST, answer_calls, open_side_calls
from tests.side import dying_side_thread, side_thread

if TYPE_CHECKING:
    import mmap
    import socket
    from collections.abc import Callable

    from asyncbackup.flow.side_process import SideProcess

SLOT_BYTES = 4096


def serve_echo(sock: socket.socket, memory: mmap.mmap) -> None:
    answer_calls(sock, memory, lambda request, view: bytes(request).upper())


def serve_errors(sock: socket.socket, memory: mmap.mmap) -> None:
    def answer(request: bytearray, view: memoryview) -> bytes:
        raise ValueError(f"{bytes(request)!r} is too much")

    answer_calls(sock, memory, answer)


async def test_each_caller_gets_its_own_answer() -> None:
    with side_thread(serve_echo, memory_bytes=SLOT_BYTES) as process:
        async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="it is echoed") as calls:
            assert calls is not None
            words = [b"%d of many" % number * (number % 7 * 20_000 + 1) for number in range(50)]
            answers = await asyncio.gather(*map(calls.ask, words))
            assert answers == [word.upper() for word in words]
            assert calls.answered == 50
    assert not process.retired


async def test_a_second_use_of_the_process_goes_on_with_it() -> None:
    with side_thread(serve_echo, memory_bytes=SLOT_BYTES) as process:
        for word in (b"first", b"second"):
            async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="it is echoed") as calls:
                assert calls is not None
                assert await calls.ask(word) == word.upper()


async def test_who_is_cancelled_waits_until_it_is_done() -> None:
    may_answer, done = threading.Event(), threading.Event()

    def serve(sock: socket.socket, memory: mmap.mmap) -> None:
        def answer(request: bytearray, view: memoryview) -> bytes:
            may_answer.wait()
            done.set()
            return bytes(request)

        answer_calls(sock, memory, answer)

    with side_thread(serve, memory_bytes=SLOT_BYTES) as process:
        async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="it is echoed") as calls:
            assert calls is not None
            asking = asyncio.create_task(calls.ask(b"mine"))
            other = asyncio.create_task(calls.ask(b"other"))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.sleep(0)
            assert not asking.done()
            may_answer.set()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert done.is_set()
            assert await other == b"other"


async def test_what_it_raises_is_told_once_and_it_is_asked_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with side_thread(serve_errors, memory_bytes=SLOT_BYTES) as process:
        async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="it is refused") as calls:
            assert calls is not None
            answers = await asyncio.gather(calls.ask(b"this"), calls.ask(b"that"))
            assert list(answers) == [None, None]
            assert calls.take(1) is None
        async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="it is refused") as calls:
            assert calls is None
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "b'this' is too much" in warning


async def test_one_that_ends_is_asked_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with dying_side_thread(serve_echo, memory_bytes=SLOT_BYTES, after=2) as process:
        async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="it is echoed") as calls:
            assert calls is not None
            assert [await calls.ask(b"x") for _ in range(3)] == [b"X", b"X", None]
            assert calls.take(1) is None
            assert calls.answered == 2
    assert "this one does its work itself" in caplog.text


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_one_that_ended_while_nothing_was_asked_is_asked_no_more(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def ask(process: SideProcess, ended: threading.Thread) -> None:
        async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="it is echoed") as calls:
            assert calls is not None
            assert await calls.ask(b"x") == b"X"
            await asyncio.to_thread(ended.join)
            for _ in range(3):
                assert await calls.ask(b"x") is None
            assert not calls.usable

    def serve(sock: socket.socket, memory: mmap.mmap) -> None:
        request = sock.recv(REQUEST.size + 1)
        sock.sendall(ANSWER.pack(1, True) + request[-1:].upper())

    with side_thread(serve, memory_bytes=SLOT_BYTES) as process, asyncio.Runner(loop_factory=loop) as runner:
        (ended,) = [thread for thread in threading.enumerate() if thread.name == "side"]
        runner.run(ask(process, ended))


async def test_a_part_that_is_still_viewed_is_not_given_to_the_next_user() -> None:
    with side_thread(serve_echo, memory_bytes=2 * SLOT_BYTES) as process:
        async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="it is echoed") as calls:
            assert calls is not None
            kept = calls.take(1)
            assert kept is not None
        async with open_side_calls(process, slot_bytes=SLOT_BYTES, what="it is echoed") as calls:
            assert calls is not None
            other = calls.take(1)
            assert other is not None
            assert other.offset != kept.offset
            assert calls.take(1) is None


def test_the_side_that_is_asked_ends_in_mid_request() -> None:
    with side_thread(serve_echo, memory_bytes=SLOT_BYTES) as process:
        process.socket.sendall(REQUEST.pack(10) + b"half")


def test_frames_are_a_length_and_what_follows() -> None:
    with side_thread(serve_echo, memory_bytes=SLOT_BYTES) as process:
        process.socket.sendall(REQUEST.pack(2) + b"hi")
        assert ANSWER.unpack(process.socket.recv(ANSWER.size)) == (2, True)
        assert process.socket.recv(2) == b"HI"
