"""Exit codes: what each means, which error ends in which, and which of several wins."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from asyncbackup.errors import ConfigError, Interrupted, SectionBusyError


class ExitCode(enum.IntEnum):
    """The codes of docs/operations.md; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3
    DAMAGED = 4
    BUSY = 5
    INTERRUPTED = 130


MEANING: Final = {
    ExitCode.OK: "everything was saved, restored, verified",
    ExitCode.FAILED: "failed; nothing new was committed",
    ExitCode.USAGE: "the command line or the configuration is wrong",
    ExitCode.INCOMPLETE: "done, but some files could not be read or were changing; each is named",
    ExitCode.DAMAGED: "verify found damage, or restore could not restore all",
    ExitCode.BUSY: "another run holds the section",
    ExitCode.INTERRUPTED: "interrupted; the next run goes on from there",
}

# From the most to the least urgent: what ended early hides how far the rest came.
_SEVERITY: Final = (
    ExitCode.INTERRUPTED,
    ExitCode.USAGE,
    ExitCode.FAILED,
    ExitCode.DAMAGED,
    ExitCode.BUSY,
    ExitCode.INCOMPLETE,
    ExitCode.OK,
)


def code_of(error: BaseException) -> ExitCode:
    """The code of a command that ``error`` ended."""
    match error:
        case ConfigError():
            return ExitCode.USAGE
        case SectionBusyError():
            return ExitCode.BUSY
        case Interrupted() | KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case _:
            return ExitCode.FAILED


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """The code of a command that did several things; ``OK`` for none."""
    return min(codes, key=_SEVERITY.index, default=ExitCode.OK)


def first_cause(error: BaseException) -> BaseException:
    """The error that matters of a group that a task group raised: the most urgent of its leaves."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return min(
        (first_cause(inner) for inner in error.exceptions),
        key=lambda inner: (isinstance(inner, Exception), _SEVERITY.index(code_of(inner))),
    )
