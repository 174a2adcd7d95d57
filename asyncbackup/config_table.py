"""Reading one TOML table key by key, with errors that say where, what was found and what is accepted.

All problems of a file are collected, so that one look at the message mends
them all. A value is never shown where it could be a secret.
"""

from __future__ import annotations

import re
import sys
from datetime import date, time
from typing import TYPE_CHECKING, Final, TypeVar

from asyncbackup.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from asyncbackup.toml_lines import KeyPath

T = TypeVar("T")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_CREDENTIALS = re.compile(r"//[^/@]*@")
_MISSING: Final = object()
_SHOWN_LENGTH = 60


class ConfigFileError(ConfigError):
    """What is wrong with a configuration file: one sentence a problem, in the order of the lines."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Document:
    """Where the tables of one file report their problems."""

    def __init__(self, name: str, lines: Mapping[KeyPath, int]) -> None:
        self.name = name
        self._lines = lines
        self._problems: list[tuple[int, str]] = []

    def problem(self, path: KeyPath, text: str) -> None:
        """Note that the value at ``path`` is wrong; ``text`` says how and what is accepted."""
        line = self._line(path)
        where = f"{self.name}, line {line}" if line else self.name
        self._problems.append((line, f"{where}: {key_text(path)}: {text}"))

    def check(self) -> None:
        """Raises :class:`ConfigFileError` if anything was noted."""
        if self._problems:
            self._problems.sort(key=lambda problem: problem[0] or sys.maxsize)
            raise ConfigFileError(text for _, text in self._problems)

    def _line(self, path: KeyPath) -> int:
        # A missing key is reported at the table that lacks it.
        for length in range(len(path), 0, -1):
            if line := self._lines.get(path[:length]):
                return line
        return 0


class Table:
    """One table, taken apart key by key; what nobody asked for is an unknown key.

    Every reading method gives ``default`` after it noted a problem, so that
    reading goes on to the next key.
    """

    def __init__(
        self, document: Document, path: KeyPath, values: Mapping[str, object], *, secret: bool = False
    ) -> None:
        self._document = document
        self._values = values
        self._known: list[str] = []
        self._secret = secret
        self.path = path

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def has_misspelt(self, key: str) -> bool:
        """Whether one of the table's keys is nearly ``key``."""
        return any(_close(other, [key]) for other in self._values)

    def keys(self) -> list[str]:
        """All keys that the file has here."""
        return list(self._values)

    def problem(self, key: str | None, text: str) -> None:
        """Note a problem of ``key``, or of the table itself."""
        self._document.problem(self.path if key is None else (*self.path, key), text)

    def text(self, key: str, default: T, check: Callable[[str], T], *, accepted: str = "a string") -> T:
        """A string as ``check`` gives it back; ``check`` raises ``ValueError`` saying what is accepted."""
        value = self._take(key)
        if value is _MISSING:
            return default
        if not isinstance(value, str):
            return self._refuse(key, value, f"accepted is {accepted}", default)
        try:
            return check(value)
        except ValueError as error:
            return self._refuse(key, value, str(error), default)

    def flag(self, key: str, default: bool) -> bool:
        """``true`` or ``false``."""
        value = self._take(key)
        if value is _MISSING:
            return default
        if not isinstance(value, bool):
            return self._refuse(key, value, "accepted is true or false, without quotes", default)
        return value

    def whole(self, key: str, default: int, low: int, high: int, *, words: Mapping[str, int] = {}) -> int:
        """A whole number from ``low`` to ``high``, or one of ``words``, which stand for numbers."""
        value = self._take(key)
        if value is _MISSING:
            return default
        if isinstance(value, str) and value in words:
            return words[value]
        if type(value) is not int or not low <= value <= high:
            also = "".join(f", or {word!r}" for word in words)
            return self._refuse(key, value, f"accepted is a whole number from {low} to {high}{also}", default)
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number, with or without a fraction, from ``low`` to ``high``."""
        value = self._take(key)
        if value is _MISSING:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return self._refuse(key, value, f"accepted is a number from {low:g} to {high:g}", default)
        return float(value)

    def texts(self, key: str, check: Callable[[str], None], *, accepted: str) -> tuple[str, ...]:
        """An array of strings, each of which passes ``check``."""
        value = self._take(key)
        if value is _MISSING:
            return ()
        if not isinstance(value, list):
            return self._refuse(key, value, f"accepted is {accepted}", ())
        good: list[str] = []
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self._document.problem(
                    (*self.path, key, index), f"found {self._shown(item)}; accepted is {accepted}"
                )
                continue
            try:
                check(item)
            except ValueError as error:
                self._document.problem((*self.path, key, index), f"found {self._shown(item)}; {error}")
                continue
            good.append(item)
        return tuple(good)

    def value(self, key: str, default: T, read: Callable[[object], T]) -> T:
        """Any value as ``read`` gives it back; ``read`` raises ``ValueError`` saying what is accepted."""
        value = self._take(key)
        if value is _MISSING:
            return default
        try:
            return read(value)
        except ValueError as error:
            return self._refuse(key, value, str(error), default)

    def table(self, key: str, *, secret: bool = False) -> Table | None:
        """A table inside this one, or ``None`` where there is none."""
        value = self._take(key)
        if value is _MISSING:
            return None
        path = (*self.path, key)
        if not isinstance(value, dict):
            heading = f"[{key_text(path)}]"
            return self._refuse(key, value, f"accepted is a table: {heading} and its keys below", None)
        return Table(self._document, path, value, secret=secret)

    def finish(self, hints: Mapping[str, str] = {}) -> None:
        """Note every key that was never asked for. ``hints`` has texts for keys that others use."""
        for key in self._values:
            if key in self._known:
                continue
            close = _close(key, self._known)
            if key in hints:
                text = f"unknown key; {hints[key]}"
            elif close:
                text = f"unknown key; did you mean {close[0]!r}? Accepted are {', '.join(self._known)}"
            else:
                text = f"unknown key; accepted are {', '.join(self._known)}"
            self.problem(key, text)

    def _take(self, key: str) -> object:
        self._known.append(key)
        return self._values.get(key, _MISSING)

    def _refuse(self, key: str, value: object, text: str, default: T) -> T:
        self.problem(key, f"found {self._shown(value)}; {text}")
        return default

    def _shown(self, value: object) -> str:
        kind = _kind(value)
        if self._secret or kind in {"a table", "an array"}:
            return kind
        text = str(value).lower() if isinstance(value, bool) else _CREDENTIALS.sub("//***@", repr(value))
        if isinstance(value, date | time):
            text = str(value)
        if len(text) > _SHOWN_LENGTH:
            text = f"{text[:_SHOWN_LENGTH]}…"
        return f"{text} ({kind})"


def key_text(path: KeyPath) -> str:
    """A key path as one writes it in TOML: ``sections.home.exclude[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if _BARE_KEY.fullmatch(part) else repr(part))
    return text


def _kind(value: object) -> str:
    match value:
        case bool():
            return "a truth value"
        case str():
            return "a string"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _close(key: str, known: Sequence[str]) -> list[str]:
    """The known key that is nearly this one: a slip of the finger, or - for _."""
    import difflib

    return difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1, cutoff=0.7)
