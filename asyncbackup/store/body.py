"""Bodies on their way out: several buffers as one stream, sent without joining them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncbackup.store.base import Body, Buffer

PIECE_BYTES = 256 * 1024
"""What one write hands to the socket. A large write is copied by the transport once per partial send."""


def buffers_of(body: Body) -> tuple[Buffer, ...]:
    """The buffers of a body, empty ones left out."""
    if isinstance(body, bytes | bytearray | memoryview):
        return (body,) if len(body) else ()
    return tuple(buffer for buffer in body if len(buffer))


def body_size(body: Body) -> int:
    """The body's length in bytes."""
    if type(body) is memoryview:
        return body.nbytes  # as nearly every small one is
    if type(body) is bytes:
        return len(body)
    return sum(memoryview(buffer).nbytes for buffer in buffers_of(body))


def pieces_of(body: Body, piece_bytes: int = PIECE_BYTES) -> Iterator[memoryview]:
    """Views of the body, in order, each at most ``piece_bytes`` long. Copies nothing."""
    for buffer in buffers_of(body):
        view = memoryview(buffer).cast("B")
        for start in range(0, len(view), piece_bytes):
            yield view[start : start + piece_bytes]


class BodyStream:
    """A body in the shape that botocore accepts and aiohttp streams; can be sent any number of times.

    botocore asks for ``len()`` (the Content-Length) and, if it redirects, for ``seek(0)``;
    aiohttp iterates. Because it is an asynchronous iterable, aiohttp does not silently send it
    again after a connection reset, as it does with ``bytes``. ``progress`` is called whenever
    the socket has taken a piece. ``sha256`` is the digest that the request's signature covers.
    """

    __slots__ = ("_body", "_progress", "_size", "sha256")

    def __init__(self, body: Body, *, sha256: bytes, progress: Callable[[], None]) -> None:
        self._body = body
        self._size = body_size(body)
        self._progress = progress
        self.sha256 = sha256

    def __len__(self) -> int:
        return self._size

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for piece in pieces_of(self._body):
            yield piece
            self._progress()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Every iteration starts at the beginning, so going back to it needs nothing."""
        if offset or whence:
            raise ValueError(f"a body can only be rewound, not moved to {offset} (whence {whence})")
        return 0

    def read(self, size: int = -1) -> bytes:
        """The whole body joined. botocore checks that this exists; nothing on the way calls it."""
        if size >= 0:
            raise ValueError("a body is read whole or iterated")
        return b"".join(buffers_of(self._body))
