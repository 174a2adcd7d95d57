"""Mistakes on the command line: the exit code, one clear line, and JSON where JSON was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import asyncbackup

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

COMMANDS = ["initdb", "run", "restore", "list_remote", "snapshots", "stats", "verify", "syncdb_remote"]
WITH_ARGUMENTS = ["diff", "find"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["frobnicate"], "there is no command 'frobnicate'; 'asyncbackup --help' lists them"),
        (["rnu"], "did you mean 'run'?"),
        (["list-remot"], "did you mean 'list_remote'?"),
        (["key", "lits"], "there is no command 'lits'; did you mean 'list'?"),
        (["key", "xyz"], "there is no command 'xyz'; 'asyncbackup key --help' lists them"),
        (["key", "add", "home"], "there is no terminal to ask for the new pass phrase"),
        (["key", "remove"], "the id of a key slot is missing"),
        (["key", "remove", "0"], "name the section: home, work"),
        (["key", "remove", "hom", "0"], "there is no section 'hom'; did you mean 'home'?"),
        (["key", "rotate", "home", "--new-passphrase-env", "a b"], "not its value"),
        (["key", "add", "--new-key-file", "k", "--new-passphrase-env", "V"], "exclude each other"),
        (["key", "add", "home", "--new-passphrase-file", "/none"], "cannot read /none"),
        (["key", "add", "home", "--label", "x" * 101, "--new-key-file", "k"], "at most 100 printable"),
        (["--verbose", "run", "--quiet"], "--verbose and --quiet exclude each other"),
        (["run", "--frobnicate"], "No such option '--frobnicate'"),
        (["run", "--concurrency", "0"], "'0' is no whole number from 1 to 1024, nor 'auto'"),
        (["run", "--concurrency", "many"], "'many' is no whole number from 1 to 1024"),
        (["run", "--path", "/a"], "--to is missing"),
        (["run", "--to", "s3://bucket"], "--path is missing"),
        (["run", "a", "--path", "/a", "--to", "s3://bucket"], "--section a calls it so"),
        (["run", "--path", "/a", "--to", "/b"], "did you mean 'file:///b'?"),
        (["run", "--section", "a b", "--path", "/a", "--to", "s3://bucket"], "section name 'a b'"),
        (["run", "--section", "a"], "--path is missing"),
        (["run", "hom"], "there is no section 'hom'; did you mean 'home'?"),
        (["stats", "one", "two"], "unexpected extra argument"),
        (["restore", "--overwrite", "maybe"], "'maybe' is not one of"),
        (["verify", "--read-data=0"], "over 0 and up to 100"),
        (["verify", "--read-data=many"], "over 0 and up to 100"),
        (["-c", "/does/not/exist.toml", "run"], "No such file or directory"),
    ],
)
def test_a_mistake(cli: Cli, arguments: list[str], part: str) -> None:
    cli.section("home")
    cli.section("work")
    done = cli.run(*arguments)
    assert done.code == 2
    assert done.stdout == ""
    assert part in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("asyncbackup: error: ")
    as_json = cli.run(*arguments, "--json")
    assert as_json.code == 2
    assert [event["event"] for event in as_json.events] == ["error"]
    assert as_json.events[0]["code"] == 2
    assert part in str(as_json.events[0]["message"])


def test_no_configuration(cli: Cli) -> None:
    done = cli.run("run")
    assert done.code == 2
    assert "there is no configuration" in done.stderr
    assert "--path DIR --to URL" in done.stderr


def test_every_problem_of_a_configuration_is_a_line_and_an_event(cli: Cli) -> None:
    file = cli.configure('concurency = 1\n[sections.home]\npath = "/a"\n')
    done = cli.run("run", "--json")
    assert done.code == 2
    lines = done.stderr.splitlines()
    assert [line.split(": ")[2] for line in lines] == [f"{file.name}, line 1", f"{file.name}, line 2"]
    assert [event["event"] for event in done.events] == ["error", "error"]


def test_the_configuration_named_by_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCBACKUP_CONFIG", "/named/nowhere.toml")
    done = cli.run("run")
    assert done.code == 2
    assert "/named/nowhere.toml" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_a_section_to_work_on(cli: Cli, command: str) -> None:
    done = cli.run(command)
    assert done.code == 2
    assert "there is no configuration" in done.stderr


def test_version(cli: Cli) -> None:
    done = cli.run("--version")
    assert (done.code, done.stdout) == (0, f"asyncbackup {asyncbackup.__version__}\n")


def test_help_lists_every_command_and_exit_code(cli: Cli) -> None:
    done = cli.run("--help")
    assert done.code == 0
    for word in (
        *COMMANDS,
        *WITH_ARGUMENTS,
        "backup",
        "ls",
        "Examples:",
        "Exit codes:",
        "130",
        "--json",
        "Maintain:",
    ):
        assert word in done.stdout


@pytest.mark.parametrize("command", [*COMMANDS, "backup", "ls", "list-remote", "syncdb-remote"])
def test_help_of_every_command(cli: Cli, command: str) -> None:
    done = cli.run(command, "--help")
    assert done.code == 0
    for word in (
        "Usage: asyncbackup ",
        "Examples:",
        "Exit codes:",
        "Global options:",
        "--json",
        "--path DIR",
    ):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_no_command_shows_the_help(cli: Cli) -> None:
    done = cli.run()
    assert done.code == 2
    assert "Usage: asyncbackup" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [[], ["key"]])
def test_without_a_command_the_help_is_shown(cli: Cli, arguments: list[str]) -> None:
    done = cli.run(*arguments)
    assert done.code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"Usage: {' '.join(['asyncbackup', *arguments])} ")
    assert "Exit codes:\n" in done.stderr
    as_json = cli.run("--json", "key")
    assert as_json.code == 2
    assert [event["message"] for event in as_json.events] == [
        "there is no command; see 'asyncbackup key --help'"
    ]


@pytest.mark.parametrize("command", ["list", "add", "remove", "rotate"])
def test_help_of_every_key_command(cli: Cli, command: str) -> None:
    done = cli.run("key", command, "--help")
    assert done.code == 0
    for word in (f"Usage: asyncbackup key {command} ", "Examples:", "Exit codes:", "--json"):
        assert word in done.stdout
