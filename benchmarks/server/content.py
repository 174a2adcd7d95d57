"""Bodies on their way in: hashed as they come, and taken out of their chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from benchmarks.server.message import S3Error

_LINE_BYTES = 8192
"""The longest line between chunks: a size, a signature, or a trailer."""


class Content:
    """What a body holds. Hashes grow with it, so that no large one is hashed in one go."""

    __slots__ = ("_pieces", "md5", "sha256", "size", "trailers")

    def __init__(self, *, with_sha256: bool) -> None:
        self._pieces: list[bytes] = []
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha256 = hashlib.sha256() if with_sha256 else None
        self.size = 0
        self.trailers: dict[str, str] = {}

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size += len(piece)
        self.md5.update(piece)
        if self.sha256 is not None:
            self.sha256.update(piece)

    def take(self) -> bytes:
        """All of it; what was collected is given away."""
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return whole


class Chunks:
    """Takes the framing off: that of ``Transfer-Encoding: chunked``, and of aws-chunked, which is the same.

    Signatures of chunks are not looked at; trailers go to ``trailers``.
    """

    __slots__ = ("_left", "_line", "_sink", "_trailing", "ended", "trailers")

    def __init__(self, sink: Callable[[bytes], None], trailers: dict[str, str]) -> None:
        self._sink = sink
        self._line = b""
        self._left = 0
        """Bytes that are missing of the chunk; -2 behind it, where a line end follows."""
        self._trailing = False
        self.trailers = trailers
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """Take what came; returns what lies behind the end. Raises ``S3Error``."""
        while data and not self.ended:
            if self._left > 0:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                self._sink(piece)
                if not self._left:
                    self._left = -2
                continue
            end = data.find(b"\n")
            if end < 0:
                self._line += data
                if len(self._line) > _LINE_BYTES:
                    raise S3Error(400, "IncompleteBody", "a line between chunks has no end")
                return b""
            line = (self._line + data[:end]).strip()
            self._line, data = b"", data[end + 1 :]
            self._take_line(line)
        return data

    def _take_line(self, line: bytes) -> None:
        if self._left == -2:
            if line:
                raise S3Error(400, "IncompleteBody", "a chunk is longer than it said")
            self._left = 0
        elif self._trailing:
            if line:
                name, _, value = line.partition(b":")
                self.trailers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
            else:
                self.ended = True
        else:
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError:
                raise S3Error(400, "IncompleteBody", "a chunk without its size") from None
            self._trailing = not self._left
