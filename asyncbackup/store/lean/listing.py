"""The XML of a ListObjectsV2 answer."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import unquote_plus

from asyncbackup.store.lean.untrusted_xml import RefusedXmlError, XmlReader, parse
from asyncbackup.store.s3_transport import ListedObject, ListingPage, time_ns

_ROOT = "ListBucketResult"
_OF_PAGE = frozenset({"EncodingType", "IsTruncated", "MaxKeys", "Name", "NextContinuationToken"})
_OF_OBJECT = frozenset({"Key", "LastModified", "Size"})
_NAMESPACE_SEPARATOR = " "
_SAYS_IT_IS_ONE = frozenset({"IsTruncated", "MaxKeys", "Name"})
"""At least one of these stands in every listing."""


def listing_page(body: bytes) -> ListingPage | None:
    """The page that a document describes, ``None`` for anything that is no listing.

    That is also XML that is not well formed or declares a document type (no entity is expanded),
    and an object without a key, or with a size or time that is none.
    """
    reader = _Reader(_NAMESPACE_SEPARATOR)
    try:
        parse(body, reader, namespace_separator=_NAMESPACE_SEPARATOR)
        return reader.page()
    except (RefusedXmlError, ValueError):
        return None


class _Reader(XmlReader):
    def __init__(self, separator: str) -> None:
        super().__init__(separator)
        self._about: dict[str, str] = {}
        self._object: dict[str, str] = {}
        self._objects: list[dict[str, str]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        super().start(name, attributes)
        if self.path[0] != _ROOT:
            raise RefusedXmlError
        if self.path[1:] == ["Contents"]:
            self._object = {}
            self._objects.append(self._object)

    def text(self, text: str) -> None:
        path = self.path
        if len(path) == 3 and path[1] == "Contents" and path[2] in _OF_OBJECT:
            self._object[path[2]] = self._object.get(path[2], "") + text
        elif len(path) == 2 and path[1] in _OF_PAGE:
            self._about[path[1]] = self._about.get(path[1], "") + text

    def page(self) -> ListingPage:
        about = self._about
        if not _SAYS_IT_IS_ONE.intersection(about):
            raise RefusedXmlError
        encoded = about.get("EncodingType", "").lower() == "url"
        return ListingPage(
            [_listed(item, encoded=encoded) for item in self._objects],
            about.get("IsTruncated", "").strip().lower() == "true",
            about.get("NextContinuationToken", ""),
        )


def _listed(item: dict[str, str], *, encoded: bool) -> ListedObject:
    """Raises ``ValueError`` for a size or time that makes no sense, ``RefusedXmlError`` without a key."""
    key, modified = item.get("Key", ""), item.get("LastModified", "").strip()
    if not key:
        raise RefusedXmlError
    return ListedObject(
        unquote_plus(key) if encoded else key,
        int(item.get("Size", "0")),
        time_ns(datetime.fromisoformat(modified)) if modified else 0,
    )
