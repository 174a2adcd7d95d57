"""TLS: an endpoint that cannot prove who it is gets no request, and the message says why."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from asyncbackup.config import S3Settings
from asyncbackup.errors import StoreError
from asyncbackup.store.lean.pool import Origin, Pool
from asyncbackup.store.open import open_store
from tests.contract.backends import QUICK, digest, pattern

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
LARGE = pattern(5_000_017)


def certificate(folder: Path, host: str, *, ends: datetime.datetime) -> Path:
    """A PEM file with a self-signed certificate for ``host`` and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - 30 * DAY)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{host}.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@asynccontextmanager
async def tls_server(pem: Path, received: list[bytes]) -> AsyncIterator[str]:
    """An endpoint that answers every request with 404; what reached it is in ``received``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            received.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("host", "age", "trusted", "text"),
    [
        ("localhost", DAY, False, "certificate"),
        ("other.example.com", DAY, True, "[Hh]ostname mismatch|not valid for"),
        ("localhost", -DAY, True, "expired"),
    ],
    ids=["self-signed", "wrong host", "expired"],
)
async def test_certificates_that_prove_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    age: datetime.timedelta,
    trusted: bool,
    text: str,
    transfer: str,
) -> None:
    pem = certificate(tmp_path, host, ends=NOW + age)
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
    received: list[bytes] = []
    async with tls_server(pem, received) as url:
        s3 = S3Settings(endpoint_url=url, region="us-east-1", transfer=transfer)
        async with open_store("s3://bucket", s3=s3, concurrency=1, policy=QUICK) as store:
            with pytest.raises(StoreError, match=f"TLS to {url} failed: .*({text})") as caught:
                await store.put("key", b"secret", sha256=digest(b"secret"))
            assert store.requests["PutObject"] == 1, "a certificate is not tried twice"
        assert not caught.value.retryable
    assert received == []


async def test_a_certificate_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: str
) -> None:
    pem = certificate(tmp_path, "localhost", ends=NOW + DAY)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
    received: list[bytes] = []
    async with tls_server(pem, received) as url:
        s3 = S3Settings(endpoint_url=url, region="us-east-1", transfer=transfer)
        async with open_store("s3://bucket", s3=s3, concurrency=1, policy=QUICK) as store:
            with pytest.raises(StoreError, match="no such object"):
                await store.put("key", b"content", sha256=digest(b"content"))
    (head,) = received
    lines = head.lower().split(b"\r\n")
    assert f"x-amz-content-sha256: {digest(b'content').hex()}".encode() in lines
    assert not [
        line for line in lines if line.startswith((b"x-amz-trailer", b"transfer-encoding", b"expect"))
    ]


@pytest.mark.parametrize("trusted", [True, False])
def test_on_uvloop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: str, trusted: bool) -> None:
    """What the command runs on has a TLS of its own."""
    pem = certificate(tmp_path, "localhost", ends=NOW + DAY)
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
    received: list[bytes] = []
    large = bytes(3 * 1024 * 1024)

    async def put() -> None:
        async with tls_server(pem, received) as url:
            s3 = S3Settings(endpoint_url=url, region="us-east-1", transfer=transfer)
            async with open_store("s3://bucket", s3=s3, concurrency=1, policy=QUICK) as store:
                for body in (b"content", large):
                    with pytest.raises(StoreError, match="no such object" if trusted else "TLS to"):
                        await store.put("key", body, sha256=digest(body))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(put())
    assert len(received) == (2 if trusted else 0)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_large_body_is_received_into_the_callers_memory(
    tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    pem = certificate(tmp_path, "localhost", ends=NOW + DAY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LARGE) + LARGE)
                await writer.drain()
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        tls = ssl.create_default_context(cafile=pem)
        pool = Pool(Origin("localhost", port, tls), connect_seconds=30.0)
        buffer = memoryview(bytearray(1_000_000))
        for _ in range(2):
            connection = await pool.take()
            await connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", 0, expect=False, progress=lambda: None)
            await connection.head()
            body = bytearray()
            while len(body) < len(LARGE):
                counts: list[int] = []
                await connection.fill(buffer, counts.append)
                body += buffer[: sum(counts)]
            assert body == LARGE
            assert connection.reusable
            pool.give(connection)
            assert pool.open_count == 1
        await pool.aclose()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(test())
