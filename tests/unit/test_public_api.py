"""The flat API: every name is there, and nothing heavy is loaded before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import asyncbackup

HEAVY = {
    "aiobotocore",
    "aiohttp",
    "aiosqlite",
    "botocore",
    "cryptography",
    "rich",
    "sqlite3",
    "uvloop",
    "zstandard",
}


def loaded_by(code: str) -> set[str]:
    """The modules of ``HEAVY`` that a fresh interpreter has loaded after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("name", asyncbackup.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(asyncbackup, name) is not None


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'gather'"):
        _ = asyncbackup.gather  # type: ignore[attr-defined]
    assert dir(asyncbackup) == sorted(asyncbackup.__all__)


@pytest.mark.parametrize(
    "code",
    [
        "import asyncbackup",
        "from asyncbackup.cli.app import main; assert main(['--version']) == 0",
        "from asyncbackup.cli.app import main; assert main(['--help']) == 0",
        "from asyncbackup.cli.app import main; assert main(['run', '--help']) == 0",
        "from asyncbackup.cli.app import main; assert main(['-c', '/none', 'run']) == 2",
    ],
)
def test_nothing_heavy_is_loaded_too_early(code: str) -> None:
    assert loaded_by(code) == set()


def test_a_configuration_is_read_without_the_engine() -> None:
    assert loaded_by("import asyncbackup; asyncbackup.load_settings, asyncbackup.Settings") == set()
