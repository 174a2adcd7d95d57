"""Logging to stderr: levels, safe text, and no secret at any level."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Final

from asyncbackup.text import terminal_text

if TYPE_CHECKING:
    from typing import TextIO

REDACTED: Final = "***"

# These write whole requests, signatures included, at DEBUG.
_TALKATIVE: Final = ("botocore", "aiobotocore", "aiohttp", "urllib3", "boto3", "s3transfer", "aioboto3")

_SECRET_VARIABLES: Final = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_ACCESS_KEY_ID",
)
_MIN_SECRET_LENGTH = 8

_PATTERNS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Headers as text, bytes, repr of a dict, or a list of pairs.
        r"(authorization|x-amz-security-token|x-amz-server-side-encryption-customer-key|cookie)"
        r"""(b?['"]?\s*[:=,]\s*\(?b?['"]?)([^'"\r\n}]+)""",
        r"""(x-amz-(?:signature|credential|security-token))(=|%3D)([^&\s'"]+)""",
        r"""((?:aws_?)?(?:secret_?access_?key|session_?token|secret_?key))(['"]?\s*[:=]\s*b?['"]?)([^'",\s)}]+)""",
        r"(AWS4-HMAC-SHA256)(\s+)(\S.*)",
        r"""(signature)(=)([0-9a-f]{16,})""",
        r"""(://[^/\s:@'"]*)(:)([^/\s@'"]+)(?=@)""",
    )
)


def configure_logging(level: int) -> None:
    """Send records of ``level`` and above to stderr; what was set up before by this function is replaced."""
    handler = _StderrHandler()
    detailed = level <= logging.DEBUG
    handler.setFormatter(SafeFormatter(detailed=detailed))
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if isinstance(each, _StderrHandler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def redact(text: str) -> str:
    """``text`` without credentials, signatures and signed headers."""
    for variable in _SECRET_VARIABLES:
        value = os.environ.get(variable, "")
        if len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, REDACTED)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\1\2{REDACTED}", text)
    return text


class SafeFormatter(logging.Formatter):
    """Formats a record on one line (a traceback on its own), redacted, with control characters shown."""

    def __init__(self, *, detailed: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s" if detailed else "%(message)s")
        self._detailed = detailed

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        """The message on one line: a name with a line end in it cannot forge a second one."""
        record.message = terminal_text(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """The record as text that is safe to print."""
        text = super().format(record)
        if not self._detailed:
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            text = f"asyncbackup: {level}{text}"
        return terminal_text(redact(text), keep_newlines=True)


class _StderrHandler(logging.StreamHandler["TextIO"]):
    """Writes to what ``sys.stderr`` is at that moment: a live display puts itself there."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr
