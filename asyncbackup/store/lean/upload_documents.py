"""The XML of multipart uploads: what completes one, and what is answered."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from asyncbackup.store.lean.untrusted_xml import RefusedXmlError, XmlReader, parse

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from asyncbackup.store.base import PartReceipt

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_NAMESPACE_SEPARATOR = " "


def complete_document(parts: Sequence[PartReceipt], *, with_checksums: bool) -> bytes:
    """The body of a CompleteMultipartUpload of these parts, in their order."""
    pieces = [f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">']
    for part in parts:
        pieces.append(f"<Part><PartNumber>{part.number}</PartNumber><ETag>{_escaped(part.etag)}</ETag>")
        if with_checksums:
            pieces.append(f"<ChecksumSHA256>{base64.b64encode(part.sha256).decode()}</ChecksumSHA256>")
        pieces.append("</Part>")
    pieces.append("</CompleteMultipartUpload>")
    return "".join(pieces).encode()


def fields_of(body: bytes, names: Collection[str]) -> dict[str, str]:
    """The texts of those children of a document's root that have one of ``names``.

    What the root is called does not matter: some servers have a name of their own there.
    Empty for XML that is not well formed and for one that declares a document type: no entity is
    expanded.
    """
    reader = _Reader(names)
    try:
        parse(body, reader, namespace_separator=_NAMESPACE_SEPARATOR)
    except RefusedXmlError:
        return {}
    return reader.fields


def _escaped(text: str) -> str:
    # An ETag is the endpoint's word, with its quotes.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _Reader(XmlReader):
    def __init__(self, names: Collection[str]) -> None:
        super().__init__(_NAMESPACE_SEPARATOR)
        self.fields: dict[str, str] = {}
        self._names = names

    def text(self, text: str) -> None:
        if len(self.path) == 2 and self.path[1] in self._names:
            self.fields[self.path[1]] = self.fields.get(self.path[1], "") + text
