"""Shell patterns of ``find``."""

from __future__ import annotations

import pytest

from asyncbackup.errors import ConfigError
from asyncbackup.repository.glob import compile_glob


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*.pdf", [b"a.pdf", b"docs/deep/a.pdf", b".pdf"], [b"a.pdf/x", b"a.PDF", b"a.pdf2"]),
        ("report", [b"report", b"docs/report"], [b"report/a", b"reports"]),
        ("f?.txt", [b"f1.txt", "fé.txt".encode(), b"f\xff.txt"], [b"f.txt", b"f12.txt"]),
        ("f[0-3a].txt", [b"f0.txt", b"d/f3.txt", b"fa.txt"], [b"f4.txt", b"f-.txt"]),
        ("f[!0-3].txt", [b"f4.txt", b"fx.txt"], [b"f0.txt", b"f.txt"]),
        ("f[]x].txt", [b"f].txt", b"fx.txt"], [b"f[.txt"]),
        ("f[^x]", [b"f^", b"fx"], [b"fy"]),
        ("f[x", [b"f[x"], [b"fx"]),
        (r"a\*b", [b"a*b"], [b"axb"]),
        ("a.b", [b"a.b"], [b"axb"]),
        ("docs/*.pdf", [b"docs/a.pdf"], [b"a.pdf", b"docs/deep/a.pdf", b"my/docs/a.pdf"]),
        ("/report", [b"report"], [b"docs/report"]),
        ("docs/", [b"docs", b"my/docs"], [b"docs/a"]),
        ("/docs/", [b"docs"], [b"my/docs"]),
        ("**/a", [b"a", b"x/a", b"x/y/a"], [b"xa", b"x/a/b"]),
        ("docs/**/a", [b"docs/a", b"docs/x/a", b"docs/x/y/a"], [b"docsx/a", b"a", b"docs/xa"]),
        ("docs/**", [b"docs/a", b"docs/a/b"], [b"docs", b"doc/a"]),
        ("a**b", [b"ab", b"axxb"], [b"a/b"]),
        ("*", [b"a", b"a\nb", b"d/\xff"], [b""]),
    ],
)
def test_what_a_pattern_matches(pattern: str, matching: list[bytes], other: list[bytes]) -> None:
    matches = compile_glob(pattern)
    assert [path for path in matching if not matches(path)] == []
    assert [path for path in other if matches(path)] == []


def test_case_counts_unless_it_is_ignored() -> None:
    assert not compile_glob("REPORT*")(b"docs/report.pdf")
    assert compile_glob("REPORT*", ignore_case=True)(b"docs/report.pdf")
    assert compile_glob("äpfel", ignore_case=True)("ÄPFEL".encode())


@pytest.mark.parametrize("pattern", ["", "/", "//", "a//b", "a\\", "[z-a]"])
def test_patterns_that_can_match_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        compile_glob(pattern)
