"""Access that is told in full is that which the S3 library would find; everything else is left to it."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from asyncbackup.config import S3Settings
from asyncbackup.errors import ConfigError
from asyncbackup.store.endpoint_clock import EndpointClock
from asyncbackup.store.s3_plain import FixedKeys, plain_access
from asyncbackup.store.s3_session import open_client
from tests.contract.test_tls import DAY, NOW, certificate
from tests.unit.store.test_lean_endpoint import find

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import S3Endpoint

LOCAL = "http://127.0.0.1:8333"


@pytest.mark.parametrize(
    ("bucket", "settings", "environment"),
    [
        ("bucket", {"endpoint_url": LOCAL}, {}),
        ("bucket", {"endpoint_url": LOCAL + "/"}, {}),
        ("bucket", {"endpoint_url": LOCAL, "region": "garage"}, {}),
        ("bucket", {"endpoint_url": LOCAL}, {"AWS_DEFAULT_REGION": "eu-west-1"}),
        ("bucket", {"endpoint_url": LOCAL}, {"AWS_REGION": "eu-west-2"}),
        ("bucket", {"endpoint_url": LOCAL, "addressing_style": "path"}, {"AWS_SESSION_TOKEN": "token"}),
        ("bucket", {"endpoint_url": "http://localhost:80"}, {}),
        ("bucket", {"endpoint_url": "http://[::1]:9000"}, {}),
        ("my.bucket-1", {"endpoint_url": "https://s3.example.com"}, {}),
        ("bucket", {"endpoint_url": "https://s3.example.com:443"}, {}),
        ("bucket", {"endpoint_url": "https://s3.example.com:9000"}, {}),
    ],
)
async def test_it_is_what_the_library_finds(
    bucket: str, settings: dict[str, Any], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    plain = plain_access(bucket, S3Settings(**settings))
    assert plain is not None
    found = await find(bucket, **settings)
    assert plain.endpoint.same_place(found)
    assert (plain.endpoint.origin.host, plain.endpoint.origin.port) == (found.origin.host, found.origin.port)
    async with open_client(S3Settings(**settings), concurrency=1) as (client, credentials, _):
        keys = await credentials.current()
        assert client.meta.endpoint_url == plain.endpoint_url
    assert (keys.access_key, keys.secret_key, keys.token) == tuple(plain.keys)


@pytest.mark.parametrize(
    ("bucket", "settings", "environment"),
    [
        ("bucket", {}, {}),
        ("bucket", {"profile": "work"}, {}),
        ("bucket", {"addressing_style": "virtual"}, {}),
        ("bucket", {"region": "no region"}, {}),
        ("bucket", {"endpoint_url": "https://s3.eu-central-1.amazonaws.com"}, {}),
        ("bucket", {"endpoint_url": "https://s3-accelerate.amazonaws.com"}, {}),
        ("bucket", {"endpoint_url": LOCAL + "/s3"}, {}),
        ("bucket", {"endpoint_url": "https://user@s3.example.com"}, {}),
        ("bucket", {"endpoint_url": "https://S3.example.com"}, {}),
        ("bucket", {"endpoint_url": "https://s3.example.com:port"}, {}),
        ("bucket", {"endpoint_url": "ftp://s3.example.com"}, {}),
        ("Bucket", {}, {}),
        ("bucket--use1-az4--x-s3", {}, {}),
        ("arn:aws:s3:us-east-1:1:accesspoint/p", {}, {}),
        ("bucket", {}, {"AWS_PROFILE": "work"}),
        ("bucket", {}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}),
        ("bucket", {}, {"AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z"}),
        ("bucket", {}, {"AWS_SOMETHING_NEW": "1"}),
        ("bucket", {}, {"http_proxy": "http://127.0.0.1:1"}),
        ("bucket", {}, {"HTTPS_PROXY": "http://127.0.0.1:1"}),
        ("bucket", {}, {"AWS_ACCESS_KEY_ID": ""}),
        ("bucket", {}, {"AWS_SECRET_ACCESS_KEY": ""}),
    ],
)
def test_whatever_else_has_a_say_is_left_to_the_library(
    bucket: str, settings: dict[str, Any], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = {"endpoint_url": LOCAL, **settings} if settings or environment or bucket != "bucket" else {}
    assert plain_access(bucket, S3Settings(**told)) is None


@pytest.mark.parametrize("name", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
def test_a_file_of_aws_s_has_a_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(tmp_path / "file"))
    settings = S3Settings(endpoint_url=LOCAL)
    assert plain_access("bucket", settings) is not None
    (tmp_path / "file").write_text("[default]\nregion = eu-west-1\n")
    assert plain_access("bucket", settings) is None
    # Where the variable is missing, it is the file at its usual place.
    monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    assert plain_access("bucket", settings) is not None
    (home / ".aws" / ("config" if "CONFIG" in name else "credentials")).write_text("[default]\n")
    assert plain_access("bucket", settings) is None


def test_plain_http_to_another_host_is_refused_all_the_same() -> None:
    with pytest.raises(ConfigError, match="without encryption"):
        plain_access("bucket", S3Settings(endpoint_url="http://s3.example.com"))


def test_the_certificates_that_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = S3Settings(endpoint_url="https://s3.example.com")
    plain = plain_access("bucket", settings)
    assert plain is not None
    assert plain.endpoint.origin.tls is not None
    assert plain.endpoint.origin.tls.verify_mode is ssl.CERT_REQUIRED
    assert plain.endpoint.origin.tls.check_hostname
    assert len(plain.endpoint.origin.tls.get_ca_certs()) > 50

    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate(tmp_path, "s3.example.com", ends=NOW + DAY)))
    plain = plain_access("bucket", settings)
    assert plain is not None
    assert plain.endpoint.origin.tls is not None
    assert len(plain.endpoint.origin.tls.get_ca_certs()) == 1

    for place in ("missing.pem", "."):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / place))
        with pytest.raises(ConfigError, match="AWS_CA_BUNDLE"):
            plain_access("bucket", settings)


async def test_keys_of_the_environment_are_never_renewed() -> None:
    plain = plain_access("bucket", S3Settings(endpoint_url=LOCAL))
    assert plain is not None
    keys = FixedKeys(plain.keys, EndpointClock())
    assert not await keys.renew(0)
    assert keys.generation == 0


SCRIPT = """
import asyncio, hashlib, sys
from asyncbackup.config import S3Settings
from asyncbackup.errors import ObjectMissingError
from asyncbackup.store.open import open_store

