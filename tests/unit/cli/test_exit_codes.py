"""Which error ends in which code, and which of several codes wins."""

from __future__ import annotations

import itertools

import pytest

from asyncbackup.cli.exit_codes import MEANING, ExitCode, code_of, first_cause, worst
from asyncbackup.cli.output import describe
from asyncbackup.errors import (
    AccessDeniedError,
    AsyncBackupError,
    CatalogMissingError,
    ConfigError,
    FormatError,
    Interrupted,
    SectionBusyError,
    SourceGuardError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AsyncBackupError("x"), 1),
        (CatalogMissingError("x"), 1),
        (SourceGuardError("x"), 1),
        (FormatError("x"), 1),
        (AccessDeniedError("PutObject", "key", "no"), 1),
        (OSError("x"), 1),
        (RuntimeError("x"), 1),
        (ConfigError("x"), 2),
        (SectionBusyError("x"), 5),
        (Interrupted("x"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_code_of_an_error(error: BaseException, code: int) -> None:
    assert code_of(error) == code


def test_every_code_has_a_meaning() -> None:
    assert [int(code) for code in MEANING] == [0, 1, 2, 3, 4, 5, 130]


def test_the_worst_code_wins_in_any_order() -> None:
    order = [130, 2, 1, 4, 5, 3, 0]
    for one, other in itertools.combinations(order, 2):
        assert worst([ExitCode(one), ExitCode(other)]) == one
        assert worst([ExitCode(other), ExitCode(one)]) == one
    assert worst([]) == 0


def test_the_cause_of_a_group_is_its_most_urgent_leaf() -> None:
    busy, broken, stop = SectionBusyError("busy"), ValueError("broken"), Interrupted("stop")
    assert first_cause(ExceptionGroup("", [busy, broken])) is broken
    assert first_cause(ExceptionGroup("", [ExceptionGroup("", [busy]), stop, broken])) is stop
    assert first_cause(busy) is busy
    assert first_cause(BaseExceptionGroup("", [busy, KeyboardInterrupt()])).__class__ is KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("a sentence"), "a sentence"),
        (Interrupted(), "interrupted; the next run goes on from here"),
        (FileNotFoundError(2, "No such file or directory", "/a\nb"), "'/a\\nb': No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("odd"), "unexpected ValueError: odd; --debug shows where"),
        (ConfigError("Authorization: canary"), "Authorization: ***"),
    ],
)
def test_the_sentence_of_an_error(error: BaseException, text: str) -> None:
    assert describe(error) == text
