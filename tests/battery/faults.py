"""Everything that an endpoint does wrong, as actions of the proxy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from tests.servers.proxy import (
    Action,
    answering,
    applied_but_answering,
    applied_unanswered,
    error_body,
    reset,
    silence,
)

if TYPE_CHECKING:
    from tests.servers.proxy import Exchange

HTML = b"<!DOCTYPE html><html><title>Hotel WLAN</title>Please log in</html>"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """``passing`` faults are survived where they happen once; of the others the command may end, with
    its reason. ``reading`` ones need an answer with content, ``listing`` ones that of a listing."""

    action: Action
    passing: bool = True
    reading: bool = False
    listing: bool = False
    only: str = ""


async def reset_in_mid_body(exchange: Exchange) -> None:
    """Half of the request's body, or where it has none, half of the answer's."""
    if exchange.request.length:
        await exchange.read_body(exchange.request.length // 2)
    else:
        response = await exchange.forward()
        await exchange.send(response.head + response.body[: len(response.body) // 2])
    exchange.reset()


async def short_body(exchange: Exchange) -> None:
    """The end of the answer is missing, and the connection closed in good order."""
    response = await exchange.forward()
    await exchange.send(response.head + response.body[: len(response.body) - len(response.body) // 3])
    exchange.reset()


async def extra_bytes(exchange: Exchange) -> None:
    """More comes than was asked for, and the header says so too."""
    response = await exchange.forward()
    head = re.sub(
        rb"(?i)content-length: \d+", b"Content-Length: %d" % (len(response.body) + 7), response.head
    )
    await exchange.send(head + response.body + b"surplus")


async def flipped_bit(exchange: Exchange) -> None:
    """One bit of the answer's body is another."""
    response = await exchange.forward()
    body = bytearray(response.body)
    body[len(body) // 2] ^= 4
    await exchange.send(response.head + bytes(body))


async def byte_by_byte(exchange: Exchange) -> None:
    """The answer comes in pieces of one byte."""
    response = await exchange.forward()
    for byte in response.head + response.body[:500]:
        await exchange.send(bytes([byte]))
    await exchange.send(response.body[500:])


async def looping_token(exchange: Exchange) -> None:
    """A page that says that there is more, and the token for it always leads back."""
    response = await exchange.forward()
    more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
    body = re.sub(rb"<IsTruncated>(true|false)</IsTruncated>", more, response.body)
    head = re.sub(rb"(?i)content-length: \d+", b"Content-Length: %d" % len(body), response.head)
    await exchange.send(head + body)


FAULTS: dict[str, Fault] = {
    "500": Fault(action=answering(500, error_body("InternalError"))),
    "503": Fault(action=answering(503, error_body("SlowDown"))),
    "403": Fault(action=answering(403, error_body("AccessDenied")), passing=False),
    "expired": Fault(action=answering(400, error_body("ExpiredToken")), passing=False),
    "skew": Fault(action=answering(403, error_body("RequestTimeTooSkewed")), passing=False),
    "digest": Fault(action=answering(400, error_body("BadDigest"))),
    "404": Fault(action=answering(404, error_body("NoSuchKey")), passing=False),
    "409": Fault(action=answering(409, error_body("OperationAborted"))),
    "412": Fault(action=answering(412, error_body("PreconditionFailed")), passing=False),
    "200 error": Fault(action=answering(200, error_body("InternalError"))),
    "html": Fault(action=answering(200, HTML, Content_Type="text/html")),
    "no such upload": Fault(
        action=applied_but_answering(404, error_body("NoSuchUpload")), only="CompleteMultipartUpload"
    ),
    "reset": Fault(action=reset),
    "mid-body": Fault(action=reset_in_mid_body),
    "unanswered": Fault(action=applied_unanswered),
    "silence": Fault(action=silence),
    "short": Fault(action=short_body, reading=True),
    # Of a file that is asked for again, of a manifest the end: nothing tells it from damage.
    "extra": Fault(action=extra_bytes, passing=False, reading=True),
    "bit": Fault(action=flipped_bit, passing=False, reading=True),
    "bytes": Fault(action=byte_by_byte),
    "loop": Fault(action=looping_token, passing=False, listing=True),
    "elsewhere": Fault(
        action=answering(307, error_body("TemporaryRedirect"), Location="https://192.0.2.1/x"), passing=False
    ),
    "to http": Fault(
        action=answering(301, error_body("PermanentRedirect"), Location="http://192.0.2.1/x"), passing=False
    ),
}
UNTOLD_BY_HEAD = {"digest", "409", "200 error", "html", "bit", "short", "extra"}
"""An answer to HEAD has no body, so neither an error code nor anything to damage."""


def applies(fault: str, operation: str) -> bool:
    """Whether a fault can happen to an operation."""
    what = FAULTS[fault]
    if what.only:
        return operation == what.only
    if what.listing:
        return operation.startswith("ListObjects")
    if operation == "HeadObject" and fault in UNTOLD_BY_HEAD:
        return False
    return not what.reading or operation == "GetObject"
