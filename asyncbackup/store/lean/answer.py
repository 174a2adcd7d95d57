"""HTTP/1.1 answers out of bytes: strict, incremental, bounded.

Nothing is guessed. A head that could be read in two ways (two lengths, a length beside chunks,
folded lines, line ends other than CRLF, control characters) is refused: it is by such heads that
two parties come to disagree about where an answer ends. Whoever refuses one closes the connection.
"""

from __future__ import annotations

import re

from asyncbackup.store.lean.errors import MalformedAnswerError

HEAD_LIMIT = 64 * 1024
"""Bytes of a status line and its headers, and of all interim answers before them together."""
_CHUNK_LINE_LIMIT = 1024
_TRAILER_LIMIT = 8 * 1024

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?", re.ASCII)
_HEADER_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)", re.ASCII)
_ANY_HEADER = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*"
_HEADER_LINES = re.compile(rf"(?:{_ANY_HEADER}(?:\r\n{_ANY_HEADER})*)?", re.ASCII)
"""Any number of header lines: one look at all of them instead of one at each."""
_ONCE = frozenset({"content-length", "transfer-encoding", "content-range"})
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_BODILESS = frozenset({204, 304})


class AnswerParser:
    """One answer. :meth:`feed` it what arrives and, when nothing more will, tell it :meth:`end`.

    Any split of the same bytes gives the same head, the same body and the same verdict. At most
    ``HEAD_LIMIT`` bytes are kept, beside those of the body that :meth:`feed` returns at once.
    """

    __slots__ = (
        "_bodiless",
        "_buffer",
        "_chunked",
        "_in_body",
        "_interim_bytes",
        "_left",
        "_seen",
        "_state",
        "continued",
        "done",
        "headers",
        "keep_alive",
        "length",
        "status",
    )

    def __init__(self, *, bodiless: bool = False) -> None:
        """``bodiless`` is the answer to a HEAD: its length is that of a body which does not come."""
        self.status = 0
        """0 until the head is complete; interim answers (1xx) do not count."""
        self.headers: dict[str, str] = {}
        """Names in lower case. Of a header that came twice the last one."""
        self.length = -1
        """Bytes that the body announces; -1 where it does not."""
        self.continued = False
        """A "100 Continue" has come."""
        self.done = False
        """The answer is complete."""
        self.keep_alive = True
        """Whether another request may follow on the connection, once the answer is done."""
        self._bodiless = bodiless
        self._buffer = bytearray()
        self._interim_bytes = 0
        self._seen = 0
        self._in_body = False
        self._chunked = False
        self._left = 0
        self._state = _SIZE

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; the bytes of the body in it. Raises ``MalformedAnswerError``."""
        if self._in_body and not self._chunked:
            return self._plain(data)
        if self._buffer:
            self._buffer += data
            data = bytes(self._buffer)
            self._buffer.clear()
        while not self._in_body:
            end = data.find(b"\r\n\r\n", self._seen)
            if max(end, len(data) - 3 if end < 0 else end) > HEAD_LIMIT - self._interim_bytes:
                raise MalformedAnswerError(f"its head has more than {HEAD_LIMIT} bytes")
            if end < 0:
                if not data.startswith(b"HTTP/1."[: len(data)]):
                    raise MalformedAnswerError(f"it begins with {data[:60]!r}")
                # Keep what is there, and do not search it again.
                self._seen = max(0, len(data) - 3)
                self._buffer += data
                return b""
            self._seen = 0
            self._head(data[:end])
            data = data[end + 4 :]
            if self.done:
                self._excess(data)
                return b""
        return self._chunks(data) if self._chunked else self._plain(data)

    def end(self) -> bool:
        """Nothing more will come. Whether that completes the answer, as it does one without a length."""
        if self._in_body and not self._chunked and self.length < 0:
            self.done = True
        return self.done

    @property
    def plain_left(self) -> int:
        """Bytes of the body that are still to come, nothing between them; 0 where that is not known."""
        return 0 if self._chunked else self._left

    def passed_by(self, count: int) -> None:
        """So many bytes of the body, fewer than :attr:`plain_left`, were received without :meth:`feed`."""
        if not 0 <= count < self.plain_left:
            raise ValueError(f"{count} bytes passed by, of {self.plain_left} that are left")
        self._left -= count

    def _head(self, head: bytes) -> None:
        try:
            first, _, rest = head.decode("utf-8").partition("\r\n")
        except UnicodeDecodeError as error:
            raise MalformedAnswerError("its headers are not UTF-8") from error
        status_line = _STATUS_LINE.fullmatch(first)
        if status_line is None:
            raise MalformedAnswerError(f"it begins with {first[:60]!r}")
        status = int(status_line[2])
        headers: dict[str, str] = {}
        if not _HEADER_LINES.fullmatch(rest):
            bad = next(line for line in rest.split("\r\n") if not _HEADER_LINE.fullmatch(line))
            raise MalformedAnswerError(f"{bad[:60]!r} is no header")
        for line in rest.split("\r\n") if rest else ():
            name, _, value = line.partition(":")
            name = name.lower()
            if name in headers and name in _ONCE:
                raise MalformedAnswerError(f"it has two {name} headers")
            headers[name] = value.strip(" \t")
        if status < 200:
            self._interim(status, len(head) + 4)
            return
        self.status, self.headers = status, headers
        if status_line[1] == "0":
            self.keep_alive = False
        if "connection" in headers and "close" in headers["connection"].lower():
            self.keep_alive = False
        self._frame(status, headers)

    def _interim(self, status: int, size: int) -> None:
        if status == 101:
            raise MalformedAnswerError("it switches to a protocol that nobody asked for")
        self.continued = self.continued or status == 100
        self._interim_bytes += size

    def _frame(self, status: int, headers: dict[str, str]) -> None:
        """How the body's end is found."""
        encoding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if encoding is not None:
            if length is not None:
                raise MalformedAnswerError("it has a length and chunks")
            if encoding.lower() != "chunked":
                raise MalformedAnswerError(f"its transfer encoding is {encoding[:60]!r}")
        if length is not None and not _LENGTH.fullmatch(length):
            raise MalformedAnswerError(f"its length is {length[:60]!r}")
        self._in_body = True
        if self._bodiless:
            self.length = int(length) if length is not None else -1
            self.done = True
        elif status in _BODILESS:
            self.length, self.done = 0, True
        elif encoding is not None:
            self._chunked = True
        elif length is not None:
            self.length = self._left = int(length)
            self.done = self.length == 0
        else:
            self.keep_alive = False

    def _plain(self, data: bytes) -> bytes:
        if self.length < 0:
            return data
        if self.done:
            self._excess(data)
            return b""
        if len(data) > self._left:
            self.keep_alive = False
            data = data[: self._left]
        self._left -= len(data)
        self.done = not self._left
        return data

    def _excess(self, data: bytes) -> None:
        if data:
            self.keep_alive = False  # Bytes that belong to no request.

    def _chunks(self, data: bytes) -> bytes:
        """Decode chunks; ``_left`` counts the bytes of the chunk, or of the trailers, that may come."""
        body: list[bytes] = []
        at = 0
        while not self.done:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                if not piece:
                    return b"".join(body)
                body.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                continue
            end = data.find(b"\r\n", at)
            limit = self._left if self._state == _TRAILERS else _CHUNK_LINE_LIMIT
            if (end if end >= 0 else len(data) - data.endswith(b"\r", at)) - at > limit:
                raise MalformedAnswerError("the line of a chunk is too long")
            if end < 0:
                self._buffer += data[at:]
                return b"".join(body)
            self._line(data[at:end])
            at = end + 2
        self._excess(data[at:])
        return b"".join(body)

    def _line(self, line: bytes) -> None:
        if self._state == _DATA_END:
            if line:
                raise MalformedAnswerError("a chunk is longer than it says")
            self._state = _SIZE
        elif self._state == _SIZE:
            size = _CHUNK_LINE.fullmatch(line)
            if size is None:
                raise MalformedAnswerError(f"{line[:60]!r} is no length of a chunk")
            self._left = int(size[1], 16)
            self._state = _DATA
            if not self._left:
                self._state, self._left = _TRAILERS, _TRAILER_LIMIT
        elif not line:
            self.done = True
        else:
            # Looked at only for being some: no trailer changes what an answer says.
            if _HEADER_LINE.fullmatch(line.decode("latin-1")) is None:
                raise MalformedAnswerError(f"{line[:60]!r} is no trailer")
            self._left -= len(line) + 2


_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)
"""What comes next of a chunked body: the line of a chunk, its bytes, the line end after them, trailers."""
