"""Patterns of ``find``: shell patterns of a name, or of a whole path."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from asyncbackup.errors import ConfigError

PathTest: TypeAlias = Callable[[bytes], bool]


def compile_glob(pattern: str, *, ignore_case: bool = False) -> PathTest:
    """Whether a path matches.

    Without a ``/`` the pattern is of an entry's name, wherever it lies; with
    one it is of its whole path, relative to the section's root (a leading
    ``/`` says the same for a single name). ``*`` and ``?`` do not match a
    ``/``; ``**`` as a whole segment stands for any number of folders, also
    none; ``[a-z]`` and ``[!a-z]`` are sets, a backslash makes the next
    character ordinary. A ``/`` at the end is dropped.

    Raises ``ConfigError`` for a pattern that cannot match anything.
    """
    whole = pattern.rstrip("/")
    of_path = "/" in whole
    segments = whole.lstrip("/").split("/")
    if not whole or "" in segments:
        raise ConfigError(
            f"the pattern {pattern!r} names nothing; patterns are like '*.pdf' or 'docs/**/*.pdf'"
        )
    pieces: list[str] = []
    for place, segment in enumerate(segments):
        last = place == len(segments) - 1
        if segment == "**" and of_path:
            pieces.append(".*" if last else "(?:[^/]+/)*")
        else:
            pieces.append(_segment(segment, pattern) + ("" if last else "/"))
    # Names are bytes: each byte that is no UTF-8 is one character to the pattern.
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    try:
        test = re.compile("".join(pieces), flags).fullmatch
    except re.error as error:
        raise ConfigError(f"the pattern {pattern!r} cannot be used: {error}") from None

    def matches(path: bytes) -> bool:
        if not path:
            return False  # patterns name what is below the root
        text = (path if of_path else path.rpartition(b"/")[2]).decode(errors="surrogateescape")
        return test(text) is not None

    return matches


def _segment(segment: str, pattern: str) -> str:
    """The regular expression of one segment."""
    pieces: list[str] = []
    place = 0
    while place < len(segment):
        character = segment[place]
        place += 1
        match character:
            case "*":
                pieces.append("[^/]*")
            case "?":
                pieces.append("[^/]")
            case "[" if (
                end := segment.find("]", place + 2 if segment[place : place + 1] == "!" else place + 1)
            ) > 0:
                pieces.append(_set(segment[place:end]))
                place = end + 1
            case "\\":
                if place == len(segment):
                    raise ConfigError(
                        f"the pattern {pattern!r} ends in a backslash, which makes nothing ordinary"
                    )
                pieces.append(re.escape(segment[place]))
                place += 1
            case _:
                pieces.append(re.escape(character))
    return "".join(pieces)


def _set(inside: str) -> str:
    negated = inside.startswith("!")
    members = inside[1:] if negated else inside
    # A hyphen between two characters is a range; everything else stands for itself.
    escaped = "".join("-" if c == "-" else re.escape(c) for c in members)
    return f"(?!/)[{'^' if negated else ''}{escaped}]"
