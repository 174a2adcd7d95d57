"""The benchmarks' own S3 server, over plain HTTP and with clients that others wrote."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.launch import ROOT, LocalServer, local_server
from tests.servers.process import binary

PART = os.urandom(5 * 1024 * 1024)


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def told(self, name: str) -> list[str]:
        return re.findall(f"<{name}>(.*?)</{name}>", self.body.decode())


class Client:
    """One connection that is kept."""

    def __init__(self, server: LocalServer) -> None:
        self._connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        self._connection.request(method, path, body or None, dict(headers or {}))
        response = self._connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def close(self) -> None:
        self._connection.close()


def raw_connection(server: LocalServer) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


CHECKING = "--check-bodies"


@pytest.fixture(scope="module", params=[(), (CHECKING,)], ids=["as measured", "checking"])
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What the server is started with: what a client sees of it is the same, apart from ETags."""
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(scope="module")
def server(options: tuple[str, ...]) -> Iterator[LocalServer]:
    with local_server(options) as running:
        yield running


@pytest.fixture
def client(server: LocalServer) -> Iterator[Client]:
    client = Client(server)
    server.drop("b")
    server.create("b")
    server.reset()
    yield client
    client.close()


def sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def no_md5(etag: str) -> bool:
    """Whether it has the form that clients take for a multipart object's."""
    return re.fullmatch(r'"[0-9a-f]{32}-[1-9][0-9]*"', etag) is not None


def test_an_object_comes_back_with_its_metadata_and_checksum(
    client: Client, options: tuple[str, ...]
) -> None:
    body = os.urandom(70_000)
    put = client.ask(
        "PUT",
        "/b/a%2Fb%20c+d%25",
        body,
        {"x-amz-meta-mtime": "1.5", "Content-Type": "text/x", "x-amz-checksum-sha256": sha256(body)},
    )
    assert put.status == 200
    if CHECKING in options:
        assert put.headers["etag"] == f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
    else:
        assert no_md5(put.headers["etag"])
    got = client.ask("GET", "/b/a/b%20c%2Bd%25", headers={"x-amz-checksum-mode": "ENABLED"})
    assert got.body == body
    assert got.headers["x-amz-meta-mtime"] == "1.5"
    assert got.headers["content-type"] == "text/x"
    assert got.headers["x-amz-checksum-sha256"] == sha256(body)
    head = client.ask("HEAD", "/b/a/b%20c%2Bd%25")
    assert (head.headers["content-length"], head.headers["etag"]) == ("70000", put.headers["etag"])
    assert "x-amz-checksum-sha256" not in head.headers


def test_an_answer_has_the_headers_that_s3_keeps_and_the_time(client: Client) -> None:
    sent = {"Content-Encoding": "gzip", "Cache-Control": "no-cache", "x-amz-meta-a": "1", "X-Other": "x"}
    began = int(time.time())
    client.ask("PUT", "/b/k", b"body", sent)
    told = client.ask("HEAD", "/b/k").headers
    assert {name: told.get(name.lower()) for name in sent} == {**sent, "X-Other": None}
    modified = parsedate_to_datetime(told["last-modified"])
    assert began <= modified.timestamp() <= time.time()


@pytest.mark.parametrize(("length", "status"), [(2045, 200), (2046, 400)])
def test_metadata_have_room_for_2048_bytes(client: Client, length: int, status: int) -> None:
    # Two names and one value of a byte each: three more than the other value.
    headers = {"x-amz-meta-a": "1", "x-amz-meta-b": "b" * length}
    assert client.ask("PUT", "/b/k", b"", headers).status == status


@pytest.mark.parametrize(
    ("wanted", "status", "span"),
    [
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=90-1000", 206, slice(90, None)),
        ("bytes=1-2,4-5", 200, slice(None)),
        ("bytes=100-", 416, None),
    ],
)
def test_ranges(client: Client, wanted: str, status: int, span: slice | None) -> None:
    body = os.urandom(100)
    client.ask("PUT", "/b/k", body)
    got = client.ask("GET", "/b/k", headers={"Range": wanted})
    assert got.status == status
    if span is not None:
        assert got.body == body[span]


