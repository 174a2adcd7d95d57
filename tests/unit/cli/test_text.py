"""Names on a terminal: harmless, and still to be told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.format.escape import unescape
from asyncbackup.text import local_path, terminal_path, terminal_text

names = st.binary(min_size=1, max_size=40).map(lambda name: name.replace(b"\0", b"_"))


@given(names)
def test_a_path_is_printable_and_comes_back(path: bytes) -> None:
    shown = terminal_path(path)
    assert shown.isprintable()
    assert unescape(shown) == path


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"", "."),
        (b"docs/report.pdf", "docs/report.pdf"),
        ("Größe/日本".encode(), "Größe/日本"),
        (b"a\x1b[31m", "a%1B[31m"),
        ("a\u202eb".encode(), "a%E2%80%AEb"),
        ("a\u2028b".encode(), "a%E2%80%A8b"),
        (b"\xff", "%FF"),
        (b"100%", "100%"),
        (b"%41", "%2541"),
    ],
)
def test_what_is_shown(path: bytes, shown: str) -> None:
    assert terminal_path(path) == shown


def test_other_text() -> None:
    assert terminal_text("plain – text") == "plain – text"
    assert terminal_text("a\nb\tc\x1b\u202e\ud800") == "a\\x0ab\\x09c\\x1b\\u202e\\ud800"
    assert terminal_text("a\nb\tc\x07", keep_newlines=True) == "a\nb\tc\\x07"
    assert local_path(Path("/srv/a\x1bb")) == "/srv/a%1Bb"
