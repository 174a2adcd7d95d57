"""On which line of a TOML document each key stands; ``tomllib`` does not tell.

The scanner relies on ``tomllib`` having accepted the document, so it only has
to tell keys from values, not right from wrong.
"""

from __future__ import annotations

import re
import tomllib

KeyPath = tuple[str | int, ...]
"""Keys from the top to the value; elements of arrays by index."""

_BLANK = re.compile(r"[ \t\r\n]+|#[^\n]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?!")|' + r"'''.*?'''(?!')|" + r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, counted from 1, of every key, table header and array element of a valid document."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._arrays_of_tables: dict[KeyPath, int] = {}
        self.lines: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip_blank():
            if self._text.startswith("[[", self._at):
                table = self._table_of_array()
            elif self._text[self._at] == "[":
                table = self._table()
            else:
                self._pair(table)

    def _table(self) -> KeyPath:
        line = self._line()
        self._at += 1
        table = self._in_arrays(self._key())
        self._note(table, line)
        self._skip_blank()
        self._at += 1  # ]
        return table

    def _table_of_array(self) -> KeyPath:
        line = self._line()
        self._at += 2
        array = self._in_arrays(self._key(), but_last=True)
        index = self._arrays_of_tables.get(array, -1) + 1
        self._arrays_of_tables[array] = index
        self._note((*array, index), line)
        self._skip_blank()
        self._at += 2  # ]]
        return (*array, index)

    def _in_arrays(self, key: KeyPath, *, but_last: bool = False) -> KeyPath:
        """A header below an array of tables means its latest element."""
        path: KeyPath = ()
        for position, part in enumerate(key):
            path = (*path, part)
            if path in self._arrays_of_tables and not (but_last and position == len(key) - 1):
                path = (*path, self._arrays_of_tables[path])
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = (*table, *self._key())
        self._note(path, line)
        self._skip_blank()
        self._at += 1  # =
        self._skip_blank()
        self._value(path)

    def _key(self) -> KeyPath:
        parts: list[str] = []
        while True:
            self._skip_blank()
            if bare := _BARE_KEY.match(self._text, self._at):
                parts.append(bare[0])
                self._at = bare.end()
            else:
                parts.append(self._string())
            self._skip_blank()
            if self._text[self._at] != ".":
                return tuple(parts)
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        character = self._text[self._at]
        if character in "\"'":
            self._string_end()
        elif character == "[":
            self._items(path, "]")
        elif character == "{":
            self._items(path, "}")
        else:
            scalar = _SCALAR.match(self._text, self._at)
            self._at = scalar.end() if scalar else self._at + 1

    def _items(self, path: KeyPath, closing: str) -> None:
        """The elements of an array, or the pairs of an inline table."""
        self._at += 1
        index = 0
        while self._skip_blank() and self._text[self._at] != closing:
            if self._text[self._at] == ",":
                self._at += 1
            elif closing == "}":
                self._pair(path)
            else:
                self._note((*path, index), self._line())
                self._value((*path, index))
                index += 1
        self._at += 1

    def _string(self) -> str:
        start = self._at
        self._string_end()
        # TOML's own rules for escapes, applied by the one who knows them.
        value = tomllib.loads(f"key = {self._text[start : self._at]}")["key"]
        return str(value)

    def _string_end(self) -> None:
        string = _STRING.match(self._text, self._at)
        self._at = string.end() if string else self._at + 1

    def _skip_blank(self) -> bool:
        """Move on to the next thing that is neither space nor comment; ``False`` at the end."""
        while blank := _BLANK.match(self._text, self._at):
            self._at = blank.end()
        return self._at < len(self._text)

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _note(self, path: KeyPath, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)