@pytest.mark.parametrize("size", [65_535, 65_536, 5_000_000, 4 * 1024 * 1024 - 1, 9 * 1024 * 1024])
def test_bodies_of_every_size_come_back_also_one_behind_another(
    client: Client, server: LocalServer, size: int
) -> None:
    body = os.urandom(size)
    with raw_connection(server) as raw:
        request = b"PUT /b/%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
        raw.sendall(b"".join(request % (number, size) + body for number in range(3)))
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 3:
            answers += raw.recv(65536)
    for number in range(3):
        assert client.ask("GET", f"/b/{number}").body == body
    assert server.traffic().received_bytes == 3 * size


def test_ranges_of_a_multipart_object_cross_its_parts(client: Client, options: tuple[str, ...]) -> None:
    upload_id = client.ask("POST", "/b/k?uploads").told("UploadId")[0]
    tail = os.urandom(1000)
    etags = [
        client.ask("PUT", f"/b/k?partNumber={number}&uploadId={upload_id}", part).headers["etag"]
        for number, part in ((1, PART), (2, tail))
    ]
    assert client.ask("GET", f"/b/k?uploadId={upload_id}").told("PartNumber") == ["1", "2"]
    assert client.ask("GET", "/b?uploads").told("UploadId") == [upload_id]
    named = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    whole = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
    digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in (PART, tail))
    done = client.ask("POST", f"/b/k?uploadId={upload_id}", whole)
    if CHECKING in options:
        assert done.told("ETag") == [f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-2"']
    else:
        assert no_md5(done.told("ETag")[0])
        assert done.told("ETag")[0].endswith('-2"')
    start = len(PART) - 3
    got = client.ask("GET", "/b/k", headers={"Range": f"bytes={start}-{start + 5}"})
    assert got.body == PART[-3:] + tail[:3]
    assert client.ask("POST", f"/b/k?uploadId={upload_id}", whole).told("Code") == ["NoSuchUpload"]


def test_parts_are_checked_when_they_are_joined(client: Client) -> None:
    upload_id = client.ask("POST", "/b/k?uploads").told("UploadId")[0]
    etags = [
        client.ask("PUT", f"/b/k?partNumber={number}&uploadId={upload_id}", b"small").headers["etag"]
        for number in (1, 2)
    ]

    def joined(*parts: tuple[int, str]) -> list[str]:
        named = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>" for n, e in parts)
        return client.ask("POST", f"/b/k?uploadId={upload_id}", f"<C>{named}</C>".encode()).told("Code")

    assert joined((1, etags[0]), (2, etags[1])) == ["EntityTooSmall"]
    assert joined((2, etags[1]), (1, etags[0])) == ["InvalidPartOrder"]
    assert joined((1, '"00"')) == ["InvalidPart"]
    assert joined((3, etags[0])) == ["InvalidPart"]
    assert client.ask("DELETE", f"/b/k?uploadId={upload_id}").status == 204
    assert client.ask("GET", f"/b/k?uploadId={upload_id}").told("Code") == ["NoSuchUpload"]


def test_checksums_of_parts_become_the_objects(client: Client) -> None:
    created = client.ask("POST", "/b/k?uploads", headers={"x-amz-checksum-algorithm": "SHA256"})
    upload_id = created.told("UploadId")[0]
    named = ""
    for number, part in ((1, PART), (2, b"tail")):
        path = f"/b/k?partNumber={number}&uploadId={upload_id}"
        sent = client.ask("PUT", path, part, {"x-amz-checksum-sha256": sha256(part)}).headers
        named += (
            f"<Part><PartNumber>{number}</PartNumber><ETag>{sent['etag']}</ETag>"
            f"<ChecksumSHA256>{sent['x-amz-checksum-sha256']}</ChecksumSHA256></Part>"
        )
    other = named.replace(sha256(PART), sha256(b"other"))
    assert client.ask("POST", f"/b/k?uploadId={upload_id}", other.encode()).told("Code") == ["InvalidPart"]
    done = client.ask("POST", f"/b/k?uploadId={upload_id}", named.encode())
    digests = hashlib.sha256(PART).digest() + hashlib.sha256(b"tail").digest()
    assert done.told("ChecksumSHA256") == [sha256(digests) + "-2"]


def test_what_is_no_checksum_is_refused(client: Client) -> None:
    for told in ("AAAA", "no base64"):
        assert client.ask("PUT", "/b/k", b"body", {"x-amz-checksum-sha256": told}).status == 400
    assert client.ask("HEAD", "/b/k").status == 404


@pytest.mark.parametrize("options", [(CHECKING,)], indirect=True)
def test_what_arrived_damaged_is_refused(client: Client) -> None:
    wrong = client.ask("PUT", "/b/k", b"body", {"x-amz-checksum-sha256": sha256(b"other")})
    assert (wrong.status, wrong.told("Code")) == (400, ["BadDigest"])
    wrong = client.ask("PUT", "/b/k", b"body", {"Content-MD5": base64.b64encode(bytes(16)).decode()})
    assert wrong.told("Code") == ["BadDigest"]
    assert client.ask("HEAD", "/b/k").status == 404


@pytest.mark.parametrize("signed", [True, False])
def test_aws_chunked_bodies_are_taken_out_of_their_chunks(
    client: Client, options: tuple[str, ...], signed: bool
) -> None:
    body = os.urandom(100_000)
    signature = b";chunk-signature=" + b"0" * 64 if signed else b""
    framed = b"".join(
        b"%x%s\r\n%s\r\n" % (len(piece), signature, piece) for piece in (body[:65536], body[65536:])
    )
    trailer = f"x-amz-checksum-sha256:{sha256(body)}\r\n\r\n".encode()
    kind = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" if signed else "STREAMING-UNSIGNED-PAYLOAD"
    headers = {
        "Content-Encoding": "aws-chunked,gzip",
        "x-amz-content-sha256": f"{kind}-TRAILER",
        "x-amz-trailer": "x-amz-checksum-sha256",
        "x-amz-decoded-content-length": str(len(body)),
    }
    put = client.ask("PUT", "/b/k", framed + b"0" + signature + b"\r\n" + trailer, headers)
    assert put.headers["x-amz-checksum-sha256"] == sha256(body)
    got = client.ask("GET", "/b/k")
    assert got.body == body
    assert got.headers["content-encoding"] == "gzip"
    if CHECKING not in options:
        return
    damaged = framed.replace(body[:4], bytes(4), 1) + b"0" + signature + b"\r\n" + trailer
    assert client.ask("PUT", "/b/k", damaged, headers).told("Code") == ["BadDigest"]


def test_a_body_of_unknown_length(client: Client) -> None:
    client._connection.request(
        "PUT", "/b/k", iter([b"one ", b"two"]), {"Transfer-Encoding": "chunked"}, encode_chunked=True
    )
    assert client._connection.getresponse().read() == b""
    assert client.ask("GET", "/b/k").body == b"one two"


def test_100_continue_comes_before_the_body_is_sent(client: Client, server: LocalServer) -> None:
    with raw_connection(server) as raw:
        raw.sendall(b"PUT /b/k HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert raw.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b"body")
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.ask("GET", "/b/k").body == b"body"


def test_requests_cut_anywhere_or_sent_together_are_understood(client: Client, server: LocalServer) -> None:
    put = b"PUT /b/%d HTTP/1.1\r\nContent-Length: 3\r\n\r\n%03d"
    with raw_connection(server) as raw:
        raw.sendall(b"".join(put % (number, number) for number in range(20)))
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 20:
            answers += raw.recv(65536)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in put % (20, 20):
            raw.sendall(bytes([byte]))
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    assert [client.ask("GET", f"/b/{number}").body for number in range(21)] == [
        b"%03d" % number for number in range(21)
    ]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"x" * 70_000,
    ],
)
def test_what_cannot_be_understood_ends_the_connection(server: LocalServer, request_bytes: bytes) -> None:
    with raw_connection(server) as raw:
        raw.sendall(request_bytes)
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close\r\n" in answer


