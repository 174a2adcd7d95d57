"""What a command says: lines for people or JSON events on stdout, notes and errors on stderr.

With ``--json`` stdout holds one JSON object a line and nothing else.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.cli.exit_codes import ExitCode, code_of
from asyncbackup.config_table import ConfigFileError
from asyncbackup.errors import AsyncBackupError, Interrupted
from asyncbackup.logs import redact
from asyncbackup.text import terminal_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROGRAM = "asyncbackup"


def _write(data: bytes) -> None:
    """Write all of it to stdout, which without a buffer (``PYTHONUNBUFFERED``) may take a part at a time."""
    sys.stdout.flush()
    left = memoryview(data)
    while left:
        written = sys.stdout.buffer.write(left)
        if written is None:
            raise BlockingIOError("stdout takes nothing more at the moment")
        left = left[written:]
    sys.stdout.buffer.flush()


class Output:
    """Where a command writes to. ``quiet`` drops notes, never results or errors."""

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.json = json
        self.quiet = quiet

    def event(self, name: str, fields: Mapping[str, object]) -> None:
        """One JSON object on stdout; with ``--json`` only."""
        if self.json:
            self.events([{"event": name, **fields}])

    def events(self, objects: Iterable[Mapping[str, object]]) -> None:
        """Several JSON objects at once, written with one call; with ``--json`` only."""
        if self.json:
            _write(b"".join(msgspec.json.encode(fields) + b"\n" for fields in objects))

    def result(self, *lines: str) -> None:
        """Lines for people on stdout; nothing with ``--json``. The caller made them safe to print."""
        if not self.json and lines:
            text = "\n".join(lines) + "\n"
            _write(text.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))

    def note(self, text: str) -> None:
        """Something good to know, on stderr; nothing with ``--quiet``."""
        if not self.quiet:
            self._stderr(text)

    def warning(self, text: str) -> None:
        """Something that may need action, on stderr."""
        self._stderr(f"warning: {text}")

    def error(self, error: BaseException, *, section: str | None = None) -> ExitCode:
        """One line on stderr for each problem, and one event with ``--json``. Gives the exit code."""
        code = code_of(error)
        problems = error.problems if isinstance(error, ConfigFileError) else (describe(error),)
        self.problem(*problems, code=code, section=section)
        return code

    def problem(self, *problems: str, code: ExitCode, section: str | None = None) -> None:
        """Say what went wrong, as :meth:`error` does."""
        prefix = f"{section}: " if section else ""
        for problem in problems:
            fields: dict[str, object] = {"code": int(code), "message": problem}
            if section:
                fields["section"] = section
            self.event("error", fields)
            self._stderr(f"error: {prefix}{problem}")

    def _stderr(self, text: str) -> None:
        sys.stderr.write(f"{PROGRAM}: {terminal_text(text)}\n")
        sys.stderr.flush()


def describe(error: BaseException) -> str:
    """The sentence of an error. An error that nobody foresaw also gets its type's name."""
    return redact(_sentence(error))


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Interrupted) and not str(error):
        return "interrupted; the next run goes on from here"
    if isinstance(error, AsyncBackupError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename!r}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return f"unexpected {type(error).__name__}: {error}; --debug shows where"


def show_traceback(error: BaseException) -> None:
    """Where ``error`` came from, on stderr, without secrets."""
    trace = "".join(traceback.format_exception(error))
    sys.stderr.write(terminal_text(redact(trace), keep_newlines=True))


def make_streams_safe() -> None:
    """Never fail over a character that the locale's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        # Replaced streams (tests, embedding) may be of another kind.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
