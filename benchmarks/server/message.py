"""A request as it was understood, an answer before it is bytes, and S3's errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import unquote_to_bytes
from xml.sax.saxutils import escape

XML_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
XML_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
CHECKSUM = "x-amz-checksum-sha256"
_REASONS = {status.value: status.phrase for status in HTTPStatus}


Buffer: TypeAlias = bytes | memoryview
"""Bytes of a body. Views are of bytes, so their length is theirs."""


class S3Error(Exception):
    """An answer that is an error: HTTP status, S3's code, and words."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message or code


class Request:
    """Method, bucket, key, query and headers; header names are lower case, values ISO-8859-1."""

    __slots__ = ("bucket", "headers", "key", "method", "path", "query")

    def __init__(self, head: str) -> None:
        """Read a head without its closing empty line. Raises ``S3Error``."""
        lines = head.split("\r\n")
        try:
            self.method, target, version = lines[0].split(" ")
        except ValueError:
            raise S3Error(400, "BadRequest", "no request line") from None
        if not version.startswith("HTTP/1."):
            raise S3Error(505, "HTTPVersionNotSupported")
        self.headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self.path, _, query = target.partition("?")
        bucket, _, key = self.path[1:].partition("/")
        self.bucket = _unquoted(bucket)
        self.key = _unquoted(key)
        self.query: dict[str, str] = {}
        if query:
            for field in query.split("&"):
                name, _, value = field.partition("=")
                self.query[_unquoted(name)] = _unquoted(value.replace("+", " "))

    def number(self, name: str, default: int, *, most: int) -> int:
        """A whole number of the query, from 0 to ``most``; more is taken for ``most``, as S3 does."""
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isdecimal():
            raise S3Error(400, "InvalidArgument", f"{name} is not a number")
        return min(int(text), most)


class Response:
    """An answer. ``pieces`` are sent one after another and never copied together."""

    __slots__ = ("headers", "pieces", "size", "status")

    def __init__(
        self,
        status: int = 200,
        headers: str = "",
        pieces: tuple[Buffer, ...] = (),
        *,
        size: int = -1,
    ) -> None:
        """``headers`` are whole lines; ``size`` differs from that of the pieces in the answer to a HEAD."""
        self.status = status
        self.headers = headers
        self.pieces = pieces
        self.size = sum(map(len, pieces)) if size < 0 else size

    def head(self, *, close: bool) -> bytes:
        length = "" if self.status == 204 else f"Content-Length: {self.size}\r\n"
        last = "Connection: close\r\n" if close else ""
        status = f"HTTP/1.1 {self.status} {_REASONS.get(self.status, '')}\r\n"
        return f"{status}{length}{self.headers}{last}\r\n".encode("latin-1")


def xml_response(body: str, *, status: int = 200, headers: str = "") -> Response:
    return Response(status, f"Content-Type: application/xml\r\n{headers}", ((XML_HEAD + body).encode(),))


def error_response(error: S3Error, request: Request | None) -> Response:
    if request is not None and request.method == "HEAD":
        return Response(error.status)
    resource = escape(request.path) if request is not None else ""
    return xml_response(
        f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message>"
        f"<Resource>{resource}</Resource><RequestId>0</RequestId></Error>",
        status=error.status,
    )


def _unquoted(text: str) -> str:
    if "%" not in text and text.isascii():
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise S3Error(400, "InvalidURI", "not UTF-8") from None
