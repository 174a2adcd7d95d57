"""The command line as tests use it: in this process for speed, or as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.cli.app import main

if TYPE_CHECKING:
    from collections.abc import Iterator


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a command line ended, and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, object]]:
        """Every line of stdout as JSON; a line that is none fails the test."""
        assert self.stdout == "" or self.stdout.endswith("\n")
        return [msgspec.json.decode(line, type=dict[str, object]) for line in self.stdout.splitlines()]

    @property
    def summary(self) -> dict[str, object]:
        """The last event, which has to be a summary."""
        assert self.events[-1]["event"] == "summary"
        return self.events[-1]


class Cli:
    """Runs commands in ``folder``, where ``asyncbackup.toml`` may lie."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[bytes]) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self._capture = capture

    def configure(self, text: str) -> Path:
        """Write the configuration."""
        file = self.folder / "asyncbackup.toml"
        file.write_text(text)
        return file

    def section(self, name: str = "home", *, extra: str = "", destination: str | None = None) -> None:
        """Add a section that saves the tree to a folder."""
        destination = destination or f"file://{self.folder}/destination"
        file = self.folder / "asyncbackup.toml"
        earlier = file.read_text() if file.exists() else 'state_dir = "state"\n'
        file.write_text(
            f'{earlier}[sections.{name}]\npath = "tree"\ndestination = "{destination}"\n{extra}\n'
        )

    def run(self, *arguments: str) -> Finished:
        """Run one command line in this process."""
        self._capture.readouterr()
        code = main(arguments)
        out, err = self._capture.readouterr()
        return Finished(code=code, stdout=out.decode(), stderr=err.decode())

    async def start(self, *arguments: str, stdin: int | None = None) -> asyncio.subprocess.Process:
        """Start one command line as a process of its own, its output to be read from pipes.

        ``stdin`` is a descriptor for its input; no other terminal is within its reach then.
        """
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "asyncbackup",
            *arguments,
            cwd=self.folder,
            env=os.environ | {"PYTHONWARNINGS": "error"},
            stdin=stdin,
            start_new_session=stdin is not None,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Cli]:
    """A folder of its own with a small tree, the current one; no configuration of the user's is seen."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("HOME", tmp_path), ("XDG_CONFIG_HOME", tmp_path / "config")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "default-state"))
    monkeypatch.delenv("ASYNCBACKUP_CONFIG", raising=False)
    tree = tmp_path / "tree"
    (tree / "docs").mkdir(parents=True)
    (tree / "docs" / "report.txt").write_text("a report\n")
    (tree / "empty").touch()
    (tree / "link").symlink_to("docs/report.txt")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Cli(tmp_path, capsysbinary)
    root.handlers[:] = handlers
    root.setLevel(level)
