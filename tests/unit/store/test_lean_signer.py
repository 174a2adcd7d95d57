"""Signatures: those that botocore makes of the same request."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.utils import percent_encode
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.store.lean.errors import NoKeysError
from asyncbackup.store.lean.signer import Signer, encoded_path, encoded_query

KEYS = ReadOnlyCredentials("AKIAEXAMPLE", "secret", None)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=20)


def botocore_signature(
    method: str, url: str, headers: dict[str, str], credentials: ReadOnlyCredentials, region: str, stamp: str
) -> str:
    request = AWSRequest(method=method, url=url, headers=headers)
    request.context["timestamp"] = stamp
    keys = Credentials(str(credentials.access_key), str(credentials.secret_key), credentials.token)
    signer: Any = S3SigV4Auth(keys, "s3", region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signed = signer.signed_headers(signer.headers_to_sign(request))
    return (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, "
        f"SignedHeaders={signed}, Signature={signer.signature(text, request)}"
    )


def parsed(lines: str) -> dict[str, str]:
    assert lines.endswith("\r\n")
    pairs = [line.partition(": ") for line in lines[:-2].split("\r\n")]
    return {name: value for name, _, value in pairs}


@given(
    method=st.sampled_from(["PUT", "GET"]),
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    query=st.dictionaries(st.sampled_from(["partNumber", "uploadId", "versionId"]), PRINTABLE),
    metadata=st.dictionaries(NAMES, PRINTABLE, max_size=5),
    conditions=st.dictionaries(st.sampled_from(["if-match", "if-none-match", "range"]), PRINTABLE),
    token=st.none() | st.text("abcXYZ019+/=", min_size=1, max_size=200),
    secret=st.text("abcXYZ019+/=", min_size=1, max_size=50),
    region=st.sampled_from(["us-east-1", "eu-central-1", "garage"]),
    host=st.sampled_from(["bucket.s3.amazonaws.com", "127.0.0.1:8333", "[::1]:9000"]),
    moment=st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1)),
    body=st.binary(max_size=20),
)
def test_the_signature_is_botocores(
    method: str,
    key: str,
    query: dict[str, str],
    metadata: dict[str, str],
    conditions: dict[str, str],
    token: str | None,
    secret: str,
    region: str,
    host: str,
    moment: datetime.datetime,
    body: bytes,
) -> None:
    credentials = ReadOnlyCredentials("AKIAEXAMPLE", secret, token)
    path, parameters = encoded_path("/bucket/" + key), encoded_query(query)
    headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()} | conditions
    digest = hashlib.sha256(body).hexdigest()
    now = moment.replace(tzinfo=datetime.UTC).timestamp()

    lines = parsed(
        Signer(host=host, region=region).head_lines(
            method, path, parameters, headers, payload_sha256=digest, credentials=credentials, now=now
        )
    )

    authorization = lines.pop("authorization")
    assert lines["host"] == host
    assert lines["x-amz-content-sha256"] == digest
    assert lines.get("x-amz-security-token") == token
    assert lines["x-amz-date"] == moment.strftime("%Y%m%dT%H%M%SZ")
    assert headers.items() <= lines.items()
    url = f"http://{host}{path}" + (f"?{parameters}" if parameters else "")
    assert authorization == botocore_signature(method, url, lines, credentials, region, lines["x-amz-date"])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_keys_are_encoded_as_botocore_does(key: str) -> None:
    assert encoded_path(key) == percent_encode(key, safe="-._~/")


def test_the_kept_key_changes_with_day_and_secret() -> None:
    signer = Signer(host="h", region="r")
    days = [0.0, 86_399.9, 86_400.0, 0.0]

    def sign(by: Signer, now: float, secret: str) -> str:
        credentials = ReadOnlyCredentials("AKIAEXAMPLE", secret, None)
        return by.head_lines("GET", "/", "", {}, payload_sha256="", credentials=credentials, now=now)

    for secret in ("one", "two"):
        for now in days:
            assert sign(signer, now, secret) == sign(Signer(host="h", region="r"), now, secret)


def test_nothing_is_signed_with_half_a_secret() -> None:
    for credentials in (ReadOnlyCredentials(None, "secret", None), ReadOnlyCredentials("AKIA", None, None)):
        with pytest.raises(NoKeysError):
            Signer(host="h", region="r").head_lines(
                "GET", "/", "", {}, payload_sha256="", credentials=credentials
            )
