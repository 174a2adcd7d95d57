"""The way to an endpoint: name, connection, TLS, clocks."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
import urllib.request
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from asyncbackup.doctor.findings import Finding, note, ok, problem
from asyncbackup.units import format_duration

CONNECT_SECONDS = 10.0
REFUSED_SKEW_SECONDS = 15 * 60
"""Signatures of clocks that differ by more are refused."""
NOTED_SKEW_SECONDS = 2 * 60
CERTIFICATE_DAYS = 14


async def examine_way(endpoint_url: str) -> list[Finding]:
    """Resolve, connect, and ask for the time. After the first problem nothing more is tried."""
    parts = urlsplit(endpoint_url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    if proxy := _proxy(parts.scheme, host):
        return [
            note("connection", f"requests go through the proxy {proxy}; the way behind it is not looked at")
        ]
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        return [
            problem(
                "dns", f"{host} cannot be resolved: {_reason(error)}", "check endpoint_url, region and DNS"
            )
        ]
    found = [ok("dns", f"{host} is {', '.join(sorted({str(each[4][0]) for each in addresses})[:4])}")]
    context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE")) if secure else None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            began = time.monotonic()
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            took = time.monotonic() - began
    except ssl.SSLCertVerificationError as error:
        advice = "set the machine's clock, install the endpoint's CA, or name it in AWS_CA_BUNDLE"
        return [
            *found,
            problem("tls", f"the certificate of {host} is not valid: {error.verify_message}", advice),
        ]
    except ssl.SSLError as error:
        advice = "is the port right, and https:// what it speaks?"
        return [*found, problem("tls", f"no TLS with {host}:{port}: {error.reason}", advice)]
    except (OSError, TimeoutError) as error:
        advice = "check endpoint_url, the firewall, and that the server runs"
        return [*found, problem("connection", f"no connection to {host}:{port}: {_reason(error)}", advice)]
    try:
        found.append(ok("connection", f"{host}:{port} answers after {took * 1000:.0f} ms"))
        found.append(_tls(writer) if secure else _plain(host))
        found += await _clocks(reader, writer, host)
    finally:
        writer.close()
    return found


def _proxy(scheme: str, host: str) -> str:
    proxies = urllib.request.getproxies()
    found = proxies.get(scheme, "")
    bypassed = bool(found) and urllib.request.proxy_bypass(host)
    # Without what may be a password before the host.
    return "" if not found or bypassed else found.rpartition("@")[2]


def _tls(writer: asyncio.StreamWriter) -> Finding:
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = connection.getpeercert() or {}
    expires = str(certificate.get("notAfter", ""))
    days = (ssl.cert_time_to_seconds(expires) - time.time()) / 86400 if expires else float("inf")
    if days < CERTIFICATE_DAYS:
        return note("tls", f"the certificate ends in {days:.0f} days", "have it renewed")
    return ok("tls", f"{connection.version()}, the certificate is valid")


def _plain(host: str) -> Finding:
    if host in {"localhost", "::1"} or host.startswith("127."):
        return ok("tls", "plain http, on this machine alone")
    return note("tls", "plain http: everybody on the way can read along", "use https://")


async def _clocks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> list[Finding]:
    request = f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            before = time.time()
            writer.write(request.encode("ascii"))
            head = await reader.readuntil(b"\r\n\r\n")
            now = (before + time.time()) / 2
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, UnicodeError):
        return [note("clock", f"{host} does not answer a plain HTTP request")]
    return [clock_finding(head, now)]


def clock_finding(head: bytes, now: float) -> Finding:
    """How far the clocks are apart, by the ``Date`` of an answer's head."""
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "date":
            try:
                skew = now - parsedate_to_datetime(value.strip()).timestamp()
            except ValueError:
                break
            return _skew(skew)
    return note("clock", "the endpoint does not tell its time")


def _skew(skew: float) -> Finding:
    side = "ahead of" if skew > 0 else "behind"
    text = f"this machine's clock is {format_duration(abs(skew))} {side} the endpoint's"
    advice = "set the clock (timedatectl set-ntp true)"
    if abs(skew) > REFUSED_SKEW_SECONDS:
        return problem("clock", text, advice)
    if abs(skew) > NOTED_SKEW_SECONDS:
        return note("clock", text, advice)
    return ok("clock", "this machine's clock and the endpoint's agree")


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {CONNECT_SECONDS:.0f} s"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
