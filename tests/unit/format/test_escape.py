from __future__ import annotations

import timeit

import pytest

from asyncbackup.errors import FormatError
from asyncbackup.format.escape import escape_name, escape_path, unescape
from tests.unit.format.vectors import load

CASES = load("escape")


@pytest.mark.parametrize("case", CASES, ids=[case["escaped"] for case in CASES])
def test_vectors(case: dict[str, str]) -> None:
    raw = bytes.fromhex(case["bytes"])
    assert escape_path(raw) == case["escaped"]
    assert unescape(case["escaped"]) == raw


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("report.pdf", "100% sure", "a&b;c|d $(x) 'q' \"r\" ~", "Ünïcödé", "日本語", "😀", "a:b*c?"):
        assert escape_name(name.encode()) == name


def test_segments_are_judged_one_by_one() -> None:
    decomposed = "e\u0301".encode()
    composed = "\u00e9".encode()
    assert escape_path(decomposed + b"/" + composed) == "e%CC%81/\u00e9"


def test_invisible_but_harmless_characters_stay() -> None:
    for character in ("\u00a0", "\u200d", "\u2028", "\u202e", "\ufeff", "\U000e0001"):
        text = f"a{character}b"
        assert escape_name(text.encode()) == text


def test_hex_digits_of_either_case_are_read() -> None:
    assert unescape("%ff%FF%aB") == b"\xff\xff\xab"


@pytest.mark.parametrize("text", ["%", "%%", "%4", "%4g", "%g4", "100%", "%é1"])
def test_what_is_no_escape_is_kept(text: str) -> None:
    assert unescape(text) == text.encode()


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(FormatError, match="surrogate"):
        unescape("a\udc80")


def test_plain_names_take_a_short_way() -> None:
    """Escaping runs once a file: what needs none must not pay for those that do."""
    plain = b"projects/asyncbackup/tests/unit/format/report-2026.pdf"
    special = plain.replace(b"-", b"\\")

    def cost(path: bytes) -> float:
        return min(timeit.repeat(lambda: escape_path(path), number=2000, repeat=9))

    assert cost(plain) < cost(special) / 3
