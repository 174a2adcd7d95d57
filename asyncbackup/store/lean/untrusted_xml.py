"""XML of an endpoint, read without trust: no document type, so no entity, and no great depth."""

from __future__ import annotations

from xml.parsers import expat

_DEPTH_LIMIT = 16


class RefusedXmlError(Exception):
    """The document is not taken for what it should be; ends the parsing from inside a handler."""


class XmlReader:
    """Follows a document. ``path`` are the names of the open elements, without what stands before their
    last ``separator``."""

    def __init__(self, separator: str) -> None:
        self.path: list[str] = []
        self._separator = separator

    def start(self, name: str, _: dict[str, str]) -> None:
        self.path.append(name.rpartition(self._separator)[2])
        if len(self.path) > _DEPTH_LIMIT:
            raise RefusedXmlError

    def end(self, _: str) -> None:
        self.path.pop()

    def text(self, text: str) -> None:
        """Take a text of the innermost open element."""
        raise NotImplementedError


def parse(body: bytes, reader: XmlReader, *, namespace_separator: str | None = None) -> None:
    """Have ``reader`` follow a whole document.

    Names of elements hold their namespace before a ``namespace_separator``, if there is one. Raises
    ``RefusedXmlError`` for what is not well formed too.
    """
    parser = expat.ParserCreate(namespace_separator=namespace_separator)
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise RefusedXmlError(str(error)) from error


def _refuse(*_: object) -> None:
    raise RefusedXmlError("a document type")
