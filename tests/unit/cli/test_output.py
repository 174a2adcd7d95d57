"""What goes to stdout gets there whole, however little of it stdout takes at once."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.cli.output import Output

if TYPE_CHECKING:
    import pytest


class Reluctant(io.RawIOBase):
    """A pipe without a buffer, whose writes are cut short: 7 bytes each."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        piece = bytes(memoryview(data)[:7])  # type: ignore[arg-type]
        self.taken += piece
        return len(piece)


def unbuffered_stdout(monkeypatch: pytest.MonkeyPatch) -> Reluctant:
    """What ``PYTHONUNBUFFERED`` makes of stdout. Not a fixture, since pytest sets its own before the test."""
    raw = Reluctant()
    unbuffered = io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", write_through=True)  # type: ignore[type-var]
    monkeypatch.setattr(sys, "stdout", unbuffered)
    return raw


def test_every_event_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = unbuffered_stdout(monkeypatch)
    Output(json=True, quiet=False).events({"event": "entry", "number": number} for number in range(100))
    lines = stdout.taken.splitlines()
    assert [msgspec.json.decode(line)["number"] for line in lines] == list(range(100))


def test_every_line_for_people_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = unbuffered_stdout(monkeypatch)
    Output(json=False, quiet=False).result("first \u00e9 \udcff", "second")
    assert stdout.taken == b"first \xc3\xa9 \xff\nsecond\n"
