"""Exclude patterns: gitignore's rules, for names of any bytes."""

from __future__ import annotations

import pytest

from asyncbackup.errors import ConfigError
from asyncbackup.excludes import compile_excludes


@pytest.mark.parametrize(
    ("patterns", "path", "is_folder", "expected"),
    [
        ([], b"anything", False, False),
        (["*.tmp"], b"x.tmp", False, True),
        (["*.tmp"], b"a/b/x.tmp", False, True),
        (["*.tmp"], b"x.tmp.txt", False, False),
        (["cache/"], b"cache", True, True),
        (["cache/"], b"cache", False, False),
        (["cache/"], b"a/cache", True, True),
        (["/cache"], b"a/cache", True, False),
        (["/cache"], b"cache", True, True),
        (["a/b"], b"a/b", False, True),
        (["a/b"], b"x/a/b", False, False),
        (["**/b"], b"x/a/b", False, True),
        (["a/**/c"], b"a/x/y/c", False, True),
        (["d/*"], b"d", True, False),
        (["d/*"], b"d/x", False, True),
        (["*.tmp", "!keep.tmp"], b"keep.tmp", False, False),
        (["!keep.tmp", "*.tmp"], b"keep.tmp", False, True),
        (["#comment"], b"#comment", False, False),
        ([r"\#name"], b"#name", False, True),
        ([r"a\*b"], b"a*b", False, True),
        ([r"a\*b"], b"axb", False, False),
        (["[ab]?"], b"bx", False, True),
        (["café"], "café".encode(), False, True),
        (["café"], "cafe\u0301".encode(), False, False),
        (["*.tmp"], b"\xff\xfe.tmp", False, True),
        (["*"], b"\xff", False, True),
        (["*.tmp"], b"new\nline/x.tmp", False, True),
        (["*.tmp"], b"x.tmp\n", False, False),
        (["cache/"], b"a\nb/cache", True, True),
        (["a*b"], b"a\nb", False, True),
    ],
)
def test_as_git_does(patterns: list[str], path: bytes, is_folder: bool, expected: bool) -> None:
    assert compile_excludes(patterns, section="home")(path, is_folder) is expected


def test_a_pattern_that_cannot_be_is_named() -> None:
    with pytest.raises(ConfigError, match=r"section 'home': exclude pattern '!'"):
        compile_excludes(["*.tmp", "!"], section="home")
