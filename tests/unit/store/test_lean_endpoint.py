"""Endpoints: where botocore would send a request, found out without sending one."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from asyncbackup.config import S3Settings
from asyncbackup.store.endpoint_clock import EndpointClock
from asyncbackup.store.lean.endpoint import Endpoint, EndpointFinder, NotLean
from asyncbackup.store.s3_bucket import S3Bucket
from asyncbackup.store.s3_library import S3Library
from asyncbackup.store.s3_location import S3Location

LOCAL = "http://127.0.0.1:8333"


async def find(bucket: str, **settings: Any) -> Endpoint:
    library = S3Library(S3Settings(**settings), concurrency=1, clock=EndpointClock())
    place = S3Location(bucket=bucket)
    try:
        return await EndpointFinder(S3Bucket(library, place, endpoint="", storage_class="STANDARD")).find()
    finally:
        await library.aclose()


@pytest.mark.parametrize(
    ("bucket", "settings", "environment", "host", "path", "region"),
    [
        ("bucket", {"endpoint_url": LOCAL}, {}, "127.0.0.1:8333", "/bucket/", "us-east-1"),
        ("bucket", {"endpoint_url": LOCAL, "region": "garage"}, {}, "127.0.0.1:8333", "/bucket/", "garage"),
        ("bucket", {"endpoint_url": "http://localhost"}, {}, "localhost", "/bucket/", "us-east-1"),
        ("bucket", {"endpoint_url": "http://localhost:80"}, {}, "localhost", "/bucket/", "us-east-1"),
        ("bucket", {"endpoint_url": "http://[::1]:9000"}, {}, "[::1]:9000", "/bucket/", "us-east-1"),
        ("bucket", {"endpoint_url": LOCAL + "/s3"}, {}, "127.0.0.1:8333", "/s3/bucket/", "us-east-1"),
        (
            "bucket",
            {"endpoint_url": "https://s3.example.com:9000", "addressing_style": "virtual"},
            {},
            "bucket.s3.example.com:9000",
            "/",
            "us-east-1",
        ),
        (
            "bucket",
            {"region": "eu-central-1"},
            {},
            "bucket.s3.eu-central-1.amazonaws.com",
            "/",
            "eu-central-1",
        ),
        (
            "bucket",
            {"region": "eu-central-1", "addressing_style": "path"},
            {},
            "s3.eu-central-1.amazonaws.com",
            "/bucket/",
            "eu-central-1",
        ),
        (
            "my.bucket",
            {"region": "eu-central-1"},
            {},
            "s3.eu-central-1.amazonaws.com",
            "/my.bucket/",
            "eu-central-1",
        ),
        (
            "bucket",
            {"region": "eu-central-1"},
            {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
            "bucket.s3.dualstack.eu-central-1.amazonaws.com",
            "/",
            "eu-central-1",
        ),
        (
            "bucket",
            {"region": "us-gov-west-1"},
            {"AWS_USE_FIPS_ENDPOINT": "true"},
            "bucket.s3-fips.us-gov-west-1.amazonaws.com",
            "/",
            "us-gov-west-1",
        ),
        (
            "arn:aws:s3:us-west-2:123456789012:accesspoint/point",
            {"region": "us-west-2"},
            {},
            "point-123456789012.s3-accesspoint.us-west-2.amazonaws.com",
            "/",
            "us-west-2",
        ),
    ],
)
async def test_where_requests_go(
    monkeypatch: pytest.MonkeyPatch,
    bucket: str,
    settings: dict[str, str],
    environment: dict[str, str],
    host: str,
    path: str,
    region: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    endpoint = await find(bucket, **settings)

    assert (endpoint.host, endpoint.path, endpoint.region) == (host, path, region)
    assert endpoint.service == "s3"
    assert endpoint.user_agent.startswith("aiobotocore/")
    plain = settings.get("endpoint_url", "").startswith("http:")
    assert (endpoint.origin.tls is None) == plain
    if endpoint.origin.tls is not None:
        assert endpoint.origin.tls.verify_mode is ssl.CERT_REQUIRED
        assert endpoint.origin.tls.check_hostname


@pytest.mark.parametrize(
    ("bucket", "settings", "environment", "text"),
    [
        ("bucket--use1-az4--x-s3", {"region": "us-east-1"}, {}, "s3express"),
        ("bucket", {"endpoint_url": LOCAL}, {"HTTP_PROXY": "http://me:hidden@192.0.2.1:31"}, "192.0.2.1:31"),
        ("bucket", {"region": "eu-west-1"}, {"HTTPS_PROXY": "http://192.0.2.1:3128"}, "192.0.2.1:31"),
    ],
)
async def test_what_is_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
    bucket: str,
    settings: dict[str, str],
    environment: dict[str, str],
    text: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotLean, match=text) as caught:
        await find(bucket, **settings)
    assert "hidden" not in str(caught.value)


async def test_a_host_that_no_proxy_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert (await find("bucket", endpoint_url=LOCAL)).host == "127.0.0.1:8333"
