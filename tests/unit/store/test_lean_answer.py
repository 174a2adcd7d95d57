"""HTTP answers: any split of the bytes gives the same answer, and what is ambiguous is refused."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.store.lean.answer import HEAD_LIMIT, AnswerParser
from asyncbackup.store.lean.errors import MalformedAnswerError

OK = b"HTTP/1.1 200 OK\r\n"


class Read(NamedTuple):
    """All that a parser tells; ``malformed`` alone where it refused."""

    malformed: bool
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    length: int = -1
    body: bytes = b""
    continued: bool = False
    done: bool = False
    keep_alive: bool = False


def read(pieces: list[bytes], *, end: bool = False) -> Read:
    parser = AnswerParser()
    body = b""
    try:
        for piece in pieces:
            body += parser.feed(piece)
    except MalformedAnswerError:
        return Read(malformed=True)
    if end:
        parser.end()
    headers = tuple(sorted(parser.headers.items()))
    return Read(
        False,
        parser.status,
        headers,
        parser.length,
        body,
        parser.continued,
        parser.done,
        # Whether more came than there should have been shows at the end alone.
        parser.done and parser.keep_alive,
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


TOKENS = st.text("abcdefgXYZ-_09", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer as servers give it: interim ones before it, a length, chunks, or neither."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * draw(st.integers(0, 2))
    headers = draw(st.lists(st.tuples(TOKENS.map(lambda name: "x-" + name), VALUES), max_size=4))
    body = draw(st.binary(max_size=200))
    lines = [f"{name}: {value}" for name, value in headers]
    if draw(st.booleans()):
        lines.append("Connection: close")
    match draw(st.sampled_from(["length", "chunks", "neither"])):
        case "length":
            lines.append(f"Content-Length: {len(body)}")
        case "chunks":
            lines.append("Transfer-Encoding: chunked")
            places = draw(st.lists(st.integers(0, 1000), max_size=5))
            extension = draw(st.sampled_from([b"", b";name=value"]))
            chunks = [chunk for chunk in cut(body, places) if chunk]
            trailer = draw(st.sampled_from([b"", b"x-trailer: 1\r\n"]))
            body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
            body += b"0\r\n" + trailer + b"\r\n"
    status = draw(st.sampled_from(["200 OK", "206 Partial Content", "403", "503 Slow Down"]))
    head = "\r\n".join([f"HTTP/1.1 {status}", *lines]).encode()
    return interim + head + b"\r\n\r\n" + body


@given(answers(), st.lists(st.integers(0, 10_000), max_size=8))
def test_splits_do_not_matter(data: bytes, places: list[int]) -> None:
    whole = read([data], end=True)
    assert not whole.malformed
    assert whole.done
    assert read(cut(data, places), end=True) == whole
    assert read([bytes([byte]) for byte in data], end=True) == whole


@given(answers(), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3), st.data())
def test_splits_do_not_matter_in_damaged_answers(
    data: bytes, damage: list[tuple[int, int]], more: st.DataObject
) -> None:
    changed = bytearray(data)
    for place, byte in damage:
        changed[place % len(changed)] = byte
    damaged = bytes(changed) + more.draw(st.sampled_from([b"", b"excess", b"HTTP/1.1 200 OK\r\n\r\n"]))
    places = more.draw(st.lists(st.integers(0, 10_000), max_size=8))
    assert read(cut(damaged, places)) == read([damaged])


@given(st.binary(max_size=300), st.lists(st.integers(0, 1000), max_size=4))
def test_garbage_is_refused_or_waited_for(data: bytes, places: list[int]) -> None:
    told = read(cut(data, places))
    assert told.malformed or not told.done


@pytest.mark.parametrize(
    ("data", "body", "keeps"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
        (OK + b"content-length:5\r\nConnection: keep-alive\r\n\r\nhello", b"hello", True),
        (OK + b"Content-Length: 5\r\nConnection: Close\r\n\r\nhello", b"hello", False),
        (OK + b"Content-Length: 5\r\n\r\nhello, and more", b"hello", False),
        (OK + b"Content-Length: 0\r\n\r\n", b"", True),
        (OK + b"Content-Length: 0\r\n\r\nx", b"", False),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
            b"abc0123456789",
            True,
        ),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n", b"abc", True),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET", b"", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi",
            b"hi",
            True,
        ),
    ],
)
def test_where_answers_end(data: bytes, body: bytes, keeps: bool) -> None:
    told = read([data])
    assert told.done
    assert told.body == body
    assert told.keep_alive == keeps


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    data = OK + b"ETag: x\r\n\r\nsome bytes"
    assert not read([data]).done
    told = read([data], end=True)
    assert (told.done, told.body, told.keep_alive) == (True, b"some bytes", False)


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 5\r\n\r\nhell",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        OK + b"Content-Length: 5\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"",
    ],
)
def test_an_end_in_the_middle_is_none(data: bytes) -> None:
    assert not read([data], end=True).done


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: +5\r\n\r\nhello",
        OK + b"Content-Length: 5, 5\r\n\r\nhello",
        OK + b"Content-Length: 0x5\r\n\r\nhello",
        OK + b"Content-Length: -1\r\n\r\nhello",
        OK + b"Content-Length: \r\n\r\n",
        OK + "Content-Length: ٥\r\n\r\nhello".encode(),
        OK + b"Content-Length : 5\r\n\r\nhello",
        OK + b" Content-Length: 5\r\n\r\nhello",
        OK + b"X-Folded: a\r\n b\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b": no name\r\n\r\n",
        OK + b"X-Bare: a\nb\r\n\r\n",
        OK + b"X-Return: a\rb\r\n\r\n",
        OK + b"X-Nul: a\0b\r\n\r\n",
        OK + b"X-Latin: \xff\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n 1\r\na\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\nab\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1000000000000000\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 2000 + b"\r\na\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 2000 + b"\r\n",
        OK + b"X-Long: " + b"x" * HEAD_LIMIT + b"\r\n\r\n",
        OK + b"X: y\r\n" * (HEAD_LIMIT // 6) + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * (HEAD_LIMIT // 25 + 1) + OK + b"\r\n",
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused(data: bytes) -> None:
    assert read([data]).malformed
    assert read([data[:20], data[20:]]).malformed


def test_a_head_may_be_large() -> None:
    filler = b"x-filler: " + b"y" * 60_000 + b"\r\n"
    told = read(cut(OK + filler + b"Content-Length: 2\r\n\r\nhi", [100, 40_000, 60_030]))
    assert told.body == b"hi"


@pytest.mark.parametrize(
    "flood",
    [b"x" * 1000, b"X: " + b"y" * 997, b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["one line", "headers", "interim answers"],
)
def test_endless_heads_are_refused_in_bounded_memory(flood: bytes) -> None:
    parser = AnswerParser()
    parser.feed(OK if not flood.startswith(b"HTTP") else flood)

    def keep_feeding() -> None:
        for _ in range(10_000):
            parser.feed(flood)

    tracemalloc.start()
    try:
        with pytest.raises(MalformedAnswerError):
            keep_feeding()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * HEAD_LIMIT


def test_a_line_of_spaces_is_looked_at_once() -> None:
    # With each of its spaces taken for the end of those before the value, this takes an hour.
    for _ in range(100):
        assert read([OK + b"a:" + b" " * 60_000 + b"\0\r\n\r\n"]).malformed
