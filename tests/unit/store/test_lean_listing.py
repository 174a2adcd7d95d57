"""Listings out of XML: what S3 sends, what servers make of it, and what is refused."""

from __future__ import annotations

import pytest

from asyncbackup.store.lean.listing import listing_page
from asyncbackup.store.s3_transport import ListedObject

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def listing(inside: str, *, namespace: str = NAMESPACE) -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{head}<ListBucketResult {namespace}>{inside}</ListBucketResult>".encode()


def test_a_page() -> None:
    page = listing_page(
        listing(
            "<Name>bucket</Name><Prefix>p/</Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys>"
            "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
            "<NextContinuationToken>a+b=</NextContinuationToken>"
            "<Contents><Key>p/a%20b%2B</Key><LastModified>2026-11-27T05:00:00.250Z</LastModified>"
            "<ETag>&quot;e&quot;</ETag><Size>5</Size><Owner><ID>o</ID></Owner></Contents>"
            "<Contents><Key>p/c</Key><Size>0</Size></Contents>"
            "<CommonPrefixes><Prefix>p/d/</Prefix></CommonPrefixes>"
        )
    )
    assert page is not None
    assert page.objects == [
        ListedObject("p/a b+", 5, 1_795_755_600_250_000_000),
        ListedObject("p/c", 0, 0),
    ]
    assert (page.truncated, page.token) == (True, "a+b=")


def test_keys_that_are_not_encoded_stay_as_they_are() -> None:
    page = listing_page(
        listing(
            "<IsTruncated>false</IsTruncated><Contents><Key>a%20&amp;\u00e9+</Key></Contents>", namespace=""
        )
    )
    assert page is not None
    assert page.objects == [ListedObject("a%20&\u00e9+", 0, 0)]


@pytest.mark.parametrize(
    "says", ["<Name>b</Name>", "<MaxKeys>3</MaxKeys>", "<IsTruncated>false</IsTruncated>"]
)
def test_an_empty_one(says: str) -> None:
    assert listing_page(listing(says)) == ([], False, "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no XML",
        b"<Error><Code>InternalError</Code></Error>",
        listing(""),
        listing("<KeyCount>0</KeyCount>"),
        listing("<Name>b</Name>")[:-4],
        listing("<Name>b</Name><Contents><Size>1</Size></Contents>"),
        listing("<Name>b</Name><Contents><Key>k</Key><Size>many</Size></Contents>"),
        listing("<Name>b</Name><Contents><Key>k</Key><LastModified>soon</LastModified></Contents>"),
        listing("<Name>" + "<x>" * 20 + "</x>" * 20 + "</Name>"),
        b'<!DOCTYPE x [<!ENTITY e "b">]><ListBucketResult><Name>&e;</Name></ListBucketResult>',
        b"<html><Name>b</Name></html>",
    ],
)
def test_what_is_no_listing(body: bytes) -> None:
    assert listing_page(body) is None
