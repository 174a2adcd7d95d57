"""The documents of multipart uploads: sent, they say what was meant; answers are read as far as they go."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.store.base import PartReceipt
from asyncbackup.store.lean.upload_documents import complete_document, fields_of

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><R><ETag>&a;</ETag></R>'


@given(
    etags=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=0xD7FF)), max_size=4),
    with_checksums=st.booleans(),
)
def test_what_completes_an_upload(etags: list[str], with_checksums: bool) -> None:
    parts = [
        PartReceipt(number=number, size=5, etag=etag, sha256=bytes([number] * 32))
        for number, etag in enumerate(etags, 1)
    ]
    root = ElementTree.fromstring(complete_document(parts, with_checksums=with_checksums))  # noqa: S314 - ours
    assert root.tag == NAMESPACE + "CompleteMultipartUpload"
    told = [{child.tag.removeprefix(NAMESPACE): child.text or "" for child in part} for part in root]
    checksums = [
        {"ChecksumSHA256": base64.b64encode(part.sha256).decode()} if with_checksums else {} for part in parts
    ]
    assert told == [
        {"PartNumber": str(part.number), "ETag": part.etag, **checksum}
        for part, checksum in zip(parts, checksums, strict=True)
    ]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"<R><ETag>&quot;1-2&quot;</ETag><Other>x</Other></R>", {"ETag": '"1-2"'}),
        (
            b'<?xml version="1.0"?>\n\n <R xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><ETag>a</ETag>'
            b"<ChecksumSHA256>b-2</ChecksumSHA256></R>",
            {"ETag": "a", "ChecksumSHA256": "b-2"},
        ),
        (b"<s:R xmlns:s='u'><s:ETag>a</s:ETag></s:R>", {"ETag": "a"}),
        (b"<R><In><ETag>a</ETag></In></R>", {}),
        (b"<ETag>a</ETag>", {}),
        (b"<R><ETag>cut off", {}),
        (b"", {}),
        (BOMB, {}),
    ],
)
def test_answers(body: bytes, fields: dict[str, str]) -> None:
    assert fields_of(body, ("ETag", "ChecksumSHA256")) == fields


@given(st.binary(max_size=200))
def test_nothing_makes_it_fail(body: bytes) -> None:
    fields_of(body, ("ETag",))