def test_conditions(client: Client) -> None:
    etag = client.ask("PUT", "/b/k", b"1", {"If-None-Match": "*"}).headers["etag"]
    assert client.ask("PUT", "/b/k", b"2", {"If-None-Match": "*"}).status == 412
    assert client.ask("GET", "/b/k", headers={"If-Match": '"other"'}).status == 412
    assert client.ask("GET", "/b/k", headers={"If-None-Match": etag}).status == 304
    assert client.ask("GET", "/b/k", headers={"If-Match": etag}).body == b"1"
    assert client.ask("PUT", "/b/k", b"3", {"If-Match": etag}).status == 200
    assert client.ask("PUT", "/b/k", b"4", {"If-Match": etag}).status == 412


def test_copies(client: Client) -> None:
    client.ask("PUT", "/b/k", PART, {"x-amz-meta-a": "1"})
    copy = client.ask(
        "PUT", "/b/c", headers={"x-amz-copy-source": "/b/k", "x-amz-checksum-algorithm": "SHA256"}
    )
    assert copy.told("ChecksumSHA256") == [sha256(PART)]
    got = client.ask("GET", "/b/c")
    assert (got.body, got.headers["x-amz-meta-a"]) == (PART, "1")
    replaced = {"x-amz-copy-source": "b/k", "x-amz-metadata-directive": "REPLACE", "x-amz-meta-b": "2"}
    client.ask("PUT", "/b/c", headers=replaced)
    head = client.ask("HEAD", "/b/c").headers
    assert (head.get("x-amz-meta-a"), head["x-amz-meta-b"]) == (None, "2")
    created = client.ask("POST", "/b/m?uploads", headers={"x-amz-checksum-algorithm": "SHA256"})
    upload_id = created.told("UploadId")[0]
    part = client.ask(
        "PUT",
        f"/b/m?partNumber=1&uploadId={upload_id}",
        headers={"x-amz-copy-source": "/b/k", "x-amz-copy-source-range": "bytes=2-9"},
    )
    assert part.told("ChecksumSHA256") == [sha256(PART[2:10])]


