"""Readers of single configuration values: each gives the value back, or raises ``ValueError``
with what is accepted instead.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncbackup.units import SIZE_EXAMPLES, format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


DEFAULT_ZSTD_LEVEL: Final = 1
MAX_ZSTD_LEVEL: Final = 19
"""Higher ones need windows that a bounded reader refuses."""

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def path_in(folder: Path) -> Callable[[str], Path]:
    """Paths, with ``~`` expanded; relative ones begin at ``folder``."""

    def read(text: str) -> Path:
        if not text or "\0" in text:
            raise ValueError("accepted is the path of a file or folder")
        expanded = os.path.expanduser(text)
        if expanded.startswith("~"):
            raise ValueError(f"there is no user {text.split('/', 1)[0][1:]!r}; './{text}' is a path as it is")
        return Path(os.path.normpath(folder / expanded))

    return read


def size_between(low: int, high: int) -> Callable[[object], int]:
    """Sizes in bytes, as a whole number or a string with a unit."""
    bounds = f"from {format_size(low)} to {format_size(high)}"

    def read(value: object) -> int:
        if type(value) is int:
            size = value
        elif isinstance(value, str):
            try:
                size = parse_size(value)
            except ValueError as error:
                raise ValueError(f"{error}; accepted are sizes {bounds}") from None
        else:
            raise ValueError(f"accepted are sizes {bounds}, written like {SIZE_EXAMPLES}")
        if not low <= size <= high:
            raise ValueError(f"accepted are sizes {bounds}")
        return size

    return read


def one_of(*accepted: str, later: Mapping[str, str] = {}) -> Callable[[str], str]:
    """One of some words. ``later`` are words of a future version, with what to say about each."""

    def read(text: str) -> str:
        if text in later:
            raise ValueError(later[text])
        if text not in accepted:
            import difflib

            close = difflib.get_close_matches(text.casefold(), [word.casefold() for word in accepted], n=1)
            hint = next((f"did you mean {word!r}? " for word in accepted if [word.casefold()] == close), "")
            raise ValueError(f"{hint}accepted {'is' if len(accepted) == 1 else 'are'} {', '.join(accepted)}")
        return text

    return read


def zstd_level(text: str) -> int:
    """The level that ``"none"`` (0), ``"zstd"`` or ``"zstd:9"`` names."""
    if text == "none":
        return 0
    name, colon, level = text.partition(":")
    if name == "zstd" and not colon:
        return DEFAULT_ZSTD_LEVEL
    if name == "zstd" and re.fullmatch(r"[1-9]\d?", level, re.ASCII) and int(level) <= MAX_ZSTD_LEVEL:
        return int(level)
    raise ValueError(f'accepted are "none", "zstd", and "zstd:1" to "zstd:{MAX_ZSTD_LEVEL}"')


def not_empty(text: str) -> str:
    """Any string with something in it."""
    if not text.strip():
        raise ValueError("accepted is a string that is not empty; leave the key out instead")
    return text


def environment_name(text: str) -> str:
    """The name of an environment variable; the message does not repeat what may be a secret."""
    if not _ENVIRONMENT_NAME.fullmatch(text):
        raise ValueError("accepted is the name of an environment variable, not its value")
    return text


def check_pattern(pattern: str) -> None:
    """A gitignore pattern."""
    # Loaded here: most configurations and commands need no patterns.
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([pattern])
    except ValueError as error:
        raise ValueError(f"this is no gitignore pattern: {error}") from None
