"""The XML in which S3 says what went wrong, read without trust."""

from __future__ import annotations

from xml.parsers import expat

_FIELDS = ("Code", "Message", "Region")
_DEPTH_LIMIT = 16


def error_fields(body: bytes) -> dict[str, str] | None:
    """``Code``, ``Message`` and ``Region`` of an error document, as far as it has them.

    ``None`` for anything that is not well-formed XML, and for XML that declares a document type:
    no entity is expanded. XML of another kind gives an empty dictionary.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _Refused):
        return None
    return reader.fields


class _Refused(Exception):  # noqa: N818 - ends the parsing from inside a handler
    pass


class _Reader:
    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self._path: list[str] = []

    def start(self, name: str, _: dict[str, str]) -> None:
        self._path.append(name.rpartition(":")[2])
        if len(self._path) > _DEPTH_LIMIT:
            raise _Refused

    def end(self, _: str) -> None:
        self._path.pop()

    def text(self, text: str) -> None:
        # <Error>, or what other services wrap it in: <ErrorResponse><Error>.
        if len(self._path) >= 2 and self._path[-2] == "Error" and self._path[-1] in _FIELDS:
            self.fields[self._path[-1]] = self.fields.get(self._path[-1], "") + text

    def refuse(self, *_: object) -> None:
        raise _Refused
