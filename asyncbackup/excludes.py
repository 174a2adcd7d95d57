"""Which paths a section leaves out: gitignore patterns, matched as git does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

from asyncbackup.errors import ConfigError

Excludes: TypeAlias = Callable[[bytes, bool], bool]
"""Whether a path (relative to the section's root) is left out; the flag says that it is a folder."""


def compile_excludes(patterns: Sequence[str], *, section: str) -> Excludes:
    """The patterns as one test. A folder that is left out is not entered, so nothing below it can be
    taken back by a later ``!`` pattern. Raises ``ConfigError`` that names the pattern."""
    if not patterns:
        return exclude_nothing
    import pathspec

    for pattern in patterns:
        try:
            pathspec.GitIgnoreSpec.from_lines([pattern])
        except (ValueError, TypeError) as error:
            raise ConfigError(f"section {section!r}: exclude pattern {pattern!r}: {error}") from error
    spec = pathspec.GitIgnoreSpec.from_lines(patterns)

    def matches(path: bytes, is_folder: bool) -> bool:
        # The library's expressions take a newline for the end of the name; NUL is in no name.
        text = os.fsdecode(path).replace("\n", "\0")
        return spec.match_file(text + "/" if is_folder else text)

    return matches


def exclude_nothing(_: bytes, __: bool) -> bool:
    """What no patterns are compiled to; whoever has many paths need not ask it."""
    return False
