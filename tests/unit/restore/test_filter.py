"""Which entries a restore takes, and what it says of paths that do not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncbackup.errors import ConfigError
from asyncbackup.model import Entry
from asyncbackup.restore.filter import Choice, EntryFilter
from tests.unit.restore.backup import file_entry, folder_entry

ROOT = Path("/home/me")
TREE = [
    folder_entry(""),
    folder_entry("docs"),
    file_entry("docs-old"),
    file_entry("docs/a.txt"),
    folder_entry("docs/deep"),
    file_entry("docs/deep/b.txt"),
    file_entry("docs/deep/c.tmp"),
    folder_entry("src"),
    file_entry("src/main.py"),
]


def chosen(
    *paths: bytes, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> tuple[set[str], set[str]]:
    """What is selected of ``TREE``, and which folders are candidates."""
    filter_ = EntryFilter(paths=paths, include=include, exclude=exclude, root=ROOT)
    by_choice: dict[Choice, set[str]] = {choice: set() for choice in Choice}
    for entry in TREE:
        by_choice[filter_.choose(entry)].add(entry.path.decode())
    return by_choice[Choice.SELECTED], by_choice[Choice.CANDIDATE]


ALL = {entry.path.decode() for entry in TREE}


@pytest.mark.parametrize("path", [b"", b".", b"./", b"/home/me", b"/home/me/", b"docs/.."])
def test_the_root_and_nothing_mean_everything(path: bytes) -> None:
    assert chosen() == (ALL, set())
    assert chosen(path) == (ALL, set())


@pytest.mark.parametrize("path", [b"docs", b"docs/", b"./docs", b"/home/me/docs", b"src/../docs//"])
def test_a_folder_takes_what_lies_below_and_nothing_beside(path: bytes) -> None:
    below = {"docs", "docs/a.txt", "docs/deep", "docs/deep/b.txt", "docs/deep/c.tmp"}
    assert chosen(path) == (below, {""})


def test_a_file_takes_only_itself_and_its_folders_are_candidates() -> None:
    assert chosen(b"docs/deep/b.txt") == ({"docs/deep/b.txt"}, {"", "docs", "docs/deep"})


def test_include_takes_matches_anywhere_and_whole_folders() -> None:
    selected, candidates = chosen(include=("*.txt",))
    assert selected == {"docs/a.txt", "docs/deep/b.txt"}
    assert candidates == {"", "docs", "docs/deep", "src"}
    assert chosen(include=("deep/",))[0] == {"docs/deep", "docs/deep/b.txt", "docs/deep/c.tmp"}


def test_exclude_wins_over_include_and_paths() -> None:
    assert chosen(exclude=("*.tmp", "src/"))[0] == ALL - {"docs/deep/c.tmp", "src", "src/main.py"}
    selected, _ = chosen(b"docs", include=("deep/",), exclude=("*.tmp",))
    assert selected == {"docs/deep", "docs/deep/b.txt"}


def test_an_anchored_pattern_is_relative_to_the_root() -> None:
    assert chosen(include=("/docs/*.txt",))[0] == {"docs/a.txt"}


def test_paths_are_bytes_and_need_not_be_utf8() -> None:
    filter_ = EntryFilter(paths=[b"\xff"], include=(), exclude=("*.tmp",), root=ROOT)
    assert filter_.choose(_file(b"\xff")) is Choice.SELECTED
    assert filter_.choose(_file(b"\xfe")) is Choice.OUT


@pytest.mark.parametrize("path", [b"..", b"../me", b"/etc/passwd", b"/home/me2", b"/home", b"docs/../../x"])
def test_a_path_outside_the_section_is_refused(path: bytes) -> None:
    with pytest.raises(ConfigError, match="section's path"):
        EntryFilter(paths=[path], include=(), exclude=(), root=ROOT)


def test_a_path_that_does_not_exist_is_named() -> None:
    filter_ = EntryFilter(paths=[b"docs", b"nope", b"doc"], include=(), exclude=(), root=ROOT)
    for entry in TREE:
        filter_.choose(entry)
    with pytest.raises(ConfigError, match="holds no 'doc', 'nope'"):
        filter_.check_matched(selected=5, snapshot="S", section="home")


def test_patterns_that_match_nothing_are_an_error() -> None:
    filter_ = EntryFilter(paths=[], include=("*.nothing",), exclude=(), root=ROOT)
    with pytest.raises(ConfigError, match="matches the given --include"):
        filter_.check_matched(selected=0, snapshot="S", section="home")


def test_an_empty_snapshot_is_no_error() -> None:
    filter_ = EntryFilter(paths=[], include=(), exclude=(), root=ROOT)
    filter_.check_matched(selected=0, snapshot="S", section="home")


def test_a_malformed_pattern_is_named_with_its_option() -> None:
    with pytest.raises(ConfigError, match="--exclude"):
        EntryFilter(paths=[], include=(), exclude=("!",), root=ROOT)


def _file(path: bytes) -> Entry:
    template = file_entry("x")
    return Entry(path=path, kind=template.kind, mode=template.mode)