async def main(url, endpoint):
    async with open_store(url, s3=S3Settings(endpoint_url=endpoint), concurrency=2) as store:
        await store.put("one", b"content", sha256=hashlib.sha256(b"content").digest())
        assert (await store.head("one")).size == 7
        assert await store.get("one", limit=10) == b"content"
        assert [info.key async for page in store.list("") for info in page] == ["one"]
        try:
            await store.head("two")
        except ObjectMissingError:
            pass
        upload = await store.create_upload("two", metadata={"mtime": "1.5"})
        part = await store.upload_part("two", upload, 1, b"part", sha256=hashlib.sha256(b"part").digest())
        await store.complete_upload("two", upload, [part])
        assert await store.get("two", limit=10) == b"part"
        await store.abort_upload("three", await store.create_upload("three", metadata={}))
        print(sorted({"aiobotocore", "aiohttp", "botocore"} & set(sys.modules)))
        await store.delete(["one", "two"])
        assert [info.key async for page in store.list("") for info in page] == []
        print(sorted({"aiobotocore", "aiohttp", "botocore"} & set(sys.modules)))

asyncio.run(main(*sys.argv[1:]))
"""


def test_the_library_is_loaded_by_the_first_request_that_needs_it(rclone_s3: S3Endpoint) -> None:
    url = f"s3://{rclone_s3.fresh_bucket()}"
    command = [sys.executable, "-c", SCRIPT, url, rclone_s3.url]
    done = subprocess.run(command, env=dict(os.environ), check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "['aiobotocore', 'aiohttp', 'botocore']"]