@pytest.mark.parametrize("version", ["list-type=2", ""])
def test_listings_are_paged_in_order_with_common_prefixes_once(client: Client, version: str) -> None:
    keys = ["a", "d/1", "d/2", "d/e/3", "e!", "é", "\U0001f600/x", "\ufb01"]
    for key in keys:
        client.ask("PUT", "/b/" + "".join(f"%{byte:02X}" for byte in key.encode()), key.encode())
    found: list[str] = []
    after = ""
    for _ in range(len(keys) + 1):
        page = client.ask("GET", f"/b?{version}&max-keys=1&delimiter=/{after}".replace("?&", "?"))
        found += page.told("Key") + [text[8:-9] for text in page.told("CommonPrefixes")]
        token = page.told("NextContinuationToken") or page.told("NextMarker")
        if not token:
            break
        name = "continuation-token" if version else "marker"
        after = f"&{name}=" + "".join(f"%{byte:02X}" for byte in token[0].encode())
    assert found == ["a", "d/", "e!", "é", "\ufb01", "\U0001f600/"]
    below = client.ask("GET", f"/b?{version}&prefix=d/".replace("?&", "?"))
    assert below.told("Key") == ["d/1", "d/2", "d/e/3"]


def test_keys_that_xml_cannot_say_come_url_encoded(client: Client) -> None:
    client.ask("PUT", "/b/a%01%26b", b"")
    listed = client.ask("GET", "/b?list-type=2&encoding-type=url")
    assert listed.told("Key") == ["a%01%26b"]


def test_objects_and_buckets_are_deleted(client: Client) -> None:
    for key in ("1", "2&3", "4"):
        client.ask("PUT", f"/b/{key}".replace("&", "%26"), b"")
    assert client.ask("DELETE", "/b").told("Code") == ["BucketNotEmpty"]
    names = b"<Delete><Object><Key>1</Key></Object><Object><Key>2&amp;3</Key></Object></Delete>"
    assert client.ask("POST", "/b?delete", names).told("Key") == ["1", "2&amp;3"]
    assert client.ask("GET", "/b?list-type=2").told("Key") == ["4"]
    assert client.ask("DELETE", "/b/4").status == 204
    assert client.ask("DELETE", "/b").status == 204
    assert client.ask("GET", "/b?list-type=2").told("Code") == ["NoSuchBucket"]


def test_what_is_not_done_says_so_and_the_connection_stays(client: Client) -> None:
    assert client.ask("GET", "/b/k?tagging").told("Code") == ["NotImplemented"]
    assert client.ask("GET", "/b/k").told("Code") == ["NoSuchKey"]
    assert client.ask("PUT", "/b/k", b"x").status == 200


