"""Where the secret of an encrypted section comes from, and that it shows itself nowhere."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncbackup.config import EncryptionSettings
from asyncbackup.errors import ConfigError, KeyUnlockError
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.repository.secrets import SECRET_LIMIT_BYTES, Secret, read_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CANARY = "canary-4f1d"


@pytest.fixture
def threads() -> Iterator[ThreadGate]:
    gate = ThreadGate("test", 1)
    yield gate
    gate.close()


async def read(
    threads: ThreadGate,
    settings: EncryptionSettings,
    *,
    environ: Mapping[str, str] | None = None,
    timeout_seconds: float = 30,
) -> Secret:
    return await read_secret(
        settings, section="home", threads=threads, environ=environ, command_timeout_seconds=timeout_seconds
    )


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        (b"correct horse", b"correct horse"),
        (b"correct horse\n", b"correct horse"),
        (b"correct horse\r\n", b"correct horse"),
        (b" spaces stay \nsecond line\n", b" spaces stay "),
        ("Käsebrot\n".encode(), "Käsebrot".encode()),
        (b"\xff\xfe\n", b"\xff\xfe"),
    ],
)
async def test_a_pass_phrase_is_the_first_line_of_its_file(
    tmp_path: Path, threads: ThreadGate, caplog: pytest.LogCaptureFixture, content: bytes, passphrase: bytes
) -> None:
    path = private_file(tmp_path / "passphrase", content)
    secret = await read(threads, EncryptionSettings(enabled=True, passphrase_file=path))
    assert secret.passphrase == passphrase
    assert secret.key_file is None
    assert not caplog.records


async def test_a_file_that_others_may_read_is_warned_about(
    tmp_path: Path, threads: ThreadGate, caplog: pytest.LogCaptureFixture
) -> None:
    path = private_file(tmp_path / "pass phrase", CANARY.encode())
    path.chmod(0o640)
    with caplog.at_level(logging.WARNING):
        await read(threads, EncryptionSettings(enabled=True, passphrase_file=path))
    assert f"chmod 600 '{path}'" in caplog.text
    assert "0640" in caplog.text
    assert CANARY not in caplog.text


async def test_a_pipe_is_read_without_a_warning(
    threads: ThreadGate, caplog: pytest.LogCaptureFixture
) -> None:
    receiving, sending = os.pipe()
    try:
        os.write(sending, b"from a pipe\n")
        os.close(sending)
        path = Path(f"/dev/fd/{receiving}")
        secret = await read(threads, EncryptionSettings(enabled=True, passphrase_file=path))
    finally:
        os.close(receiving)
    assert secret.passphrase == b"from a pipe"
    assert not caplog.records


async def test_a_variable_holds_a_pass_phrase(threads: ThreadGate) -> None:
    settings = EncryptionSettings(enabled=True, passphrase_env="BACKUP_SECRET")
    assert (await read(threads, settings, environ={"BACKUP_SECRET": "horse"})).passphrase == b"horse"
    raw = {"BACKUP_SECRET": os.fsdecode(b"\xff")}
    assert (await read(threads, settings, environ=raw)).passphrase == b"\xff"


async def test_a_command_prints_a_pass_phrase_and_no_shell_runs_it(threads: ThreadGate) -> None:
    command = f"{sys.executable} -c 'import sys; print(sys.argv[1]); print(2)' '$HOME; echo x'"
    secret = await read(threads, EncryptionSettings(enabled=True, passphrase_command=command))
    assert secret.passphrase == b"$HOME; echo x"


async def test_a_command_has_no_input_to_wait_for(threads: ThreadGate) -> None:
    command = f"{sys.executable} -c 'import sys; print(len(sys.stdin.read()))'"
    secret = await read(threads, EncryptionSettings(enabled=True, passphrase_command=command))
    assert secret.passphrase == b"0"


async def test_a_key_file_is_taken_byte_for_byte(tmp_path: Path, threads: ThreadGate) -> None:
    content = bytes(range(31)) + b"\n"
    path = private_file(tmp_path / "key", content)
    secret = await read(threads, EncryptionSettings(enabled=True, key_file=path))
    assert secret.key_file == content
    assert secret.passphrase is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (EncryptionSettings(enabled=True), "sections.home.encryption is enabled.*passphrase_file"),
        (
            EncryptionSettings(enabled=True, passphrase_file=Path("/nonexistent/x")),
            "home.encryption.passphrase_file: cannot read /nonexistent/x: No such file",
        ),
        (
            EncryptionSettings(enabled=True, passphrase_file=Path("/")),
            "passphrase_file: cannot read /: Is a directory",
        ),
        (
            EncryptionSettings(enabled=True, passphrase_env="UNSET_HERE"),
            "passphrase_env: the environment variable UNSET_HERE is not set",
        ),
        (
            EncryptionSettings(enabled=True, passphrase_command="/nonexistent/pass show"),
            "passphrase_command: cannot run '/nonexistent/pass': No such file",
        ),
        (EncryptionSettings(enabled=True, passphrase_command="pass 'show"), "passphrase_command: No closing"),
        (EncryptionSettings(enabled=True, passphrase_command="  "), "passphrase_command is empty"),
        (EncryptionSettings(enabled=True, passphrase_command="true"), r"passphrase_command: .*is empty"),
    ],
)
async def test_what_cannot_work_names_the_setting(
    threads: ThreadGate, settings: EncryptionSettings, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        await read(threads, settings, environ={"PATH": "/bin"})


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\nsecond line"])
async def test_an_empty_first_line_is_refused(tmp_path: Path, threads: ThreadGate, content: bytes) -> None:
    path = private_file(tmp_path / "passphrase", content)
    with pytest.raises(ConfigError, match=r"passphrase_file: the first line of .* is empty"):
        await read(threads, EncryptionSettings(enabled=True, passphrase_file=path))


@pytest.mark.parametrize("size", [0, 31, 33, SECRET_LIMIT_BYTES + 1])
async def test_a_key_file_of_another_size_is_refused(tmp_path: Path, threads: ThreadGate, size: int) -> None:
    path = private_file(tmp_path / "key", b"k" * size)
    with pytest.raises(ConfigError, match="key_file: "):
        await read(threads, EncryptionSettings(enabled=True, key_file=path))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"import sys; print({CANARY!r}); sys.exit(3)", "failed with exit status 3"),
        (f"import os; print({CANARY!r}, flush=True); os.kill(os.getpid(), 9)", "failed with signal 9"),
        (f"print({CANARY!r} * 10_000)", "printed more than"),
        (f"import time; print({CANARY!r}, flush=True); time.sleep(600)", "did not end within 1 s"),
    ],
)
async def test_a_command_that_fails_is_named_and_its_output_is_not(
    threads: ThreadGate, script: str, said: str
) -> None:
    command = f'{sys.executable} -c "{script}"'
    timeout_seconds = 1 if "sleep" in script else 30
    with pytest.raises(KeyUnlockError, match=said) as caught:
        await read(
            threads,
            EncryptionSettings(enabled=True, passphrase_command=command),
            timeout_seconds=timeout_seconds,
        )
    assert CANARY not in str(caught.value)


async def test_a_cancelled_command_is_ended(tmp_path: Path, threads: ThreadGate) -> None:
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    script = f"import os, time; open('{fifo}', 'w').write(str(os.getpid())); time.sleep(600)"
    settings = EncryptionSettings(enabled=True, passphrase_command=f'{sys.executable} -c "{script}"')
    task = asyncio.create_task(read(threads, settings))
    pid = int(await threads.run(fifo.read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_secret_does_not_show_itself() -> None:
    for secret in (
        Secret(origin="sections.home.encryption.key_file", key_file=CANARY.encode()),
        Secret(origin="sections.home.encryption.key_file", passphrase=CANARY.encode()),
    ):
        shown = f"{secret!r} {secret}"
        assert CANARY not in shown
        assert "sections.home.encryption.key_file" in shown
