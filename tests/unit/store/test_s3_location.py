"""Where S3 destinations are, and which endpoints are refused."""

from __future__ import annotations

import pytest

from asyncbackup.config import S3Settings
from asyncbackup.errors import ConfigError
from asyncbackup.store.s3_location import check_endpoint, is_aws, s3_location


def test_keys_are_relative_to_the_prefix() -> None:
    location = s3_location("s3://bucket/some/prefix")
    assert location.url == "s3://bucket/some/prefix"
    assert location.full("home/x") == "some/prefix/home/x"
    assert location.relative("some/prefix/home/x") == "home/x"
    assert location.relative("some/prefix2/home/x") is None
    assert location.relative("some/prefix") is None

    whole = s3_location("s3://bucket")
    assert whole.url == "s3://bucket"
    assert whole.full("x") == "x"
    assert whole.relative("x") == "x"


@pytest.mark.parametrize(
    "url", ["https://s3.example.com", "http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000"]
)
def test_endpoints_that_are_fine(url: str) -> None:
    check_endpoint(url, S3Settings())


@pytest.mark.parametrize("url", ["http://10.0.0.1", "http://s3.example.com", "http://localhost.example.com"])
def test_plain_http_over_a_network(url: str) -> None:
    with pytest.raises(ConfigError, match="allow_plain_http"):
        check_endpoint(url, S3Settings())
    check_endpoint(url, S3Settings(allow_plain_http=True))


def test_other_schemes() -> None:
    with pytest.raises(ConfigError, match="not an http"):
        check_endpoint("ftp://example.com", S3Settings(allow_plain_http=True))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://s3.eu-central-1.amazonaws.com", True),
        ("https://s3.cn-north-1.amazonaws.com.cn", True),
        ("https://amazonaws.com.example.com", False),
        ("http://127.0.0.1:9000", False),
    ],
)
def test_aws_is_known_by_its_name(url: str, expected: bool) -> None:
    assert is_aws(url) is expected
