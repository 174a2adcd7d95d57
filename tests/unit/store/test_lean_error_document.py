"""Error documents: read as far as they go, and no further."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.store.lean.error_document import error_fields

BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><Error><Code>&b;</Code></Error>'


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (
            b"<Error><Code>SlowDown</Code><Message>a &lt; b</Message></Error>",
            {"Code": "SlowDown", "Message": "a < b"},
        ),
        (
            b'<?xml version="1.0"?>\n<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>X</Code>'
            b"<Region>eu-west-1</Region><Detail><Code>inner</Code></Detail></Error>",
            {"Code": "X", "Region": "eu-west-1"},
        ),
        (b"<ErrorResponse><Error><Code>X</Code></Error><Id>r</Id></ErrorResponse>", {"Code": "X"}),
        (b"<s3:Error xmlns:s3='u'><s3:Code>X</s3:Code></s3:Error>", {"Code": "X"}),
        (b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>", {}),
        (b"<html>bad gateway</html>", {}),
        (b"<Error/>", {}),
        (b"<Error><Code>cut off", None),
        (b"no XML", None),
        (b"", None),
        (BOMB, None),
        (b"<a>" * 10_000, None),
    ],
)
def test_documents(body: bytes, fields: dict[str, str] | None) -> None:
    assert error_fields(body) == fields


@given(st.binary(max_size=100))
def test_anything_may_come(body: bytes) -> None:
    assert error_fields(body) is None or b"<" in body
