"""Reading the secret of an encrypted section from where the configuration says it lies.

A secret leaves this module only inside a :class:`Secret`, whose ``repr`` shows
where it came from and nothing of what it is. No error and no log line holds
any part of it, nor the output of a pass phrase command.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import stat
from typing import TYPE_CHECKING

from asyncbackup.errors import ConfigError, KeyUnlockError
from asyncbackup.format.keyslots import KEY_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from asyncbackup.config import EncryptionSettings
    from asyncbackup.flow.workers import ThreadGate

log = logging.getLogger(__name__)

SECRET_LIMIT_BYTES = 64 * 1024
"""More than this is no secret but the wrong file."""

COMMAND_TIMEOUT_SECONDS = 120.0
"""Long enough to type a PIN into a dialogue, short enough for a nightly run to notice."""

_KILL_TIMEOUT_SECONDS = 5.0


class Secret:
    """The secret of one section: a pass phrase or the content of a key file, and the setting it came from.

    Exactly one of ``passphrase`` and ``key_file`` is set.
    """

    __slots__ = ("key_file", "origin", "passphrase")

    def __init__(
        self, *, origin: str, passphrase: bytes | None = None, key_file: bytes | None = None
    ) -> None:
        if (passphrase is None) == (key_file is None):
            raise ValueError("a secret is either a pass phrase or a key file")
        self.origin = origin
        self.passphrase = passphrase
        self.key_file = key_file

    def __repr__(self) -> str:
        return f"<Secret from {self.origin}>"


async def read_secret(
    encryption: EncryptionSettings,
    *,
    section: str,
    threads: ThreadGate,
    environ: Mapping[str, str] | None = None,
    command_timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
) -> Secret:
    """The secret that ``sections.SECTION.encryption`` names.

    A pass phrase is the first line of the file, of the command's output or of
    the variable, without its line end. ``environ`` is the process's own unless
    given. Files that others may read are warned about.

    Raises ``ConfigError`` where the setting cannot work, ``KeyUnlockError``
    where a command failed or took longer than ``command_timeout_seconds``.
    """
    where = f"sections.{section}.encryption"
    secret = await _read_source(
        encryption,
        lambda source: f"{where}.{source}",
        threads=threads,
        environ=environ,
        command_timeout_seconds=command_timeout_seconds,
    )
    if secret is None:
        raise ConfigError(
            f"{where} is enabled, but names no secret; set one of passphrase_file, passphrase_env, "
            "passphrase_command or key_file"
        )
    return secret


async def read_new_secret(
    sources: EncryptionSettings,
    *,
    threads: ThreadGate,
    environ: Mapping[str, str] | None = None,
    command_timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
) -> Secret | None:
    """The secret that ``key add`` and ``key rotate`` are given by ``--new-…`` options, ``None`` without.

    ``sources`` holds the options' values. Everything else is as with :func:`read_secret`.
    """
    return await _read_source(
        sources,
        lambda source: f"--new-{source.replace('_', '-')}",
        threads=threads,
        environ=environ,
        command_timeout_seconds=command_timeout_seconds,
    )


async def _read_source(
    encryption: EncryptionSettings,
    named: Callable[[str], str],
    *,
    threads: ThreadGate,
    environ: Mapping[str, str] | None,
    command_timeout_seconds: float,
) -> Secret | None:
    """The secret of the one source that is set; ``named`` tells what the user calls it."""
    if encryption.passphrase_file is not None:
        setting = named("passphrase_file")
        content = await threads.run(_read_file, encryption.passphrase_file, setting)
        return _passphrase(content, setting, f"the first line of {encryption.passphrase_file}")
    if encryption.passphrase_env:
        setting = named("passphrase_env")
        value = (os.environ if environ is None else environ).get(encryption.passphrase_env)
        if value is None:
            raise ConfigError(
                f"{setting}: the environment variable {encryption.passphrase_env} is not set; "
                f"export it, or use {named('passphrase_file').rpartition('.')[2]}"
            )
        return _passphrase(os.fsencode(value), setting, f"the variable {encryption.passphrase_env}")
    if encryption.passphrase_command:
        setting = named("passphrase_command")
        output = await _command_output(
            encryption.passphrase_command, setting, timeout_seconds=command_timeout_seconds
        )
        return _passphrase(output, setting, "the first line that the command printed")
    if encryption.key_file is not None:
        setting = named("key_file")
        content = await threads.run(_read_file, encryption.key_file, setting)
        if len(content) != KEY_FILE_BYTES:
            raise ConfigError(
                f"{setting}: {encryption.key_file} holds {len(content)} bytes, a key file holds exactly "
                f"{KEY_FILE_BYTES} random ones; 'head -c {KEY_FILE_BYTES} /dev/urandom' makes them"
            )
        return Secret(origin=setting, key_file=content)
    return None


def names_secret(encryption: EncryptionSettings) -> bool:
    """Whether the settings name a secret: also a section that is not encrypted any more may, to read
    what was sealed before."""
    return bool(
        encryption.passphrase_file
        or encryption.passphrase_env
        or encryption.passphrase_command
        or encryption.key_file
    )


def typed_secret(text: str) -> Secret:
    """A pass phrase that was typed at a prompt. Raises ``ConfigError`` for one that no file could hold."""
    passphrase = text.encode(errors="surrogateescape")
    if not passphrase or b"\n" in passphrase:
        raise ConfigError("a pass phrase is one line, and not empty")
    return Secret(origin="the new pass phrase", passphrase=passphrase)


def _passphrase(content: bytes, setting: str, what: str) -> Secret:
    line = content.split(b"\n", 1)[0].removesuffix(b"\r")
    if not line:
        raise ConfigError(f"{setting}: {what} is empty; put the pass phrase there")
    return Secret(origin=setting, passphrase=line)


def _read_file(path: Path, setting: str) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(SECRET_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{setting}: cannot read {path}: {error.strerror}; check the path and its permissions"
        ) from error
    if len(content) > SECRET_LIMIT_BYTES:
        raise ConfigError(
            f"{setting}: {path} has over {SECRET_LIMIT_BYTES} bytes; name the file that holds the secret"
        )
    # Pipes and descriptors (/dev/fd/3) have no permissions of their own.
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        log.warning(
            "%s: %s can be read by others (mode %04o); 'chmod 600 %s' keeps it private",
            setting,
            path,
            stat.S_IMODE(status.st_mode),
            shlex.quote(str(path)),
        )
    return content


async def _command_output(command: str, setting: str, *, timeout_seconds: float) -> bytes:
    """What ``command`` printed. Its standard error goes to ours, so that the user sees what it says."""
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}; quote it as in a shell") from None
    if not arguments:
        raise ConfigError(f"{setting} is empty; name a command that prints the pass phrase")
    program = arguments[0]
    try:
        child = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            limit=SECRET_LIMIT_BYTES,
        )
    except OSError as error:
        raise ConfigError(
            f"{setting}: cannot run {program!r}: {error.strerror}; no shell runs it, so name a program, "
            "with its path where it is not in PATH"
        ) from error
    assert child.stdout is not None
    try:
        async with asyncio.timeout(timeout_seconds):
            output = await child.stdout.read(SECRET_LIMIT_BYTES)
            while more := await child.stdout.read(SECRET_LIMIT_BYTES):
                output += more
                if len(output) > SECRET_LIMIT_BYTES:
                    raise KeyUnlockError(
                        f"{setting}: {program!r} printed more than {SECRET_LIMIT_BYTES} bytes; "
                        "it shall print the pass phrase and nothing else"
                    )
            status = await child.wait()
    except TimeoutError:
        raise KeyUnlockError(
            f"{setting}: {program!r} did not end within {timeout_seconds:g} s; "
            "try the command in a terminal: it must not wait for input"
        ) from None
    finally:
        await _reap(child)
    if status != 0:
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        raise KeyUnlockError(f"{setting}: {program!r} failed with {how}; try the command in a terminal")
    return output


async def _reap(child: asyncio.subprocess.Process) -> None:
    """Leave no process and no pipe behind, also when cancelled or timed out."""
    if child.returncode is not None:
        return
    child.kill()
    try:
        # Its own children may hold the pipe open; they are not ours to end.
        async with asyncio.timeout(_KILL_TIMEOUT_SECONDS):
            await child.wait()
    except TimeoutError:
        log.warning("the pass phrase command (process %d) did not end when killed", child.pid)