def test_requests_and_bytes_are_counted(client: Client, server: LocalServer) -> None:
    client.ask("PUT", "/b/k", b"12345")
    client.ask("PUT", "/b/l", b"678")
    client.ask("GET", "/b/k")
    client.ask("HEAD", "/b/none")
    traffic = server.traffic()
    assert traffic.requests == {"PutObject": 2, "GetObject": 1, "HeadObject": 1}
    assert (traffic.received_bytes, traffic.sent_bytes) == (8, 5)
    assert traffic.errors == {"HeadObject 404": 1}
    assert traffic.stored("b") == (2, 8)
    assert 0 < traffic.cpu_seconds < 60
    server.reset()
    assert server.traffic().requests == {}


def test_faults_are_those_asked_for_and_repeatable() -> None:
    options = ["--fail-percent", "PutObject=30", "--slow-down-percent", "GetObject=100"]
    outcomes: list[list[int]] = []
    for _ in range(2):
        with local_server([*options, "--bucket", "b", "--seed", "7"]) as server:
            client = Client(server)
            outcomes.append([client.ask("PUT", f"/b/{number}", b"x").status for number in range(40)])
            assert client.ask("GET", "/b/0").told("Code") == ["SlowDown"]
            assert server.traffic().errors["PutObject 500"] == outcomes[-1].count(500)
            client.close()
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {200, 500}


def test_a_connection_can_be_broken_and_a_rate_kept() -> None:
    with local_server(
        ["--reset-percent", "GetObject=100", "--requests-per-second", "PutObject=0.001", "--bucket", "b"]
    ) as server:
        client = Client(server)
        with pytest.raises((RemoteDisconnected, ConnectionResetError)):
            client.ask("GET", "/b/k")
        client.close()
        assert client.ask("PUT", "/b/k", b"x").status == 503
        assert server.traffic().errors == {"GetObject reset": 1, "PutObject 503": 1}
        client.close()


def test_bandwidth_limits_lose_no_byte() -> None:
    with local_server(["--bandwidth-mbit", "800", "--total-mbit", "800", "--bucket", "b"]) as server:
        client = Client(server)
        client.ask("PUT", "/b/k", PART)
        assert client.ask("GET", "/b/k").body == PART
        client.close()


def test_it_ends_by_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.server", "--max-seconds", "0.01"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[1:] == ["ended after 0.01 seconds"]


def test_rclone_copies_there_and_back(server: LocalServer, tmp_path: Path) -> None:
    server.drop("rclone")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for number in range(20):
        (tree / "sub" / f"{number} +ä%.txt").write_bytes(os.urandom(number * 100))
    (tree / "large").write_bytes(PART * 3)
    options = [
        f"--s3-endpoint={server.url}", "--s3-provider=Other", "--s3-region=us-east-1", "--s3-env-auth",
        "--s3-upload-cutoff=5M", "--s3-chunk-size=5M", "--config", os.devnull, "--metadata",
    ]  # fmt: skip
    for source, target in ((tree, ":s3:rclone/t"), (":s3:rclone/t", tmp_path / "back")):
        subprocess.run([binary("rclone"), "copy", *options, source, target], check=True)
    for path in tree.rglob("*"):
        if path.is_file():
            copy = tmp_path / "back" / path.relative_to(tree)
            assert copy.read_bytes() == path.read_bytes()
            assert copy.stat().st_mtime_ns == path.stat().st_mtime_ns


def test_asyncbackup_saves_verifies_and_restores(server: LocalServer, tmp_path: Path) -> None:
    server.drop("ours")
    server.create("ours")
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / f"{number}.txt").write_bytes(os.urandom(number * 100))
    (tree / "large").write_bytes(PART * 4)
    config = tmp_path / "asyncbackup.toml"
    config.write_text(
        f'state_dir = "{tmp_path}/state"\n[s3]\nendpoint_url = "{server.url}"\nregion = "us-east-1"\n'
        f'[sections.tree]\npath = "{tree}"\ndestination = "s3://ours/backups"\n'
    )
    summaries = {}
    for words in (["initdb"], ["run"], ["run"], ["verify"], ["restore", "--target", str(tmp_path / "back")]):
        done = subprocess.run(
            [sys.executable, "-m", "asyncbackup", "-c", str(config), "--json", *words],
            check=True,
            capture_output=True,
        )
        summaries[words[0]] = json.loads(done.stdout.splitlines()[-1])
    assert summaries["run"]["files_unchanged"] == 21
    for path in tree.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()
