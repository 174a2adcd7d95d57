"""What is logged: no secret, no control character, at any level."""

from __future__ import annotations

import logging

import pytest

from asyncbackup.logs import SafeFormatter, configure_logging, redact

CANARY = "canary0secret0canary"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: AWS4-HMAC-SHA256 Credential=AKIA/2026/us-east-1/s3/aws4_request, Signature={CANARY}",
        f"{{'Authorization': 'Bearer {CANARY}'}}",
        f"{{'Authorization': b'AWS4-HMAC-SHA256 {CANARY}'}}",
        f"(b'authorization', b'{CANARY}')",
        f"('X-Amz-Security-Token', '{CANARY}')",
        f"x-amz-security-token:{CANARY}",
        f"https://host/key?X-Amz-Signature={CANARY}&X-Amz-Date=1",
        f"https://host/key?X-Amz-Credential={CANARY}%2F2026",
        f"aws_secret_access_key = {CANARY}",
        f"AWS_SECRET_ACCESS_KEY={CANARY}",
        f"{{'SecretAccessKey': '{CANARY}'}}",
        f"{{'SessionToken': '{CANARY}'}}",
        f"https://user:{CANARY}@host/",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    assert CANARY not in redact(text)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"])
def test_credentials_of_the_environment_are_taken_out_wherever_they_stand(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, CANARY)
    assert redact(f"it was {CANARY}!") == "it was ***!"


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/prefix", "http://127.0.0.1:8333/x", "docs/secret-key.txt was saved", "12:30: took 3 s"],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def record(message: str, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "x", "levelno": level, "levelname": logging.getLevelName(level)} | {"msg": message} | extra
    )


def test_names_cannot_forge_lines() -> None:
    text = SafeFormatter(detailed=False).format(record("lost a\nasyncbackup: error: b\x1b[2K\u202e"))
    assert text == "asyncbackup: warning: lost a\\x0aasyncbackup: error: b\\x1b[2K\\u202e"


def test_tracebacks_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        raise ValueError(f"Authorization: {CANARY}")
    except ValueError as error:
        text = SafeFormatter(detailed=True).format(record("failed", exc_info=(ValueError, error, None)))
    assert "ValueError: Authorization: ***" in text


def test_the_clients_loggers_stay_quiet() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(logging.DEBUG)
        configure_logging(logging.DEBUG)
        assert len(root.handlers) == len(handlers) + 1
        assert logging.getLogger("asyncbackup.engine").isEnabledFor(logging.DEBUG)
        for name in ("botocore.auth", "aiobotocore.endpoint", "aiohttp.client", "urllib3"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
