"""What stops a run has one clear message that names the cause and the way out, and holds no secret."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from asyncbackup.config import S3Settings
from asyncbackup.errors import (
    AccessDeniedError,
    ConfigError,
    ObjectMissingError,
    ObjectRefusedError,
    StoreError,
)
from asyncbackup.store.open import open_store
from tests.contract.backends import QUICK, digest
from tests.servers import SECRET_KEY, S3Endpoint
from tests.servers.process import free_ports

EMPTY = digest(b"")


@pytest.mark.parametrize("server", ["rclone_s3", "seaweed_s3"])
async def test_a_wrong_secret_key(
    server: str, transfer: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-a-wrong-secret")
    async with open_store("s3://bucket", s3=endpoint.settings(), concurrency=1, policy=QUICK) as store:
        with pytest.raises(AccessDeniedError, match="AWS_SECRET_ACCESS_KEY") as caught:
            await store.put("key", b"", sha256=EMPTY)
        assert store.requests["PutObject"] == 1
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("server", ["rclone_s3", "seaweed_s3"])
async def test_an_unknown_access_key(
    server: str, transfer: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWNUNKNOWN00")
    async with open_store("s3://bucket", s3=endpoint.settings(), concurrency=1, policy=QUICK) as store:
        with pytest.raises(AccessDeniedError, match=r"AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY|may not"):
            await store.get("key", limit=1)


async def test_no_credentials(seaweed_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDeniedError, match="no AWS credentials were found; set AWS_ACCESS_KEY_ID"):
        async with open_store("s3://bucket", s3=seaweed_s3.settings(), concurrency=1):
            pass


async def test_an_unknown_profile(seaweed_s3: S3Endpoint) -> None:
    with pytest.raises(ConfigError, match="profile = 'nobody'"):
        async with open_store("s3://bucket", s3=seaweed_s3.settings(profile="nobody"), concurrency=1):
            pass


@pytest.mark.parametrize("server", ["rclone_s3", "seaweed_s3", "moto_s3"])
async def test_a_bucket_that_does_not_exist(
    server: str, transfer: str, request: pytest.FixtureRequest
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server)
    async with open_store(
        "s3://no-such-bucket", s3=endpoint.settings(), concurrency=1, policy=QUICK
    ) as store:
        with pytest.raises(
            StoreError, match=f"bucket 'no-such-bucket' does not exist at {endpoint.url}"
        ) as put:
            await store.put("key", b"", sha256=EMPTY)
        with pytest.raises(StoreError, match="'no-such-bucket' does not exist"):
            await store.get("key", limit=1)
    assert not isinstance(put.value, ObjectMissingError)


async def test_an_endpoint_that_nobody_listens_at(transfer: str) -> None:
    (port,) = free_ports(1)
    s3 = S3Settings(endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1", transfer=transfer)
    lines: list[str] = []
    async with open_store("s3://bucket", s3=s3, concurrency=1, on_retry=lines.append) as store:
        with pytest.raises(
            StoreError, match=f"no connection to http://127.0.0.1:{port}: .*refused"
        ) as caught:
            await store.put("key", b"", sha256=EMPTY)
        assert store.requests["PutObject"] == 2, "an address that never answered is not tried for long"
    assert caught.value.retryable
    assert len(lines) == 1


async def test_a_host_that_does_not_exist(transfer: str) -> None:
    s3 = S3Settings(endpoint_url="https://no-such-host.invalid", region="us-east-1", transfer=transfer)
    async with open_store("s3://bucket", s3=s3, concurrency=1, policy=QUICK) as store:
        with pytest.raises(StoreError, match=r"no connection to https://no-such-host\.invalid"):
            await store.head("key")
        with pytest.raises(StoreError, match=r"no connection to https://no-such-host\.invalid"):
            await store.get("key", limit=1)


async def test_plain_http_to_another_machine_is_refused() -> None:
    s3 = S3Settings(endpoint_url="http://192.0.2.1:9000", region="us-east-1")
    with pytest.raises(ConfigError, match="allow_plain_http"):
        async with open_store("s3://bucket", s3=s3, concurrency=1):
            pass
    allowed = S3Settings(endpoint_url="http://192.0.2.1:9000", region="us-east-1", allow_plain_http=True)
    async with open_store("s3://bucket", s3=allowed, concurrency=1) as store:
        assert store.url == "s3://bucket"


async def test_plain_http_is_refused_wherever_it_was_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example.com")
    with pytest.raises(ConfigError, match=r"http://s3\.example\.com.*allow_plain_http"):
        async with open_store("s3://bucket", s3=S3Settings(), concurrency=1):
            pass


async def test_no_secret_is_logged(
    seaweed_s3: S3Endpoint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-session-token")
    caplog.set_level(logging.DEBUG)
    async with open_store("s3://bucket", s3=seaweed_s3.settings(), concurrency=1, policy=QUICK) as store:
        with pytest.raises(StoreError) as caught:
            await store.put("key", b"content", sha256=digest(b"content"))
        assert "canary" not in repr(store)
    told = caplog.text + str(caught.value) + repr(caught.value)
    assert "canary" not in told
    assert SECRET_KEY not in told
    assert "Signature=" not in told


@pytest.mark.parametrize(
    "destination",
    ["bucket/prefix", "s3://", "s3://bucket/a//b", "s3://bucket/../x", "file://relative", "ftp://x"],
)
async def test_destinations_that_cannot_be(destination: str) -> None:
    with pytest.raises(ConfigError, match="destination"):
        async with open_store(destination, s3=S3Settings(), concurrency=1):
            pass


async def test_a_folder_that_is_missing_is_made_only_on_request(tmp_path: Path) -> None:
    missing = tmp_path / "not" / "mounted"
    with pytest.raises(StoreError, match="does not exist; is its disk mounted"):
        async with open_store(f"file://{missing}", s3=S3Settings(), concurrency=1):
            pass
    assert not missing.parent.exists()
    async with open_store(f"file://{missing}", s3=S3Settings(), concurrency=1, create=True) as store:
        await store.put("key", b"", sha256=EMPTY)
    assert (missing / "key").exists()
    assert missing.stat().st_mode & 0o777 == 0o700


async def test_a_destination_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="not a folder"):
        async with open_store(f"file://{tmp_path}/file", s3=S3Settings(), concurrency=1):
            pass


@pytest.mark.parametrize(
    "key",
    [
        "../outside",
        "a/../../outside",
        "a/..",
        "./a",
        "a//b",
        "/etc/passwd",
        "",
        "/",
        "a/\0",
        "x" * 256,
        ".asyncbackup-uploads/x",
        "a/.asyncbackup-tmp-1-deadbeef-0",
    ],
)
async def test_keys_that_a_folder_cannot_hold(tmp_path: Path, key: str) -> None:
    folder = tmp_path / "destination"
    folder.mkdir()
    (tmp_path / "outside").write_bytes(b"canary")
    async with open_store(f"file://{folder}", s3=S3Settings(), concurrency=1) as store:
        for call in (
            store.put(key, b"x", sha256=digest(b"x")),
            store.get(key, limit=99),
            store.head(key),
            store.delete([key]),
            store.create_upload(key, metadata={}),
        ):
            with pytest.raises(ObjectRefusedError, match="a folder cannot hold it"):
                await call
    assert (tmp_path / "outside").read_bytes() == b"canary"
    assert not any(folder.iterdir())


async def test_an_object_and_a_folder_of_one_name(tmp_path: Path) -> None:
    async with open_store(f"file://{tmp_path}", s3=S3Settings(), concurrency=1) as store:
        await store.put("a", b"", sha256=EMPTY)
        await store.put("b/c", b"", sha256=EMPTY)
        for key in ("a/b", "a/b/c", "a/", "b"):
            with pytest.raises(ObjectRefusedError, match="an object and a folder of the same name"):
                await store.put(key, b"", sha256=EMPTY)
        assert sorted([info.key async for page in store.list("") for info in page]) == ["a", "b/c"]
