"""Bodies on their way in: kept where they arrive, hashed as they come if asked for, taken out of chunks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import mmap
from collections.abc import Callable, Sequence

from benchmarks.server.message import Buffer, S3Error

_LINE_BYTES = 8192
"""The longest line between chunks: a size, a signature, or a trailer."""
_IN_PLACE_BYTES = 64 * 1024
"""From here on a body of known length is received into the memory that keeps it."""
_HUGE_BYTES = 4 * 1024 * 1024
"""From here on that memory is asked for in large pages: small ones cost more than receiving into them."""
_SHA256_BYTES = 32
_numbers = itertools.count(1)


class Content:
    """What a body holds.

    ``checked``: its MD5 is the ETag, and it is hashed to be compared with what came along, as it
    grows, so that no large one is hashed in one go. Otherwise nobody looks at it, ETags are
    numbers, and a SHA-256 that came along is taken for its word.
    """

    __slots__ = ("_filled", "_pieces", "_whole", "checked", "md5", "sha256", "size", "trailers")

    def __init__(self, *, checked: bool, with_sha256: bool) -> None:
        self.checked = checked
        self._pieces: list[bytes] = []
        self._whole: memoryview | None = None
        self._filled = 0
        self.md5 = hashlib.md5(usedforsecurity=False) if checked else None
        self.sha256 = hashlib.sha256() if checked and with_sha256 else None
        self.size = 0
        self.trailers: dict[str, str] = {}

    def expect(self, size: int) -> None:
        """Have memory for a body of ``size`` bytes, if it is large enough for that to pay."""
        if size >= _HUGE_BYTES:
            memory = mmap.mmap(-1, size)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                memory.madvise(mmap.MADV_HUGEPAGE)
            self._whole = memoryview(memory)
        elif size >= _IN_PLACE_BYTES:
            self._whole = memoryview(bytearray(size))

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes can be received; ``None`` where they are to be given to :meth:`add`."""
        return None if self._whole is None else self._whole[self._filled :]

    def received(self, count: int) -> None:
        """``count`` bytes were put where :attr:`room` begins."""
        assert self._whole is not None
        begin, self._filled = self._filled, self._filled + count
        self._count(self._whole[begin : self._filled])

    def add(self, piece: bytes) -> None:
        if self._whole is None:
            self._pieces.append(piece)
            self._count(piece)
        else:
            self._whole[self._filled : self._filled + len(piece)] = piece
            self.received(len(piece))

    def take(self) -> Buffer:
        """All of it; what was collected is given away."""
        if self._whole is not None:
            return self._whole
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return whole

    def text(self) -> str:
        """All of it, as text. Raises ``S3Error``."""
        try:
            return bytes(self.take()).decode()
        except UnicodeDecodeError:
            raise S3Error(400, "MalformedXML", "not UTF-8") from None

    def etag(self) -> str:
        """An ETag for this body."""
        return self.md5.hexdigest() if self.md5 is not None else new_etag()

    def etag_of(self, pieces: Sequence[Buffer]) -> str:
        """An ETag for another content, as this one would get it."""
        if not self.checked:
            return new_etag()
        md5 = hashlib.md5(usedforsecurity=False)
        for piece in pieces:
            md5.update(piece)
        return md5.hexdigest()

    def digest(self, told: str) -> bytes:
        """Its SHA-256, which came along as ``told`` in base64. Raises ``S3Error`` for what is none."""
        if self.sha256 is not None:
            return self.sha256.digest()
        try:
            digest = base64.b64decode(told, validate=True)
        except (binascii.Error, ValueError):
            digest = b""
        if len(digest) != _SHA256_BYTES:
            raise S3Error(400, "InvalidRequest", "Value for x-amz-checksum-sha256 header is invalid.")
        return digest

    def _count(self, piece: Buffer) -> None:
        self.size += len(piece)
        if self.md5 is not None:
            self.md5.update(piece)
            if self.sha256 is not None:
                self.sha256.update(piece)


def new_etag(parts: int = 1) -> str:
    """One that nobody takes for an MD5: it has the form of a multipart object's."""
    return f"{next(_numbers):032x}-{parts}"


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
