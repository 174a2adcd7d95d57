"""Examining real endpoints: each is found to be as docs and tests elsewhere know it, and is left clean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from asyncbackup.config import S3Settings
from asyncbackup.doctor.examine import examine_destination
from asyncbackup.doctor.findings import Finding, Level
from asyncbackup.traces import Traces
from tests.servers.proxy import FaultProxy, answering, error_body

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import S3Endpoint
    from tests.servers.proxy import Exchange

# What is not as at AWS. Everything else has to be found to be in order.
NOTES = {
    "rclone": {
        "conditional-writes",
        "checksums",
        "copy",
        "range-middle",
        "range-suffix",
        "part-copy",
        "folder-objects",
        "key-below-key",
        "key-double-slash",
        "lifecycle",
    },
    "seaweed": {"listing-order", "folder-objects", "key-backslash", "key-double-slash", "lifecycle"},
    "moto": {"checksums", "lifecycle"},
}
EVERY_CHECK = {
    "bucket",
    "checksums",
    "clock",
    "conditional-writes",
    "connection",
    "copy",
    "credentials",
    "delete",
    "dns",
    "folder-objects",
    "key-backslash",
    "key-below-key",
    "key-case",
    "key-dots",
    "key-double-slash",
    "key-escapes",
    "key-length",
    "key-normal-form",
    "key-percent",
    "key-segment",
    "key-spaces",
    "key-unicode",
    "lifecycle",
    "listing-order",
    "listing-pages",
    "metadata",
    "metadata-non-ascii",
    "metadata-size",
    "metadata-underscore",
    "multipart",
    "multipart-abort",
    "multipart-listing",
    "multipart-order",
    "multipart-small-parts",
    "object-lock",
    "part-copy",
    "range-middle",
    "range-suffix",
    "read-after-write",
    "tls",
    "versioning",
    "write",
}


@pytest.fixture(params=["rclone_s3", "seaweed_s3", "moto_s3"])
def endpoint(request: pytest.FixtureRequest) -> S3Endpoint:
    found: S3Endpoint = request.getfixturevalue(request.param)
    return found


async def examine(
    destination: str, s3: S3Settings, traces: Traces | None = None
) -> tuple[bool, dict[str, Finding]]:
    """Whether backups can go there, and what was found by check."""
    found: dict[str, Finding] = {}

    def report(finding: Finding) -> None:
        assert finding.check not in found, f"{finding.check} was reported twice"
        assert not finding.text.endswith(".")
        found[finding.check] = finding

    usable = await examine_destination(destination, s3=s3, traces=traces or Traces("doctor"), report=report)
    return usable, found


def problems(found: dict[str, Finding]) -> list[str]:
    for finding in found.values():
        assert finding.level is not Level.PROBLEM or finding.advice
    return [name for name, finding in found.items() if finding.level is Level.PROBLEM]


def keys_of(endpoint: S3Endpoint, bucket: str) -> list[str]:
    """What an independent client sees in the bucket, unfinished uploads among it."""
    client = endpoint.client()
    try:
        keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
        return keys + [
            item["Key"] for item in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        ]
    finally:
        client.close()


async def test_what_each_endpoint_does(endpoint: S3Endpoint) -> None:
    bucket = endpoint.fresh_bucket()
    usable, found = await examine(f"s3://{bucket}/some/prefix", endpoint.settings())
    assert usable
    assert problems(found) == []
    assert set(found) >= EVERY_CHECK
    assert {name for name, finding in found.items() if finding.level is Level.NOTE} == NOTES[endpoint.name]
    assert keys_of(endpoint, bucket) == []


async def test_the_ways_in_which_they_differ(
    rclone_s3: S3Endpoint, seaweed_s3: S3Endpoint, moto_s3: S3Endpoint
) -> None:
    _, rclone = await examine(f"s3://{rclone_s3.fresh_bucket()}", rclone_s3.settings())
    assert "ignored" in rclone["conditional-writes"].text
    assert "a wrong SHA-256 is accepted and returned" in rclone["checksums"].text
    assert "merges the metadata" in rclone["copy"].text
    assert "200 and the right bytes" in rclone["range-middle"].text
    assert "makes an empty part" in rclone["part-copy"].text
    assert "are accepted" in rclone["multipart-small-parts"].text
    _, seaweed = await examine(f"s3://{seaweed_s3.fresh_bucket()}", seaweed_s3.settings())
    assert "verified, kept and returned" in seaweed["checksums"].text
    assert "honoured" in seaweed["conditional-writes"].text
    assert "without their metadata" in seaweed["folder-objects"].text
    assert "taken for one" in seaweed["key-backslash"].text
    assert "(EntityTooSmall)" in seaweed["multipart-small-parts"].text
    _, moto = await examine(f"s3://{moto_s3.fresh_bucket()}", moto_s3.settings())
    assert "ignored" in moto["checksums"].text


async def test_rules_of_a_bucket(moto_s3: S3Endpoint) -> None:
    bucket = moto_s3.fresh_bucket()
    client = moto_s3.client()
    try:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket,
            LifecycleConfiguration={
                "Rules": [
                    {
                        "ID": "tidy",
                        "Status": "Enabled",
                        "Filter": {"Prefix": ""},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
                    },
                    {
                        "ID": "old",
                        "Status": "Enabled",
                        "Filter": {"Prefix": "some/"},
                        "Expiration": {"Days": 30},
                    },
                ]
            },
        )
    finally:
        client.close()
    usable, found = await examine(f"s3://{bucket}/some/prefix", moto_s3.settings())
    assert usable
    assert found["versioning"].level is Level.NOTE
    assert found["lifecycle"].level is Level.OK
    assert problems(found) == ["lifecycle-expiration"]
    assert "'old'" in found["lifecycle-expiration"].text
    _, elsewhere = await examine(f"s3://{bucket}/other", moto_s3.settings())
    assert "lifecycle-expiration" not in elsewhere


async def test_a_bucket_that_is_not_there(moto_s3: S3Endpoint) -> None:
    usable, found = await examine("s3://no-such-bucket/x", moto_s3.settings())
    assert not usable
    assert problems(found) == ["bucket"]
    assert "no bucket 'no-such-bucket'" in found["bucket"].text


async def test_wrong_credentials(seaweed_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    traces = Traces("doctor")
    usable, found = await examine(f"s3://{seaweed_s3.fresh_bucket()}", seaweed_s3.settings(), traces)
    assert not usable
    assert traces.left == []  # Nothing was written, so nothing is left.
    assert problems(found) == ["write"]
    assert "the secret key does not fit the access key" in found["write"].text
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    usable, found = await examine("s3://bucket", seaweed_s3.settings())
    assert not usable
    assert problems(found) == ["credentials"]


@pytest.mark.parametrize(
    ("endpoint_url", "check"),
    [("http://127.0.0.1:1", "connection"), ("https://nowhere.invalid", "dns")],
)
async def test_an_endpoint_that_cannot_be_reached(endpoint_url: str, check: str) -> None:
    usable, found = await examine("s3://bucket", S3Settings(endpoint_url=endpoint_url, region="us-east-1"))
    assert not usable
    assert problems(found) == [check]


async def test_plain_http_under_https(moto_s3: S3Endpoint) -> None:
    url = moto_s3.url.replace("http://", "https://")
    usable, found = await examine("s3://bucket", S3Settings(endpoint_url=url, region="us-east-1"))
    assert not usable
    assert problems(found) == ["tls"]


async def test_credentials_that_may_not_delete(moto_s3: S3Endpoint) -> None:
    bucket = moto_s3.fresh_bucket()
    traces = Traces("doctor")
    async with FaultProxy(moto_s3.url) as proxy:
        proxy.plan("DeleteObjects", answering(403, error_body("AccessDenied")), times=0)
        usable, found = await examine(f"s3://{bucket}", moto_s3.settings(endpoint_url=proxy.url), traces)
    assert usable
    assert problems(found) == []
    assert found["delete"].level is Level.NOTE
    assert found["delete"].text == "these credentials may not delete"
    assert traces.left == sorted(keys_of(moto_s3, bucket))


async def test_a_refused_operation_is_a_note_and_the_others_go_on(moto_s3: S3Endpoint) -> None:
    async with FaultProxy(moto_s3.url) as proxy:
        proxy.plan("CopyObject", answering(501, error_body("NotImplemented")))
        proxy.plan("CreateMultipartUpload", answering(501, error_body("NotImplemented")), times=0)
        usable, found = await examine(
            f"s3://{moto_s3.fresh_bucket()}", moto_s3.settings(endpoint_url=proxy.url)
        )
    assert usable
    assert "does not work (NotImplemented)" in found["copy"].text
    assert problems(found) == ["multipart"]
    assert "could not be examined" in found["part-copy"].text
    assert found["key-length"].level is Level.OK


async def test_interrupted_it_removes_what_it_wrote(moto_s3: S3Endpoint) -> None:
    bucket = moto_s3.fresh_bucket()
    traces = Traces("doctor")
    async with FaultProxy(moto_s3.url) as proxy:
        reached = asyncio.Event()

        async def hold(exchange: Exchange) -> None:
            reached.set()
            await asyncio.Event().wait()

        proxy.plan("CompleteMultipartUpload", hold)
        s3 = moto_s3.settings(endpoint_url=proxy.url)
        task = asyncio.ensure_future(examine(f"s3://{bucket}", s3, traces))
        waiting = asyncio.ensure_future(reached.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert waiting.done(), f"it ended before that: {task}"
        assert keys_of(moto_s3, bucket) != []
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert traces.left == []
    assert keys_of(moto_s3, bucket) == []


async def test_a_folder(folder_destination: Path) -> None:
    usable, found = await examine(f"file://{folder_destination}", S3Settings())
    assert usable
    assert problems(found) == []
    expected = {"folder", "folder-space", "write", "read-after-write", "conditional-writes", "metadata"}
    assert set(found) == expected | {"key-segment", "key-case", "key-normal-form", "delete"}
    assert {name for name in expected if found[name].level is not Level.OK} <= {"folder-space"}
    assert list(folder_destination.iterdir()) == []


async def test_a_folder_that_is_none(tmp_path: Path) -> None:
    usable, found = await examine(f"file://{tmp_path}/nowhere", S3Settings())
    assert not usable
    assert problems(found) == ["folder"]
    (tmp_path / "file").touch()
    _, found = await examine(f"file://{tmp_path}/file", S3Settings())
    assert "is no folder" in found["folder"].text
