"""The XML in which S3 says what went wrong."""

from __future__ import annotations

from asyncbackup.store.lean.untrusted_xml import RefusedXmlError, XmlReader, parse

_FIELDS = ("Code", "Message", "Region")


def error_fields(body: bytes) -> dict[str, str] | None:
    """``Code``, ``Message`` and ``Region`` of an error document, as far as it has them.

    ``None`` for anything that is not well-formed XML, and for XML that declares a document type:
    no entity is expanded. XML of another kind gives an empty dictionary.
    """
    reader = _Reader(":")
    try:
        parse(body, reader)
    except RefusedXmlError:
        return None
    return reader.fields


class _Reader(XmlReader):
    def __init__(self, separator: str) -> None:
        super().__init__(separator)
        self.fields: dict[str, str] = {}

    def text(self, text: str) -> None:
        # <Error>, or what other services wrap it in: <ErrorResponse><Error>.
        path = self.path
        if len(path) >= 2 and path[-2] == "Error" and path[-1] in _FIELDS:
            self.fields[path[-1]] = self.fields.get(path[-1], "") + text
