"""The XML of a ListObjectsV2 answer, read without trust."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import unquote_plus
from xml.parsers import expat

from asyncbackup.store.s3_transport import ListedObject, ListingPage, time_ns

_ROOT = "ListBucketResult"
_OF_PAGE = frozenset({"EncodingType", "IsTruncated", "MaxKeys", "Name", "NextContinuationToken"})
_OF_OBJECT = frozenset({"Key", "LastModified", "Size"})
_DEPTH_LIMIT = 16
_SAYS_IT_IS_ONE = frozenset({"IsTruncated", "MaxKeys", "Name"})
"""At least one of these stands in every listing."""


def listing_page(body: bytes) -> ListingPage | None:
    """The page that a document describes, ``None`` for anything that is no listing.

    That is also XML that is not well formed or declares a document type (no entity is expanded),
    and an object without a key, or with a size or time that is none.
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        parser.Parse(body, True)
        return reader.page()
    except (expat.ExpatError, ValueError, _Refused):
        return None


class _Refused(Exception):  # noqa: N818 - ends the parsing from inside a handler
    pass


class _Reader:
    def __init__(self) -> None:
        self._path: list[str] = []
        self._about: dict[str, str] = {}
        self._object: dict[str, str] = {}
        self._objects: list[dict[str, str]] = []

    def start(self, name: str, _: dict[str, str]) -> None:
        self._path.append(name.rpartition(" ")[2])
        if len(self._path) > _DEPTH_LIMIT or self._path[0] != _ROOT:
            raise _Refused
        if self._path[1:] == ["Contents"]:
            self._object = {}
            self._objects.append(self._object)

    def end(self, _: str) -> None:
        self._path.pop()

    def text(self, text: str) -> None:
        path = self._path
        if len(path) == 3 and path[1] == "Contents" and path[2] in _OF_OBJECT:
            self._object[path[2]] = self._object.get(path[2], "") + text
        elif len(path) == 2 and path[1] in _OF_PAGE:
            self._about[path[1]] = self._about.get(path[1], "") + text

    def refuse(self, *_: object) -> None:
        raise _Refused

    def page(self) -> ListingPage:
        about = self._about
        if not _SAYS_IT_IS_ONE.intersection(about):
            raise _Refused
        encoded = about.get("EncodingType", "").lower() == "url"
        return ListingPage(
            [_listed(item, encoded=encoded) for item in self._objects],
            about.get("IsTruncated", "").strip().lower() == "true",
            about.get("NextContinuationToken", ""),
        )


def _listed(item: dict[str, str], *, encoded: bool) -> ListedObject:
    """Raises ``ValueError`` for a size or time that makes no sense, ``_Refused`` without a key."""
    key, modified = item.get("Key", ""), item.get("LastModified", "").strip()
    if not key:
        raise _Refused
    return ListedObject(
        unquote_plus(key) if encoded else key,
        int(item.get("Size", "0")),
        time_ns(datetime.fromisoformat(modified)) if modified else 0,
    )
